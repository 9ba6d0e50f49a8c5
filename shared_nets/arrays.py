"""Tensors and arrays alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def as_array(values: Any) -> NDArray[Any]:
    """An array of a tensor on any device, or of anything else that NumPy reads."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)

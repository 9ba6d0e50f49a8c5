"""What an affine says of its voxels."""

from __future__ import annotations

from typing import Any

import numpy as np


def voxel_ml(affine: Any) -> float:
    """
    Volume of one voxel in mL, sheared or not.

    Args:
        affine: 4×4 array or tensor on the CPU, voxel to mm.
    """
    return abs(float(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3]))) / 1000

"""
Weights and inputs of the X-Net oracle, by formula: numpy's PCG64 draws every array from its own seed.

The authors' unmodified Keras model (github.com/Andrewsher/X-Net, commit daf3cd9) was filled with these
weights and run on these inputs; ``outputs.npz`` holds what it gave, ``arrays.csv`` the layer, role, kind
and shape of every array in the order of its ``get_weights()``. In the npz, arrays are (N, H, W, channels):
``*_prob`` float32, ``*_logit`` and ``fsm_out`` computed in float64 and rounded; ``full_*`` for the first
of the two 224×192 slices, ``small_*`` for both 64×64 slices, ``fsm_out`` (the FSM alone) every fourth
channel.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).parent
# Keep the un-normalised FSM, cubic in its input, from saturating the sigmoid and so hiding errors.
GAINS = {"res.conv": 0.7, "sep3.pw": 0.7, "fsm.theta": 0.18, "fsm.phi": 0.18, "fsm.g": 0.18, "head": 0.5}


class Weight(NamedTuple):
    """One array of the Keras model, in its place of ``get_weights()``."""

    layer: str
    role: str
    kind: str
    values: np.ndarray


def keras_weights() -> list[Weight]:
    """The 393 arrays in the order and layouts of ``get_weights()``."""
    with open(FOLDER / "arrays.csv", newline="") as file:
        return [
            Weight(row["layer"], row["role"], row["kind"], draw(index, row))
            for index, row in enumerate(csv.DictReader(file))
        ]


def draw(index: int, row: dict[str, str]) -> np.ndarray:
    """Array ``index``: normal values, scaled by what the array is."""
    shape = tuple(int(size) for size in row["shape"].split("x"))
    normal = np.random.Generator(np.random.PCG64(1000 + index)).standard_normal(shape)
    match row["kind"]:
        case "conv":
            gain = next((gain for end, gain in GAINS.items() if row["role"].endswith(end)), 1.0)
            values = normal * math.sqrt(2.0 / math.prod(shape[:3])) * gain
        case "depthwise":
            values = normal * math.sqrt(2.0 / math.prod(shape[:2]))
        case "bias":
            values = 0.05 * normal
        case "bn_gamma":
            values = 1.0 + 0.1 * normal
        case "bn_beta" | "bn_mean":
            values = 0.1 * normal
        case "bn_var":
            values = np.exp(0.1 * normal)
    return values.astype(np.float32)


def slices(height: int, width: int) -> np.ndarray:
    """Two slices (2, height, width, 1)."""
    return np.random.Generator(np.random.PCG64(7)).random((2, height, width, 1)).astype(np.float32)


def fsm_maps() -> np.ndarray:
    """Two feature maps (2, 14, 12, 1024)."""
    return np.random.Generator(np.random.PCG64(8)).random((2, 14, 12, 1024)).astype(np.float32)


def outputs() -> dict[str, np.ndarray]:
    """What the Keras model gave."""
    with np.load(FOLDER / "outputs.npz") as file:
        return dict(file)

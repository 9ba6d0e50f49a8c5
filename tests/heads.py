"""Small heads with a lesion, as files: enough like scans to be read, segmented and learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (32, 32, 12)
VOXEL_MM = (6.0, 6.0, 6.0)
# What a lesion does to the intensity around it.
LESION = {"T1w": 0.3, "DWI": 2.5, "FLAIR": 2.0}

# The bundles' settings that make a run on such heads take seconds; random weights are nowhere sure.
SMALL = {"spacing": [6.0, 6.0, -1.0], "window": [32, 32], "backend": "torch", "peak_threshold": 0.0}


def affine(mm: Sequence[float] = VOXEL_MM, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """RAS, the middle of the volume at 0 mm."""
    matrix = np.diag([*mm, 1.0])
    matrix[:3, 3] = -np.array(mm) * (np.array(shape) - 1) / 2
    return matrix


def oblique(matrix: np.ndarray, degrees: float = 20.0, origin: Sequence[float] | None = None) -> np.ndarray:
    """An affine turned about x, then about z: axes that point nowhere exactly; its origin too, if given."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x, about_z = np.eye(4), np.eye(4)
    about_x[1:3, 1:3] = about_z[:2, :2] = [[c, -s], [s, c]]
    turned = about_z @ about_x @ matrix
    if origin is not None:
        turned[:3, 3] = origin
    return turned


def lesion_mask(number: int, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """A ball (in voxels of the slices, flatter across) in the left or right half, uint8, by the number."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    centre = np.array([0.33 if number % 2 else 0.65, 0.4 + 0.06 * (number % 4), 0.5]) * shape
    inside = ((x - centre[0]) / 4) ** 2 + ((y - centre[1]) / 4) ** 2 + ((z - centre[2]) / 3) ** 2 <= 1
    return inside.astype(np.uint8)


def dice(found: Any, truth: Any) -> float:
    """Dice of two masks, arrays or tensors; where they are above 0."""
    found, truth = np.asarray(found) > 0, np.asarray(truth) > 0
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def head(modality: str, mask: np.ndarray, seed: int) -> np.ndarray:
    """An ellipsoid of uneven brightness in dark air, float32, the lesion darker (T1) or brighter."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in mask.shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.8
    image = np.where(inside, 100 * (1 + 0.4 * grid[0]), 0) * np.where(mask, LESION[modality], 1)
    return (image + inside * rng.normal(0, 4, mask.shape)).astype(np.float32)


def write(path: Path, array: np.ndarray, matrix: np.ndarray | None = None) -> Path:
    """A NIfTI file in millimetres."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine(shape=array.shape) if matrix is None else matrix)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def write_tree(root: Path, modalities: Sequence[str], cases: int = 5) -> Path:
    """
    A Decathlon / nnU-Net tree: ``imagesTr``, ``labelsTr`` and, of the first two heads, ``imagesTs``.

    One modality is ``case1.nii.gz``, several are ``case1_0000.nii.gz``, ``case1_0001.nii.gz``.
    """
    for number in range(1, cases + 1):
        mask = lesion_mask(number)
        write(root / "labelsTr" / f"case{number}.nii.gz", mask)
        for channel, modality in enumerate(modalities):
            name = f"case{number}" + (f"_{channel:04d}" if len(modalities) > 1 else "") + ".nii.gz"
            write(root / "imagesTr" / name, head(modality, mask, seed=number))
            if number <= 2:
                write(root / "imagesTs" / name, head(modality, mask, seed=number))
    return root

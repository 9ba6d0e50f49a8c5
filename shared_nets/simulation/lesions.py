"""Lesion shapes for simulation: real stroke masks in MNI space, and procedural ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from shared_nets.simulation.fields import rotation_matrix, sample, smooth_field

# Larger masks are errors of registration or of drawing, not strokes.
MAX_VOLUME_ML = 400.0


@dataclass
class LesionShape:
    """
    A lesion mask in MNI space.

    Attributes:
        mask: ``(1, X, Y, Z)`` float32, 0 or 1, cropped to the lesion with a margin of zeros.
        affine: 4×4, voxel to mm.
        points: ``(n, 3)`` mm, some points inside the lesion, for choosing slices.
    """

    mask: Tensor
    affine: np.ndarray
    points: np.ndarray


def read_masks(paths: Iterable[str | Path], min_volume_ml: float = 0.05) -> list[LesionShape]:
    """
    Read real stroke masks that lie in MNI space.

    Args:
        paths: NIfTI masks; non-zero is lesion.
        min_volume_ml: smaller masks are left out, as are those over 400 mL.
    """
    shapes = []
    for path in paths:
        image = nib.load(path)
        mask = np.asarray(image.dataobj) > 0
        volume = mask.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000
        if min_volume_ml <= volume <= MAX_VOLUME_ML:
            shapes.append(_cropped(mask, image.affine))
    return shapes


def _cropped(mask: np.ndarray, affine: np.ndarray) -> LesionShape:
    voxels = np.argwhere(mask)
    low = voxels.min(0)
    cut = mask[tuple(slice(a, b + 1) for a, b in zip(low, voxels.max(0), strict=True))]
    cut = np.pad(cut, 1)
    shifted = affine.copy()
    shifted[:3, 3] = nib.affines.apply_affine(affine, low - 1)
    points = nib.affines.apply_affine(affine, voxels[:: max(1, len(voxels) // 200)])
    return LesionShape(torch.from_numpy(cut[None].astype(np.float32)), shifted, points)


def random_ellipsoid(rng: np.random.Generator, centre: np.ndarray) -> LesionShape:
    """
    A procedural lesion: an ellipsoid of log-normal volume, from lacunes of a few mm to several cm.

    Args:
        rng: source of randomness.
        centre: x, y, z in mm.
    """
    radius = np.clip(np.exp(rng.normal(np.log(6.0), 0.6)), 1.5, 30.0)
    radii = radius * np.exp(rng.normal(0, 0.25, 3))
    reach = int(np.ceil(radii.max())) + 1
    axis = np.arange(-reach, reach + 1)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    rotated = np.stack([x, y, z], -1) @ rotation_matrix(rng.uniform(0, 180, 3))
    mask = ((rotated / radii) ** 2).sum(-1) <= 1
    affine = np.eye(4)
    affine[:3, 3] = centre - reach
    return _cropped(mask, affine)


@dataclass
class PlacedLesion:
    """A shape moved to where it is painted: mirrored, turned, scaled and shifted."""

    shape: LesionShape
    to_shape: np.ndarray  # 4×4, mm of the head to mm of the shape's space
    raggedness_mm: float

    def points(self) -> np.ndarray:
        """Points inside the lesion, ``(n, 3)`` mm of the head."""
        return nib.affines.apply_affine(np.linalg.inv(self.to_shape), self.shape.points)

    def fraction(self, rng: np.random.Generator, coordinates: Tensor) -> Tensor:
        """How much of the lesion, 0–1 with a soft border, lies at ``coordinates`` ``(..., 3)`` in mm."""
        ragged = smooth_field(rng, coordinates, 9.0, 3) * self.raggedness_mm
        moved = coordinates + ragged.movedim(0, -1)
        matrix = torch.from_numpy(self.to_shape.astype(np.float32))
        return sample(self.shape.mask, self.shape.affine, moved @ matrix[:3, :3].T + matrix[:3, 3])[0]


def place(rng: np.random.Generator, shape: LesionShape) -> PlacedLesion:
    """Mirror a shape every second time, and turn, scale and shift it a little."""
    centre = shape.points.mean(0)
    linear = rotation_matrix(rng.uniform(-15, 15, 3)) @ np.diag(np.exp(rng.normal(0, 0.12, 3)))
    to_shape = np.eye(4)
    to_shape[:3, :3] = linear
    to_shape[:3, 3] = centre - linear @ (centre + rng.normal(0, 4.0, 3))
    if rng.random() < 0.5:
        to_shape = to_shape @ np.diag([-1.0, 1.0, 1.0, 1.0])
    return PlacedLesion(shape, to_shape, raggedness_mm=rng.uniform(0.3, 2.0))

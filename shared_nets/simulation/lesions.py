"""Lesion shapes for simulation: real stroke masks in MNI space, and procedural ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared_nets.affine import voxel_ml
from shared_nets.data.loading import read_mask
from shared_nets.errors import ScanGeometryError
from shared_nets.simulation.fields import rotation_matrix, sample, smooth_field

VOLUME_ML = (0.05, 400.0)
"""Masks outside are left out: less shows in no slice, more is an error of registration or of drawing."""
BRAIN_BOX_MM = ((-75.0, -112.0, -75.0), (75.0, 80.0, 90.0))
"""Corners of a box around the brain in MNI space: the ICBM152 brain with a few mm of margin."""


@dataclass(frozen=True)
class LesionShape:
    """
    A lesion mask in MNI space.

    Attributes:
        mask: ``(1, X, Y, Z)`` uint8, 0 or 1, cropped to the lesion with a margin of zeros.
        affine: 4×4, voxel to mm.
        points: ``(n, 3)`` mm, some points inside the lesion, for choosing slices.
    """

    mask: Tensor
    affine: NDArray[np.float64]
    points: NDArray[np.float64]

    @property
    def volume_ml(self) -> float:
        """Volume of the lesion in mL."""
        return float(self.mask.sum()) * voxel_ml(self.affine)


def read_masks(paths: Iterable[str | Path]) -> list[LesionShape]:
    """
    Read real stroke masks that lie in MNI space.

    Args:
        paths: NIfTI masks; what is not 0 is lesion. Masks under 0.05 mL or over 400 mL are left out.

    Raises:
        ScanGeometryError: if a lesion's centre lies outside the brain of MNI space.
        StrokeSegError: another subclass that tells what is wrong with a file.
    """
    shapes = (_read_shape(str(path)) for path in paths)
    return [shape for shape in shapes if shape is not None]


def _read_shape(path: str) -> LesionShape | None:
    """The shape of one mask, or None if its volume is not of a stroke that can be shown."""
    volume = read_mask(path)
    mask = volume.array[0] != 0
    volume_ml = mask.sum() * voxel_ml(volume.affine)
    if not VOLUME_ML[0] <= volume_ml <= VOLUME_ML[1]:
        return None
    shape = cropped(mask, volume.affine)
    centre = shape.points.mean(0)
    if (centre < BRAIN_BOX_MM[0]).any() or (centre > BRAIN_BOX_MM[1]).any():
        raise ScanGeometryError(
            f"{path} has its lesion around {', '.join(f'{c:.0f}' for c in centre)} mm, outside the brain of "
            f"MNI space: register the mask to MNI space."
        )
    return shape


def cropped(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> LesionShape:
    """The shape of a mask: its bounding box with one voxel of margin, and about 200 points."""
    voxels = np.argwhere(mask)
    low = voxels.min(0)
    box = np.pad(mask[tuple(slice(a, b + 1) for a, b in zip(low, voxels.max(0), strict=True))], 1)
    shifted = affine.copy()
    shifted[:3, 3] = nib.affines.apply_affine(affine, low - 1)
    points = nib.affines.apply_affine(affine, voxels[:: max(1, len(voxels) // 200)])
    return LesionShape(torch.from_numpy(box[None].astype(np.uint8)), shifted, points)


def random_ellipsoid(
    rng: np.random.Generator, centre: NDArray[np.float64], radius_mm: float | None = None
) -> LesionShape:
    """
    A procedural lesion: an ellipsoid in any direction.

    Args:
        rng: source of randomness.
        centre: x, y, z in mm.
        radius_mm: about its half axes; by default log-normal, from lacunes of a few mm to several cm.
    """
    if radius_mm is None:
        radius_mm = float(np.clip(np.exp(rng.normal(np.log(6.0), 0.6)), 1.5, 30.0))
    radii = radius_mm * np.exp(rng.normal(0, 0.25, 3))
    reach = int(np.ceil(radii.max())) + 1
    axis = np.arange(-reach, reach + 1)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    rotated = np.stack([x, y, z], -1) @ rotation_matrix(rng.uniform(0, 180, 3))
    mask = ((rotated / radii) ** 2).sum(-1) <= 1
    affine = np.eye(4)
    affine[:3, 3] = centre - reach
    return cropped(mask, affine)


@dataclass(frozen=True)
class PlacedLesion:
    """
    A shape moved to where it is painted.

    Attributes:
        shape: the lesion.
        to_shape: 4×4, mm of the head to mm of the shape's space.
        raggedness_mm: standard deviation of the displacement that frays the border.
    """

    shape: LesionShape
    to_shape: NDArray[np.float64]
    raggedness_mm: float

    def points(self) -> NDArray[np.float64]:
        """Points inside the lesion, ``(n, 3)`` mm of the head."""
        return nib.affines.apply_affine(np.linalg.inv(self.to_shape), self.shape.points)

    def raised(self, rise: float) -> PlacedLesion:
        """The same, so many mm higher in the head."""
        to_shape = self.to_shape.copy()
        to_shape[:3, 3] -= to_shape[:3, 2] * rise
        return replace(self, to_shape=to_shape)

    def fraction(self, rng: np.random.Generator, coordinates: Tensor) -> Tensor:
        """How much of the lesion, 0–1 with a soft border, lies at ``coordinates`` ``(..., 3)`` in mm."""
        ragged = smooth_field(rng, coordinates, 9.0, 3) * self.raggedness_mm
        moved = coordinates + ragged.movedim(0, -1)
        matrix = coordinates.new_tensor(self.to_shape)
        there = moved @ matrix[:3, :3].T + matrix[:3, 3]
        return sample(self.shape.mask.to(coordinates.device).float(), self.shape.affine, there)[0]


def place(rng: np.random.Generator, shape: LesionShape) -> PlacedLesion:
    """
    Turn, scale and shift a shape a little, and mirror it left to right every second time.

    Args:
        rng: source of randomness.
        shape: a lesion in MNI space.
    """
    centre = shape.points.mean(0)
    linear = rotation_matrix(rng.uniform(-15, 15, 3)) @ np.diag(np.exp(rng.normal(0, 0.12, 3)))
    to_shape = np.eye(4)
    to_shape[:3, :3] = linear
    to_shape[:3, 3] = centre - linear @ (centre + rng.normal(0, 4.0, 3))
    if rng.random() < 0.5:
        to_shape = to_shape @ np.diag([-1.0, 1.0, 1.0, 1.0])
    return PlacedLesion(shape, to_shape, raggedness_mm=rng.uniform(0.3, 2.0))

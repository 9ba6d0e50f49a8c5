"""A brain made of ellipsoids, small enough to simulate from in no time."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from shared_nets.simulation import Anatomy, LesionShape, PlacedLesion, anatomy_of
from shared_nets.simulation.anatomy import BRAIN_CENTRE_MM

VOXEL_MM = 3.0
RADII_MM = np.array([66.0, 84.0, 66.0])
LEVELS = np.array([0.3, 0.72, 1.0], np.float32)


def tissue_maps() -> tuple[np.ndarray, np.ndarray]:
    """Ventricle, white matter, cortex and sulci as nested ellipsoids: ``(3, X, Y, Z)`` and the affine."""
    half = np.ceil(RADII_MM / VOXEL_MM).astype(int) + 1
    axes = [np.arange(-n, n + 1) * VOXEL_MM for n in half]
    offset = np.stack(np.meshgrid(*axes, indexing="ij"))
    radius = np.sqrt(((offset / RADII_MM[:, None, None, None]) ** 2).sum(0))
    csf = (radius < 0.25) | ((radius > 0.95) & (radius < 1))
    grey = (radius >= 0.8) & (radius <= 0.95)
    white = (radius >= 0.25) & (radius < 0.8)
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = BRAIN_CENTRE_MM - half * VOXEL_MM
    return np.stack([csf, grey, white]).astype(np.float32), affine


def brain() -> Anatomy:
    """The brain alone, its scan in units of 400."""
    tissues, affine = tissue_maps()
    return anatomy_of("ellipsoids", 400 * np.tensordot(LEVELS, tissues, 1), tissues, affine)


def save_t1(path: Path, shift_mm: float = 0.0, brightness: float = 400.0) -> Path:
    """The brain as a noisy T1 file."""
    tissues, affine = tissue_maps()
    noise = np.random.default_rng(0).normal(0, 0.03, tissues.shape[1:]) * tissues.sum(0)
    affine[:3, 3] += shift_mm
    scan = brightness * (np.tensordot(LEVELS, tissues, 1) + noise)
    nib.save(nib.Nifti1Image(scan.clip(0).astype(np.float32), affine), path)
    return path


def save_ball(path: Path, radius_mm: float = 12.0, centre: tuple[float, ...] = (30.0, -20.0, 20.0)) -> Path:
    """A spherical mask on a 2 mm grid of MNI space."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-90, -126, -72)
    ijk = np.stack(np.meshgrid(*(np.arange(n) for n in (91, 109, 91)), indexing="ij"), -1)
    distance = np.linalg.norm(nib.affines.apply_affine(affine, ijk) - np.asarray(centre), axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image((distance <= radius_mm).astype(np.uint8), affine), path)
    return path


def ball(radius_mm: float = 12.0, centre: tuple[float, ...] = (30.0, -20.0, 20.0)) -> LesionShape:
    """A spherical lesion at 1 mm."""
    reach = int(radius_mm) + 2
    axis = np.arange(-reach, reach + 1)
    mask = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) <= radius_mm**2
    affine = np.eye(4)
    affine[:3, 3] = np.asarray(centre) - reach
    points = nib.affines.apply_affine(affine, np.argwhere(mask)[::20])
    return LesionShape(torch.from_numpy(mask[None].astype(np.uint8)), affine, points)


def unmoved(shape: LesionShape) -> PlacedLesion:
    """The shape where it is, its border as it is."""
    return PlacedLesion(shape, np.eye(4), raggedness_mm=0.0)

"""Procedural lesions: shapes that strokes have where no real mask was drawn, in MNI space."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from shared_nets.simulation.anatomy import BRAIN_CENTRE_MM
from shared_nets.simulation.lesions import BRAIN_BOX_MM, LesionShape, cropped, random_ellipsoid

GRID_MM = 2.0
BRAIN_RADII_MM = (70.0, 88.0, 72.0)
"""Half axes of the ellipsoid that stands for the ICBM152 brain, by its bounding box."""
MEDIAN_ML = 12.7
"""Of infarcts; the median of the 1,149 acute masks of the Stroke Outcome Optimization Project."""
SPREAD = 1.4
"""Standard deviation of the logarithm of their volume: 95 % lie between 0.8 and 200 mL."""
VOLUME_ML = (0.1, 300.0)
DEEP_MM = (
    (25.0, 2.0, 2.0),  # putamen
    (13.0, -18.0, 8.0),  # thalamus
    (20.0, 6.0, 12.0),  # internal capsule and caudate
    (25.0, -12.0, 28.0),  # corona radiata
    (6.0, -28.0, -34.0),  # pons
    (24.0, -62.0, -40.0),  # cerebellum
)
"""Where small vessels end, on the right side, by eye in ICBM152."""
VENTRICLE_MM = (20.0, -15.0, 14.0)
"""About where the arteries of the cortex point to: territories are wedges with their tip there."""


def procedural_lesion(rng: np.random.Generator) -> LesionShape:
    """
    A lacune, a wedge of a vascular territory, a chain in the border zone, or a cerebellar infarct.

    Sides are left as often as right. What lies outside a brain is cut away when the shape is painted.

    Args:
        rng: source of randomness.
    """
    kinds = (lacune, territory, border_zone, cerebellar)
    return kinds[rng.choice(len(kinds), p=(0.3, 0.35, 0.2, 0.15))](rng)


def lacune(rng: np.random.Generator) -> LesionShape:
    """An ellipsoid of 3–15 mm where small vessels end, brainstem and cerebellum included."""
    place = np.array(DEEP_MM[rng.integers(len(DEEP_MM))]) * (_side(rng), 1, 1) + rng.normal(0, 4, 3)
    return random_ellipsoid(rng, place, radius_mm=rng.uniform(1.5, 7.5))


def territory(rng: np.random.Generator) -> LesionShape:
    """A wedge from deep in one hemisphere to its surface, 0.1–300 mL."""
    side = _side(rng)
    tip = np.array(VENTRICLE_MM) * (side, 1, 1) + rng.normal(0, 6, 3)
    axis = rng.normal(0, 1, 3)
    axis[0] = side * abs(axis[0])  # outwards
    points, _ = _brain_grid()
    offsets = points - tip
    distance = np.linalg.norm(offsets, axis=1)
    angle = np.arccos((offsets @ axis / (distance + 1e-6) / np.linalg.norm(axis)).clip(-1, 1))
    # Its tip is mostly spared, and the other hemisphere always.
    angle[(distance < rng.uniform(0, 35)) | (points[:, 0] * side < 0)] = np.inf
    return _lowest(angle, _volume_ml(rng))


def border_zone(rng: np.random.Generator) -> LesionShape:
    """A chain of one to six spots between two arteries' territories, above and beside a lateral ventricle."""
    side = _side(rng)
    y = rng.uniform(-70, 50) + rng.uniform(-25, 25, rng.integers(1, 7))
    arch = np.sqrt((1 - ((y + 12) / 90) ** 2).clip(0))
    inner = rng.random() < 0.5  # in the corona radiata, or near the cortex
    x, height = (25.0, 22.0) if inner else (33.0, 46.0)
    spots = np.stack([np.full(len(y), side * x), y, 6 + height * arch], axis=1)
    spots = spots + rng.normal(0, 3, spots.shape)
    points, _ = _brain_grid()
    nearest = np.linalg.norm(points[:, None] - spots, axis=2).min(1)
    return _lowest(nearest, min(_volume_ml(rng), 40.0))


def cerebellar(rng: np.random.Generator) -> LesionShape:
    """An infarct of one half of the cerebellum, up to 40 mL."""
    side = _side(rng)
    middle = np.array([side * 26.0, -62.0, -38.0]) + rng.normal(0, 6, 3)
    points, _ = _brain_grid()
    distance = np.linalg.norm((points - middle) / (1.0, 1.0, 0.6), axis=1)
    distance[points[:, 0] * side < 0] = np.inf
    return _lowest(distance, min(_volume_ml(rng), 40.0))


def _side(rng: np.random.Generator) -> int:
    """-1 for left, 1 for right."""
    return 1 if rng.random() < 0.5 else -1


def _volume_ml(rng: np.random.Generator) -> float:
    return float(np.exp(rng.normal(np.log(MEDIAN_ML), SPREAD)).clip(*VOLUME_ML))


@cache
def _brain_grid() -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Points of a 2 mm grid inside the ellipsoid that stands for the brain, in mm, and their voxels."""
    low, high = np.array(BRAIN_BOX_MM)
    voxels = np.indices(np.ceil((high - low) / GRID_MM).astype(int)).reshape(3, -1).T
    points = low + GRID_MM * voxels
    inside = (((points - BRAIN_CENTRE_MM) / BRAIN_RADII_MM) ** 2).sum(1) < 1
    return points[inside], voxels[inside]


def _lowest(score: NDArray[np.float64], volume_ml: float) -> LesionShape:
    """The part of the brain of the given volume where ``score``, one value a point, is lowest."""
    _, voxels = _brain_grid()
    number = int(max(1, min(round(volume_ml * 1000 / GRID_MM**3), np.isfinite(score).sum())))
    chosen = voxels[np.argpartition(score, number - 1)[:number]]
    mask = np.zeros(voxels.max(0) + 1, bool)
    mask[tuple(chosen.T)] = True
    affine = np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])
    affine[:3, 3] = BRAIN_BOX_MM[0]
    return cropped(mask, affine)

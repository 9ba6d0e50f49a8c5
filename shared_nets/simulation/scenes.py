"""Scenes: what lies in the planes of a simulated slice, before it has any contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared_nets.simulation.anatomy import BRAIN_CENTRE_MM, CLOSENESS, FAR_MM, SCAN, WHITE, Anatomy
from shared_nets.simulation.fields import plane_coordinates, rotation_matrix, sample, smooth_field, widen
from shared_nets.simulation.lesions import PlacedLesion

VENTRICLES_MM = np.array([[14.0, 18.0, 8.0], [18.0, -12.0, 22.0], [26.0, -42.0, 10.0]])
"""Right lateral ventricle in MNI space: frontal horn, body, trigone."""
WIDEST = 0.75
"""Most that a ventricle is widened; see `fields.widen`."""


@dataclass(frozen=True)
class Scene:
    """
    What lies in the planes of one simulated slice.

    Attributes:
        tissues: ``(3, planes, rows, columns)``: fractions of CSF, grey and white matter, 0–1.
        scan: the anatomy's own T1, white matter 1; ``(planes, rows, columns)`` as are the rest.
        depth: distance from the brain's surface in mm, negative inside.
        lesion: how much of each pixel is in a lesion that is to be found, 0–1.
        coordinates: ``(planes, rows, columns, 3)``, mm in the output's space.
        has_head: whether ``scan`` shows skull and face.
        planes_per_slice: planes that are averaged to one slice later.
    """

    tissues: Tensor
    scan: Tensor
    depth: Tensor
    lesion: Tensor
    coordinates: Tensor
    has_head: bool
    planes_per_slice: int = 1

    @property
    def brain(self) -> Tensor:
        """How much of each pixel is brain, CSF included, 0–1."""
        return self.tissues.sum(0)


def build_scene(
    rng: np.random.Generator,
    anatomy: Anatomy,
    lesions: Sequence[PlacedLesion],
    shape: tuple[int, int],
    spacing: float,
) -> Scene:
    """
    Choose a plane (through the first lesion, if there is one), deform the anatomy and place the lesions.

    Args:
        rng: source of randomness.
        anatomy: the head.
        lesions: what to place into it.
        shape: rows and columns.
        spacing: pixel size in mm.
    """
    coordinates = _choose_planes(rng, anatomy, lesions, shape, spacing)
    return scene_at(rng, anatomy, lesions, coordinates, planes_per_slice=len(coordinates))


def scene_at(
    rng: np.random.Generator,
    anatomy: Anatomy,
    lesions: Sequence[PlacedLesion],
    coordinates: Tensor,
    planes_per_slice: int = 1,
) -> Scene:
    """
    Deform the anatomy and place the lesions in given planes.

    Args:
        rng: source of randomness.
        anatomy: the head.
        lesions: what to place into it.
        coordinates: ``(planes, rows, columns, 3)`` in mm.
        planes_per_slice: planes that are averaged to one slice later.
    """
    inside = _deformed(rng, coordinates)
    # Mirrored first: from here on, sides are those of the anatomy and of the lesions.
    if rng.random() < 0.5:
        inside = inside * torch.tensor([-1.0, 1.0, 1.0])
    inside = _widen_ventricles(rng, inside, lesions)

    maps = sample(anatomy.maps, anatomy.affine, inside)
    depth = FAR_MM - maps[CLOSENESS]
    lesion = torch.zeros_like(depth)
    for placed in lesions:
        lesion = torch.maximum(lesion, placed.fraction(rng, inside))
    tissues = maps[: WHITE + 1]
    shown = lesion * (tissues.sum(0) > 0.3)
    return Scene(tissues, maps[SCAN], depth, shown, coordinates, anatomy.has_head, planes_per_slice)


def _choose_planes(
    rng: np.random.Generator,
    anatomy: Anatomy,
    lesions: Sequence[PlacedLesion],
    shape: tuple[int, int],
    spacing: float,
) -> Tensor:
    """Coordinates of one plane, or of three over a thick slice's 2–6 mm, a little tilted; mm."""
    z = rng.uniform(-110 if anatomy.has_head else -75, 80)  # from the neck, or the cerebellum, to the vertex
    if lesions:
        points = lesions[0].points()
        z = points[rng.integers(len(points)), 2]
    x, y, _ = BRAIN_CENTRE_MM
    centre = np.array([x + rng.normal(0, 4), y + rng.normal(0, 5), z])
    thick = rng.random() < 0.35
    offsets = tuple(np.linspace(-0.5, 0.5, 3) * rng.uniform(2, 6)) if thick else (0.0,)
    return plane_coordinates(shape, spacing, centre, rotation_matrix(rng.normal(0, 5, 3)), offsets)


def _deformed(rng: np.random.Generator, coordinates: Tensor) -> Tensor:
    """Where in the anatomy each pixel lies: scaled, and warped in large (55 mm) and small (22 mm) waves."""
    middle = torch.tensor(BRAIN_CENTRE_MM)
    scale = np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    warp = smooth_field(rng, coordinates, 55.0, 3) * rng.uniform(1, 6)
    warp = warp + smooth_field(rng, coordinates, 22.0, 3) * rng.uniform(0.3, 1.6)
    return (coordinates - middle) * torch.from_numpy(scale) + middle + warp.movedim(0, -1)


def _widen_ventricles(rng: np.random.Generator, inside: Tensor, lesions: Sequence[PlacedLesion]) -> Tensor:
    """
    Ventricles of all widths: on both sides with age, on one side beside a lesion or by chance.

    The lesion is sampled at the moved coordinates, so what surrounds a ventricle is pushed, lesion included.
    Networks trained without such ventricles took the one beside a lesion for lesion.
    """
    both = max(0.0, rng.normal(0.15, 0.2))
    one = rng.uniform(0.1, 0.7) if rng.random() < (0.75 if lesions else 0.5) else 0.0
    side = rng.choice([-1.0, 1.0])
    if lesions and rng.random() < 0.8:
        side = np.sign(lesions[0].points()[:, 0].mean()) or 1.0
    for sign in (-1.0, 1.0):
        amount = min(both + (one if sign == side else 0.0), WIDEST)
        for middle in VENTRICLES_MM:
            if amount > 0.02:
                radii = rng.uniform(9, 18, 3)
                inside = widen(inside, middle * [sign, 1, 1], radii, amount * rng.uniform(0.5, 1))
    return inside

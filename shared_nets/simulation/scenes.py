"""Scenes: what lies in the planes of a simulated slice, before it has any contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from shared_nets.simulation.anatomy import (
    BRAIN_CENTRE_MM,
    CLOSENESS,
    FAR_MM,
    LEFT_VENTRICLE,
    RIGHT_VENTRICLE,
    SCAN,
    WHITE,
    Anatomy,
)
from shared_nets.simulation.fields import grown, plane_coordinates, rotation_matrix, sample, smooth_field
from shared_nets.simulation.lesions import PlacedLesion

HEAD_TURN_DEGREES = (5.0, 5.0, 10.0)
"""Deviations of how a head lies in the scanner, about x, y and z; it turns to a side most."""
PLANES_OF_THICK = 3
"""A thick slice is the mean of so many planes."""
LARGE_ML = 15.0
"""Beside lesions from this size on, the ventricle mostly widens."""


@dataclass(frozen=True)
class Scene:
    """
    What lies in the planes of one simulated slice.

    Attributes:
        tissues: ``(3, planes, rows, columns)``: fractions of CSF, grey and white matter, 0–1.
        scan: the anatomy's own T1, white matter 1; ``(planes, rows, columns)`` as are the rest.
        depth: distance from the brain's surface in mm, negative inside.
        ventricle: how much of each pixel is in a lateral ventricle, 0–1.
        lesion: how much of each pixel is in a lesion that is to be found, 0–1.
        coordinates: ``(planes, rows, columns, 3)``, mm in the output's space.
        has_head: whether ``scan`` shows skull and face.
        fluid: intensity of the lateral ventricles in ``scan``.
        planes_per_slice: planes that are averaged to one slice later.
    """

    tissues: Tensor
    scan: Tensor
    depth: Tensor
    ventricle: Tensor
    lesion: Tensor
    coordinates: Tensor
    has_head: bool
    fluid: float
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
    through = _point_of(rng, lesions[0]) if lesions else None
    coordinates = _choose_planes(rng, anatomy, through, shape, spacing)
    return scene_at(rng, anatomy, lesions, coordinates, len(coordinates), through)


def scene_at(
    rng: np.random.Generator,
    anatomy: Anatomy,
    lesions: Sequence[PlacedLesion],
    coordinates: Tensor,
    planes_per_slice: int = 1,
    through: NDArray[np.float64] | None = None,
) -> Scene:
    """
    Deform the anatomy and place the lesions in given planes.

    Args:
        rng: source of randomness.
        anatomy: the head.
        lesions: what to place into it.
        coordinates: ``(planes, rows, columns, 3)`` in mm.
        planes_per_slice: planes that are averaged to one slice later.
        through: a point in mm, of a lesion, that the planes shall show: the deformation moves it out of them,
            and lesions are moved up or down by as much.
    """
    # Whatever is made from here on lies where its coordinates do: with the anatomy.
    coordinates = coordinates.to(anatomy.maps.device)
    inside = _deformed(rng, coordinates)
    # Mirrored first: from here on, sides are those of the anatomy and of the lesions.
    if rng.random() < 0.5:
        inside = inside * inside.new_tensor([-1.0, 1.0, 1.0])
    inside = _with_grown_ventricles(rng, anatomy, inside, lesions)
    if through is not None:
        rise = _height_at(inside, through) - through[2]
        lesions = [lesion.raised(rise) for lesion in lesions]

    maps = sample(anatomy.maps, anatomy.affine, inside)
    depth = FAR_MM - maps[CLOSENESS]
    lesion = torch.zeros_like(depth)
    for placed in lesions:
        lesion = torch.maximum(lesion, placed.fraction(rng, inside))
    tissues = maps[: WHITE + 1]
    near = torch.maximum(maps[LEFT_VENTRICLE], maps[RIGHT_VENTRICLE])
    return Scene(
        tissues=tissues,
        scan=maps[SCAN],
        depth=depth,
        ventricle=(near - FAR_MM + 1).clip(0, 1),
        lesion=lesion * (tissues.sum(0) > 0.3),
        coordinates=coordinates,
        has_head=anatomy.has_head,
        fluid=anatomy.fluid,
        planes_per_slice=planes_per_slice,
    )


def _point_of(rng: np.random.Generator, lesion: PlacedLesion) -> NDArray[np.float64]:
    points = lesion.points()
    return points[rng.integers(len(points))]


def _height_at(inside: Tensor, point: NDArray[np.float64]) -> float:
    """The height in the anatomy, in mm, of the middle plane's pixel that lies above or below a point."""
    plane = inside[len(inside) // 2].reshape(-1, 3)
    away = (plane[:, :2] - plane.new_tensor(point[:2])).square().sum(1)
    return float(plane[away.argmin(), 2])


def _choose_planes(
    rng: np.random.Generator,
    anatomy: Anatomy,
    through: NDArray[np.float64] | None,
    shape: tuple[int, int],
    spacing: float,
) -> Tensor:
    """Coordinates of one plane, or of three over a thick slice's 2–6 mm, a little tilted; mm."""
    kind = rng.random()
    # From the neck to the scalp over the vertex, or from the cerebellum to the last of the cortex.
    z = rng.uniform(-110, 100) if anatomy.has_head else rng.uniform(-75, 80)
    if kind < 0.3:  # the skull base is where most is marked falsely
        z = rng.normal(-30, 15)
    elif kind < 0.5:  # and where little brain is seen, at either end: it was taken for bright lesion
        top = rng.normal(78, 12) if anatomy.has_head else rng.normal(70, 7)
        z = rng.normal(-62, 8) if rng.random() < 0.5 else top
    if through is not None:
        z = through[2]
    x, y, _ = BRAIN_CENTRE_MM
    centre = np.array([x + rng.normal(0, 4), y + rng.normal(0, 5), z])
    thick = rng.random() < 0.35
    offsets = tuple(np.linspace(-0.5, 0.5, PLANES_OF_THICK) * rng.uniform(2, 6)) if thick else (0.0,)
    turn = rotation_matrix(rng.normal(0, HEAD_TURN_DEGREES))
    return plane_coordinates(shape, spacing, centre, turn, offsets)


def _deformed(rng: np.random.Generator, coordinates: Tensor) -> Tensor:
    """Where in the anatomy each pixel lies: scaled, and warped in large (55 mm) and small (22 mm) waves."""
    middle = coordinates.new_tensor(BRAIN_CENTRE_MM)
    scale = coordinates.new_tensor(np.exp(rng.normal(0, 0.06, 3)))
    warp = smooth_field(rng, coordinates, 55.0, 3) * rng.uniform(1, 6)
    warp = warp + smooth_field(rng, coordinates, 22.0, 3) * rng.uniform(0.3, 1.6)
    return (coordinates - middle) * scale + middle + warp.movedim(0, -1)


def _with_grown_ventricles(
    rng: np.random.Generator, anatomy: Anatomy, inside: Tensor, lesions: Sequence[PlacedLesion]
) -> Tensor:
    """
    Ventricles of all widths: on both sides with age, on one side beside a large lesion.

    The lesion is sampled at the moved coordinates, so what surrounds a ventricle is pushed, lesion included.
    Networks trained without such ventricles took the one beside a lesion for lesion.
    """
    points = lesions[0].points() if lesions else np.zeros((1, 3))
    is_large = bool(lesions) and lesions[0].shape.volume_ml > LARGE_ML
    both = max(0.0, rng.normal(2.0, 5.0))  # mm
    # Sides differ by a little in everybody. A wide one alone, without a lesion, would teach that smooth dark
    # holes are none.
    one = rng.uniform(2, 25) if is_large and rng.random() < 0.8 else abs(rng.normal(0, 3))
    side = int(rng.integers(2))
    if lesions and rng.random() < 0.85:
        side = int(points[:, 0].mean() > 0)
    # More towards the lesion; by chance alone the centre of the brain stands for it.
    away = (inside - inside.new_tensor(points.mean(0))).square().sum(-1)
    towards = torch.exp(-0.5 * away / 45.0**2)
    # Every second pixel is enough for the push, which takes many samples.
    grid = coarse = inside[:, ::2, ::2]
    for i, channel in enumerate((LEFT_VENTRICLE, RIGHT_VENTRICLE)):
        growth = both + (one if i == side else 0.0) * towards[:, ::2, ::2]
        if growth.max() > 0.2:
            growth = growth * (1 + 0.3 * smooth_field(rng, grid, 35.0)[0]).clip(0.2, 1.6)
            closeness = anatomy.maps[channel : channel + 1]
            coarse = grown(coarse, closeness, anatomy.affine, growth, FAR_MM)
    push = (coarse - grid).movedim(-1, 1)
    push = F.interpolate(push, size=inside.shape[1:3], mode="bilinear", align_corners=False)
    return inside + push.movedim(1, -1)

"""Simulated slices to train on: a random anatomy, deformed, with or without lesions, as a scanner would show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset, get_worker_info

from shared_nets.simulation.anatomy import CSF, DEPTH, FAR_MM, GREY, SCAN, WHITE, Anatomy
from shared_nets.simulation.fields import plane_coordinates, rotation_matrix, sample, smooth_field, widen
from shared_nets.simulation.lesions import LesionShape, PlacedLesion, place, random_ellipsoid

# Lateral ventricles (frontal horn, body, trigone) in MNI space, mm, for the right side.
VENTRICLES_MM = np.array([[14.0, 18.0, 8.0], [18.0, -12.0, 22.0], [26.0, -42.0, 10.0]])


@dataclass
class Scene:
    """
    What lies in the planes of one simulated slice, before any contrast.

    Attributes:
        tissues: ``(3, planes, rows, columns)``: fractions of CSF, grey and white matter.
        scan: the anatomy's own T1, white matter 1; ``(planes, rows, columns)`` as are the rest.
        depth: distance from the brain, mm.
        lesion: how much of each pixel is in a lesion that is to be found, 0–1.
        coordinates: ``(planes, rows, columns, 3)``, mm in the output's space.
        has_head: whether ``scan`` shows skull and face.
    """

    tissues: Tensor
    scan: Tensor
    depth: Tensor
    lesion: Tensor
    coordinates: Tensor
    has_head: bool


Paint = Callable[[np.random.Generator, Scene], tuple[Tensor, Tensor]]


class SimulatedSlices(IterableDataset):
    """
    An endless stream of simulated slices, the same for the same seed.

    Yields dicts of ``image`` ``(channels, rows, columns)``, 0–1, and ``label`` ``(1, rows, columns)``,
    0 or 1, both float32.
    """

    def __init__(
        self,
        anatomies: Sequence[Anatomy],
        lesions: Sequence[LesionShape],
        paint: Paint,
        shape: tuple[int, int],
        spacing: float,
        lesion_free: float = 0.4,
        seed: int = 0,
    ) -> None:
        """
        Args:
            anatomies: heads to draw from.
            lesions: real lesion shapes to draw from; procedural ones are mixed in.
            paint: gives a scene its contrast: image and label planes, see ``t1_contrast`` and ``acute_contrast``.
            shape: rows and columns of a slice.
            spacing: pixel size in mm.
            lesion_free: share of slices without lesion.
            seed: the same seed gives the same stream (per loader worker).
        """
        self.anatomies = anatomies
        self.lesions = lesions
        # Large lesions fill more slices: draw them somewhat more often than there are subjects with them.
        volumes = np.array([float(shape.mask.sum()) for shape in lesions])
        self.lesion_odds = volumes**0.3 / (volumes**0.3).sum()
        self.paint = paint
        self.shape = shape
        self.spacing = spacing
        self.lesion_free = lesion_free
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            yield self.draw(np.random.default_rng(rng.integers(2**63)))

    def draw(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """One slice, wholly determined by ``rng``."""
        anatomy = self.anatomies[rng.integers(len(self.anatomies))]
        lesions = [] if rng.random() < self.lesion_free else self._choose_lesions(rng)
        scene = build_scene(rng, anatomy, lesions, self.shape, self.spacing)
        image, label = self.paint(rng, scene)
        image, label = image.mean(1), (label.mean(0) > 0.5).float()
        if rng.random() < 0.5:
            image, label = image.flip(-1), label.flip(-1)
        return {"image": image.clip(0, 1), "label": label[None]}

    def _choose_lesions(self, rng: np.random.Generator) -> list[PlacedLesion]:
        count = 1 + rng.binomial(2, 0.15)
        chosen = []
        for _ in range(count):
            shape = self.lesions[rng.choice(len(self.lesions), p=self.lesion_odds)]
            if rng.random() < 0.2:
                centre = shape.points[rng.integers(len(shape.points))]
                shape = random_ellipsoid(rng, centre)
            chosen.append(place(rng, shape))
        return chosen


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
    through = np.array([0.0, -18.0, rng.uniform(-75 if not anatomy.has_head else -110, 80)])
    if lesions:
        points = lesions[0].points()
        through[2] = points[rng.integers(len(points)), 2]
    centre = np.array([rng.normal(0, 4), -18 + rng.normal(0, 5), through[2]])
    thick = rng.random() < 0.35
    offsets = tuple(np.linspace(-0.5, 0.5, 3) * rng.uniform(2, 6)) if thick else (0.0,)
    coordinates = plane_coordinates(shape, spacing, centre, rotation_matrix(rng.normal(0, 5, 3)), offsets)

    scale = np.exp(rng.normal(0, 0.06, 3))
    inside = (coordinates - torch.tensor([0.0, -18.0, 5.0])) * torch.from_numpy(scale.astype(np.float32))
    inside = inside + torch.tensor([0.0, -18.0, 5.0])
    warp = smooth_field(rng, coordinates, 55.0, 3) * rng.uniform(1, 6)
    warp = warp + smooth_field(rng, coordinates, 22.0, 3) * rng.uniform(0.3, 1.6)
    inside = inside + warp.movedim(0, -1)
    # Lesions are placed before ventricles widen: a widened ventricle pushes its surroundings, lesion included.
    inside = _widen_ventricles(rng, inside, lesions)
    if rng.random() < 0.5:
        inside = inside * torch.tensor([-1.0, 1.0, 1.0])

    maps = sample(anatomy.maps, anatomy.affine, inside)
    depth = maps[DEPTH] + FAR_MM * (maps.sum(0) == 0)  # outside the anatomy's field of view
    fraction = torch.zeros_like(depth)
    for lesion in lesions:
        fraction = torch.maximum(fraction, lesion.fraction(rng, inside))
    tissue = maps[CSF] + maps[GREY] + maps[WHITE]
    return Scene(maps[:3], maps[SCAN], depth, fraction * (tissue > 0.3), coordinates, anatomy.has_head)


def _widen_ventricles(rng: np.random.Generator, inside: Tensor, lesions: Sequence[PlacedLesion]) -> Tensor:
    """Ventricles of all widths: on both sides with age, on one side beside a lesion or by chance."""
    both = max(0.0, rng.normal(0.15, 0.2))
    one = rng.uniform(0, 0.5) if rng.random() < (0.5 if lesions else 0.35) else 0.0
    side = rng.choice([-1.0, 1.0])
    if lesions and rng.random() < 0.8:
        side = np.sign(lesions[0].points()[:, 0].mean()) or 1.0
    for sign in (-1.0, 1.0):
        amount = min(both + (one if sign == side else 0.0), 0.65)
        for middle in VENTRICLES_MM:
            if amount > 0.02:
                radii = rng.uniform(9, 18, 3)
                inside = widen(inside, middle * [sign, 1, 1], radii, amount * rng.uniform(0.5, 1))
    return inside


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur in the slice, ``(..., rows, columns)``; ``sigma`` in pixels."""
    if sigma < 0.25:
        return image
    reach = int(np.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = image.reshape(-1, 1, *image.shape[-2:])
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0)), kernel[None, None, None])
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach)), kernel[None, None, :, None])
    return flat.reshape(image.shape)


def closed(mask: Tensor, reach: int) -> Tensor:
    """Morphological closing in the slice of a 0/1 ``mask`` ``(planes, rows, columns)`` by a square."""
    size = 2 * reach + 1
    grown = F.max_pool2d(mask[None], size, stride=1, padding=reach)
    return -F.max_pool2d(-grown, size, stride=1, padding=reach)[0]

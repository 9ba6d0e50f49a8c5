"""Simulated slices to train on: a random anatomy, with or without lesions, as a scanner would show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from shared_nets.errors import UsageError
from shared_nets.simulation.anatomy import BRAIN_CENTRE_MM, CSF, GREY, WHITE, Anatomy
from shared_nets.simulation.artefacts import with_artefacts
from shared_nets.simulation.fields import plane_coordinates, rotation_matrix
from shared_nets.simulation.lesions import LesionShape, PlacedLesion, place, random_ellipsoid
from shared_nets.simulation.procedural import procedural_lesion
from shared_nets.simulation.scenes import PLANES_OF_THICK, Scene, build_scene, scene_at

Paint = Callable[[np.random.Generator, Scene], tuple[Tensor, Tensor]]
"""
What gives a scene its contrast: image ``(channels, planes, rows, columns)`` and label
``(planes, rows, columns)``; `t1_contrast` and `acute_contrast` are two.
"""

TISSUES = ("outside the brain", "fluid", "grey matter", "white matter", "lateral ventricle")
"""What the values of ``tissue``, from 0 on, stand for."""
FLUID, VENTRICLE = TISSUES.index("fluid"), TISSUES.index("lateral ventricle")


class SimulatedSlices(IterableDataset[dict[str, Tensor]]):
    """
    An endless stream of simulated slices, the same for the same seed.

    Yields dicts of ``image`` ``(channels, rows, columns)``, 0–1, and ``label`` ``(1, rows, columns)``,
    0 or 1, both float32, and ``tissue`` ``(rows, columns)``, uint8, one of `TISSUES`, as they would be
    without lesion. Rows run towards anterior, columns towards the right. They are made on the device of the
    anatomy's maps; random numbers come from NumPy, so that a seed gives the same slices on every
    device, to rounding.
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
            lesions: real lesion shapes to draw from; one in four is replaced by a procedural one.
            paint: gives a scene its contrast: `t1_contrast` or `acute_contrast`.
            shape: rows and columns of a slice.
            spacing: pixel size in mm.
            lesion_free: share of slices into which no lesion is placed, 0–1. Of the others some show none
                either. With less than 0.4, fissures, necks and aged sulci were taken for lesions.
            seed: the same seed gives the same stream (per loader worker).

        Raises:
            UsageError: if there is no anatomy or no lesion to draw from, or ``lesion_free`` is no share.
        """
        if not anatomies or not lesions:
            raise UsageError("Simulated slices need at least one anatomy and one lesion shape: give both.")
        if not 0 <= lesion_free <= 1:
            raise UsageError(f"The share of slices without lesion is from 0 to 1, not {lesion_free:g}.")
        self.anatomies = anatomies
        self.lesions = lesions
        # Large lesions fill more slices: draw them somewhat more often than there are subjects with them.
        odds = np.array([lesion.volume_ml for lesion in lesions]) ** 0.2
        self.lesion_odds = odds / odds.sum()
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
        anatomy = self.anatomies[int(rng.integers(len(self.anatomies)))]
        lesions = [] if rng.random() < self.lesion_free else self._choose_lesions(rng)
        scene = build_scene(rng, anatomy, lesions, self.shape, self.spacing)
        image, label = self.paint(rng, scene)
        image, label = image.mean(1), (label.mean(0) > 0.5).float()  # a thick slice is the mean of its planes
        image = torch.cat([with_artefacts(rng, channel[None]) for channel in image])
        tissue = _most(scene)
        if rng.random() < 0.5:
            image, label, tissue = image.flip(-1), label.flip(-1), tissue.flip(-1)
        return {"image": image.clip(0, 1), "label": label[None], "tissue": tissue}

    def draw_volume(
        self, rng: np.random.Generator, slices: int, thickness: float
    ) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
        """
        One whole head of parallel slices, wholly determined by ``rng``.

        Args:
            rng: source of randomness.
            slices: how many.
            thickness: their distance in mm; the middle one passes near the brain's centre.

        Returns:
            Image ``(channels, X, Y, Z)``, 0–1, label ``(X, Y, Z)``, 0 or 1, both float32, and the affine
            ``(4, 4)`` from voxels to mm; X runs towards the right, Y towards anterior, Z up.
        """
        anatomy = self.anatomies[int(rng.integers(len(self.anatomies)))]
        lesions = [] if rng.random() < self.lesion_free else self._choose_lesions(rng)
        centre = np.array(BRAIN_CENTRE_MM) + rng.normal(0, [4, 5, 4])
        parts = PLANES_OF_THICK if thickness > 2 * self.spacing - 1e-6 else 1
        offsets = tuple((np.arange(slices * parts) - (slices * parts - 1) / 2) * thickness / parts)
        rotation = rotation_matrix(rng.normal(0, 5, 3))
        coordinates = plane_coordinates(self.shape, self.spacing, centre, rotation, offsets)
        image, label = self.paint(rng, scene_at(rng, anatomy, lesions, coordinates, planes_per_slice=parts))
        image = image.unflatten(1, (slices, parts)).mean(2)
        label = (label.unflatten(0, (slices, parts)).mean(1) > 0.5).float()
        image = torch.stack([with_artefacts(rng, channel) for channel in image])
        affine = np.eye(4)
        affine[:3, :3] = rotation @ np.diag([self.spacing, self.spacing, thickness])
        affine[:3, 3] = coordinates[:parts, 0, 0].mean(0).numpy()
        return image.clip(0, 1).transpose(1, 3), label.transpose(0, 2), affine

    def _choose_lesions(self, rng: np.random.Generator) -> list[PlacedLesion]:
        """One to three lesions, mostly one."""
        return [self._choose_lesion(rng) for _ in range(1 + rng.binomial(2, 0.15))]

    def _choose_lesion(self, rng: np.random.Generator) -> PlacedLesion:
        """A real shape; one time in ten an ellipsoid where one has been, in seven a procedural one."""
        shape = self.lesions[rng.choice(len(self.lesions), p=self.lesion_odds)]
        kind = rng.random()
        if kind < 0.1:
            shape = random_ellipsoid(rng, shape.points[rng.integers(len(shape.points))])
        elif kind < 0.25:
            shape = procedural_lesion(rng)
        return place(rng, shape)


def _most(scene: Scene) -> Tensor:
    """Which of `TISSUES` each pixel is mostly."""
    tissues, ventricle = scene.tissues.mean(1), scene.ventricle.mean(0)
    fluid = (tissues[CSF] - ventricle).clip(0)
    parts = [1 - tissues.sum(0), fluid, tissues[GREY], tissues[WHITE], ventricle]
    return torch.stack(parts).argmax(0).to(torch.uint8)

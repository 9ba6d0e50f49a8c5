"""What a lesion mask says in numbers: volume, count, side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import cc3d
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import ArrayLike, NDArray

from shared_nets.affine import voxel_ml
from shared_nets.arrays import as_array

# A lesion is on both sides when more than this share of its volume lies on the smaller side: our
# choice, so that a few voxels across the midline do not turn a one-sided stroke into a bilateral one.
BOTH_SIDES_SHARE = 0.1


@dataclass(frozen=True)
class Lesion:
    """
    One connected lesion.

    Args:
        lesion: its number in the label map, from 1, the largest first.
        volume_ml: its volume, mL.
        side: ``"left"``, ``"right"`` or ``"both"``, as for a scan.
        centroid_x_mm: centre of its voxels, world x (RAS+), mm.
        centroid_y_mm: world y, mm.
        centroid_z_mm: world z, mm.
        mean_probability: mean lesion probability of its voxels, 0–1; NaN without probabilities.
        max_probability: the highest of them.
    """

    lesion: int
    volume_ml: float
    side: str
    centroid_x_mm: float
    centroid_y_mm: float
    centroid_z_mm: float
    mean_probability: float
    max_probability: float


@dataclass(frozen=True)
class LesionSummary:
    """
    The lesions of one scan.

    Args:
        volume_ml: volume of all lesions, mL.
        lesion_count: connected lesions, voxels joined by face, edge or corner (26-neighbourhood).
        largest_ml: volume of the largest of them, mL.
        side: ``"left"``, ``"right"``, ``"both"`` (more than a tenth of the volume on the smaller side)
            or ``"none"``: the patient's side.
        max_probability: the highest lesion probability anywhere in the scan, 0–1.
        left_ml: volume left of the head's midline, mL; voxels on it count half.
        right_ml: volume right of it, mL.
        centroid_x_mm: centre of all lesion voxels, world x (RAS+), mm; NaN without lesion.
        centroid_y_mm: world y, mm.
        centroid_z_mm: world z, mm.
        mean_probability: the mean lesion probability inside the mask, 0–1; NaN without lesion.
        lesions: each of them, the largest first.
    """

    volume_ml: float
    lesion_count: int
    largest_ml: float
    side: str
    max_probability: float
    left_ml: float
    right_ml: float
    centroid_x_mm: float
    centroid_y_mm: float
    centroid_z_mm: float
    mean_probability: float
    lesions: tuple[Lesion, ...]


def label_lesions(mask: ArrayLike) -> NDArray[np.int32]:
    """
    Number the connected lesions of a mask (26-neighbourhood), the largest first.

    Args:
        mask: (X, Y, Z) or (1, X, Y, Z); not 0 is lesion.

    Returns:
        (X, Y, Z): 0 outside, 1 for the largest lesion, and so on; of equal ones the first in the array first.
    """
    volume = _as_volume(mask) != 0
    box = lesion_box(volume)
    labels = np.zeros(volume.shape, dtype=np.int32)
    labels[box] = _labels(volume[box])
    return labels


def _labels(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    # In one order in memory, which decides whose number of two equal ones is lower.
    labels = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    sizes = np.bincount(labels.ravel())[1:]
    rank = np.zeros(len(sizes) + 1, dtype=np.int32)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    return cast(NDArray[np.int32], rank[labels])


def lesion_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """
    A box that holds all lesion voxels: what is done there need not be done to a whole head.

    Args:
        mask: (X, Y, Z).

    Returns:
        a slice of each axis, with the voxel around the lesions; the first voxel's without any lesion.
    """
    sides = [np.flatnonzero(np.any(mask, axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    # The voxel around: cc3d fails on a box that is a single line of voxels.
    x, y, z = (slice(max(0, s[0] - 1), s[-1] + 2) if len(s) else slice(0, 1) for s in sides)
    return x, y, z


def measure_lesions(
    mask: ArrayLike, probability: ArrayLike | None, affine: ArrayLike, midline_x: float
) -> LesionSummary:
    """
    Measure the lesions of one scan, whatever its axes' order, direction and obliquity.

    Args:
        mask: lesion mask, (X, Y, Z) or (1, X, Y, Z); not 0 is lesion.
        probability: lesion probabilities on the same grid, 0–1; without them all probabilities are NaN.
        affine: 4×4, voxel to world (RAS+, mm).
        midline_x: world x (mm) that divides the head, see :func:`head_midline`.

    Returns:
        The measurements; lesions are numbered as by :func:`label_lesions`.

    Raises:
        ValueError: if the mask is not one 3-D volume.
    """
    lesion = _as_volume(mask) != 0
    box = lesion_box(lesion)
    labels = _labels(lesion[box])
    matrix = as_array(affine).astype(np.float64)
    ml = voxel_ml(matrix)
    places = np.argwhere(labels) + [side.start for side in box]
    world = places @ matrix[:3, :3].T + matrix[:3, 3]
    numbers = labels[labels > 0]  # in the same order as the voxels
    volume = None if probability is None else _as_volume(probability)
    chances = np.full(len(world), np.nan) if volume is None else volume[box][labels > 0].astype(np.float64)

    # Each lesion's voxels side by side: one pass, however many lesions there are.
    ends = np.cumsum(np.bincount(numbers, minlength=2)[1:])
    parts = np.split(np.argsort(numbers, kind="stable"), ends)[:-1] if len(world) else []
    lesions = tuple(
        Lesion(
            lesion=number,
            volume_ml=len(part) * ml,
            side=_side(*_sides(world[part, 0], midline_x)),
            **_centroid(world[part]),
            mean_probability=float(chances[part].mean()),
            max_probability=float(chances[part].max()),
        )
        for number, part in enumerate(parts, start=1)
    )
    left, right = _sides(world[:, 0], midline_x)
    return LesionSummary(
        volume_ml=len(world) * ml,
        lesion_count=len(lesions),
        largest_ml=lesions[0].volume_ml if lesions else 0.0,
        side=_side(left, right),
        max_probability=float("nan") if volume is None else float(volume.max()),
        left_ml=left * ml,
        right_ml=right * ml,
        **_centroid(world),
        mean_probability=float(chances.mean()) if len(chances) else float("nan"),
        lesions=lesions,
    )


def head_midline(image: torch.Tensor, affine: ArrayLike | None = None, background: float = 0.1) -> float:
    """
    World x of the middle of the head: the mean over its voxels.

    The world's x = 0 is the scanner's, not the patient's, centre. The mean over the voxels, not their
    intensities: a dark or bright side must not pull the midline.

    Args:
        image: preprocessed scan (C, H, W, S), intensities of 0–1.
        affine: 4×4, voxel to world (RAS+, mm); the image's own by default.
        background: what is not above it, in any channel, is air (a tenth of the head's intensities).

    Returns:
        World x in mm; the middle of the image if nothing is above ``background``.

    Raises:
        ValueError: if neither ``affine`` is given nor the image is a MetaTensor.
    """
    if affine is None:
        if not isinstance(image, MetaTensor):
            raise ValueError("head_midline needs an affine when the image is not a MetaTensor.")
        affine = image.affine
    head = (as_array(image) > background).any(axis=0)
    if not head.any():
        head = np.ones_like(head)
    # The mean of a mask along each axis, from its counts: no list of millions of coordinates.
    axes = range(3)
    counts = [head.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes]
    centre = [float(np.average(np.arange(len(count)), weights=count)) for count in counts]
    return float(as_array(affine)[0] @ np.array([*centre, 1.0]))


def _centroid(world: NDArray[np.float64]) -> dict[str, float]:
    """The mean of voxels' world coordinates (n, 3), by column."""
    centre = world.mean(axis=0) if len(world) else (float("nan"),) * 3
    return {f"centroid_{axis}_mm": float(c) for axis, c in zip("xyz", centre, strict=True)}


def _sides(x: NDArray[np.float64], midline_x: float) -> tuple[float, float]:
    """Voxels left and right of the midline; those on it count half on either side."""
    on = (x == midline_x).sum() / 2
    return float((x < midline_x).sum() + on), float((x > midline_x).sum() + on)


def _side(left: float, right: float) -> str:
    if left + right == 0:
        return "none"
    if min(left, right) > BOTH_SIDES_SHARE * (left + right):
        return "both"
    return "left" if left > right else "right"


def _as_volume(array: ArrayLike) -> NDArray[Any]:
    """The 3-D array of (X, Y, Z) or (1, X, Y, Z)."""
    volume = as_array(array)
    if volume.ndim == 4 and volume.shape[0] == 1:
        volume = volume[0]
    if volume.ndim != 3:
        raise ValueError(f"A mask is (X, Y, Z) or (1, X, Y, Z), not of shape {volume.shape}.")
    return volume

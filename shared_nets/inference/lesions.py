"""What a lesion mask says in numbers: volume, count, side."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from numpy.typing import ArrayLike, NDArray

from shared_nets.affine import voxel_ml

# A lesion is on both sides when more than this share of its volume lies on the smaller side: our
# choice, so that a few voxels across the midline do not turn a one-sided stroke into a bilateral one.
BOTH_SIDES_SHARE = 0.1


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
    """

    volume_ml: float
    lesion_count: int
    largest_ml: float
    side: str
    max_probability: float


def measure_lesions(
    mask: ArrayLike, probability: ArrayLike | None, affine: ArrayLike, midline_x: float
) -> LesionSummary:
    """
    Measure the lesions of one scan, whatever its axes' order, direction and obliquity.

    Args:
        mask: lesion mask, (X, Y, Z) or (1, X, Y, Z); not 0 is lesion.
        probability: lesion probabilities on the same grid, 0–1; without them ``max_probability`` is NaN.
        affine: 4×4, voxel to world (RAS+, mm).
        midline_x: world x (mm) that divides the head, see :func:`head_midline`.

    Returns:
        The measurements.

    Raises:
        ValueError: if the mask is not one 3-D volume.
    """
    voxels = _as_volume(mask) != 0
    matrix = _as_numpy(affine).astype(np.float64)
    ml = voxel_ml(matrix)
    labels, count = cc3d.connected_components(voxels, connectivity=26, return_N=True)
    sizes = np.bincount(labels[voxels], minlength=1)
    return LesionSummary(
        volume_ml=float(voxels.sum()) * ml,
        lesion_count=int(count),
        largest_ml=float(sizes.max()) * ml,
        side=_side(voxels, matrix, midline_x),
        max_probability=float("nan") if probability is None else float(_as_volume(probability).max()),
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
    head = (_as_numpy(image) > background).any(axis=0)
    if not head.any():
        head = np.ones_like(head)
    # The mean of a mask along each axis, from its counts: no list of millions of coordinates.
    axes = range(3)
    counts = [head.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes]
    centre = [float(np.average(np.arange(len(count)), weights=count)) for count in counts]
    return float(_as_numpy(affine)[0] @ np.array([*centre, 1.0]))


def _side(voxels: NDArray[np.bool_], affine: NDArray[np.float64], midline_x: float) -> str:
    """The side of the lesion's voxels; those on the midline are on neither."""
    x = np.argwhere(voxels) @ affine[0, :3] + affine[0, 3]
    left, right = int((x < midline_x).sum()), int((x > midline_x).sum())
    if not len(x):
        return "none"
    if min(left, right) > BOTH_SIDES_SHARE * (left + right) or left == right:
        return "both"
    return "left" if left > right else "right"


def _as_numpy(array: Any) -> NDArray[Any]:
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def _as_volume(array: ArrayLike) -> NDArray[Any]:
    """The 3-D array of (X, Y, Z) or (1, X, Y, Z)."""
    volume = _as_numpy(array)
    if volume.ndim == 4 and volume.shape[0] == 1:
        volume = volume[0]
    if volume.ndim != 3:
        raise ValueError(f"A mask is (X, Y, Z) or (1, X, Y, Z), not of shape {volume.shape}.")
    return volume


class RemoveSmallLesionsd(MapTransform):
    """
    Drops the lesions of a binary mask that are smaller than a volume; 26-neighbourhood.

    The volume is in mL, from the mask's affine, so a mask on a finer grid loses the same lesions.
    """

    def __init__(
        self, keys: KeysCollection, smallest_ml: float = 0.05, allow_missing_keys: bool = False
    ) -> None:
        """
        Args:
            keys: masks ``(1, X, Y, Z)``, MetaTensors with 0 and 1.
            smallest_ml: a lesion of at least this volume stays.
            allow_missing_keys: do not complain about a missing key.
        """
        super().__init__(keys, allow_missing_keys)
        self.smallest_ml = smallest_ml

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The affine stays as it is."""
        out = dict(data)
        for key in self.key_iterator(out):
            mask = out[key]
            # A little less than the limit, so that rounding does not drop a lesion of just this volume.
            voxels = math.ceil(self.smallest_ml / voxel_ml(mask.affine) - 1e-6)
            kept = cc3d.dust(_as_numpy(mask)[0] != 0, threshold=voxels, connectivity=26)
            out[key] = convert_to_dst_type(kept[None], mask, dtype=mask.dtype)[0]
        return out

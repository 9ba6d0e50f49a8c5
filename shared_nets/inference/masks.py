"""From lesion probabilities to a mask: which voxels are lesion, and which lesions stay."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import cc3d
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from numpy.typing import ArrayLike, NDArray

from shared_nets.affine import voxel_ml
from shared_nets.inference.lesions import lesion_box


def hysteresis_mask(
    probability: NDArray[np.floating], threshold: float, peak_threshold: float
) -> NDArray[np.bool_]:
    """
    Voxels from a threshold on, in connected lesions (26-neighbourhood) that reach a higher one somewhere.

    Hysteresis thresholding (Canny, IEEE PAMI 1986): what is nowhere surely lesion is dropped, and of what is,
    the less sure border stays.

    Args:
        probability: ``(X, Y, Z)``, 0–1.
        threshold: a voxel is lesion from this probability on.
        peak_threshold: a lesion stays if one of its voxels has at least this probability; one that is not
            above ``threshold`` drops none.
    """
    mask = probability >= threshold
    if peak_threshold <= threshold:
        return mask
    box = lesion_box(mask)
    labels = cc3d.connected_components(np.ascontiguousarray(mask[box]), connectivity=26)
    stays = np.zeros(int(labels.max()) + 1, dtype=bool)
    stays[labels[probability[box] >= peak_threshold]] = True
    mask[box] = stays[labels]
    return mask


def without_small_lesions(
    mask: NDArray[np.bool_], affine: ArrayLike, smallest_ml: float
) -> NDArray[np.bool_]:
    """
    A mask without the connected lesions (26-neighbourhood) that are smaller than a volume.

    Args:
        mask: ``(X, Y, Z)``.
        affine: 4×4, voxel to mm.
        smallest_ml: the least volume that is kept, in mL.
    """
    # A little less than the limit, so that rounding does not drop a lesion of just this volume.
    voxels = math.ceil(smallest_ml / voxel_ml(affine) - 1e-6)
    box = lesion_box(mask)
    kept = np.zeros_like(mask)
    kept[box] = cc3d.dust(mask[box], threshold=voxels, connectivity=26)
    return kept


class HysteresisThresholdd(MapTransform):
    """Probabilities to a mask by two thresholds, see :func:`hysteresis_mask`; one of 0 drops no lesion."""

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float = 0.5,
        peak_threshold: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        """
        Args:
            keys: probabilities ``(1, X, Y, Z)``, 0–1; become 0 and 1, uint8.
            threshold: a voxel is lesion from this probability on.
            peak_threshold: a lesion stays if one of its voxels has at least this probability.
            allow_missing_keys: do not complain about a missing key.
        """
        super().__init__(keys, allow_missing_keys)
        self.threshold = threshold
        self.peak_threshold = peak_threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The affine stays as it is."""
        out = dict(data)
        for key in self.key_iterator(out):
            mask = hysteresis_mask(_volume(out[key]), self.threshold, self.peak_threshold)
            out[key] = convert_to_dst_type(mask[None], out[key], dtype=torch.uint8)[0]
        return out


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
            kept = without_small_lesions(_volume(mask) != 0, mask.affine, self.smallest_ml)
            out[key] = convert_to_dst_type(kept[None], mask, dtype=mask.dtype)[0]
        return out


def _volume(image: torch.Tensor) -> NDArray[Any]:
    """``(1, X, Y, Z)`` as an array ``(X, Y, Z)``."""
    volume: NDArray[Any] = image[0].detach().cpu().numpy()
    return volume

"""Where the head is, and intensities brought to 0-1 over it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar, cast

import cc3d
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch.nn import functional as F

from shared_nets.errors import ScanGeometryError, UsageError, times

Array = TypeVar("Array", torch.Tensor, NDArray[Any])

# The head is looked for on a grid of about this size: averaging quiets noisy air and makes it fast.
COARSE_MM = 3.0
# From the vertex down, as far as a brain reaches: an ellipsoid of the ICBM152 brain's half axes (88 mm front
# to back, 72 mm up) under 10 mm of skull and scalp needs 154 mm upright, 160 mm with the head tipped by 25°.
CRANIUM_MM = 160.0
# The standard error of a percentile's rank at 0.5 % of half a million voxels is 0.01 %.
SAMPLES = 500_000


def head_mask(image: Array) -> Array:
    """
    Tell head from air, for scans with skull and without; made for ``CropForegroundd(select_fn=head_mask)``.

    On a grid of about 3 mm, each channel is cut between the air and Otsu's threshold; what is above it in any
    channel is joined over gaps such as bone, its largest connected piece kept and filled.

    Args:
        image: (channels, X, Y, Z); a MetaTensor tells its voxel size, others are taken for 1 mm. Channels
            that are constant (a missing modality) do not count.

    Returns:
        bool (1, X, Y, Z) of the same kind and device, in blocks of about 3 mm. Only a constant image has no
        head.
    """
    tensor = torch.as_tensor(image)
    spacing = image.pixdim.tolist() if isinstance(image, MetaTensor) else [1.0, 1.0, 1.0]
    plain = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    shape = tuple(plain.shape[1:])
    block = [min(max(1, round(COARSE_MM / s)), n) for s, n in zip(spacing, shape, strict=True)]
    # On the CPU: Otsu, components and filling have no GPU form here, and the coarse grid is small.
    coarse = F.avg_pool3d(plain.detach().float()[None], block, ceil_mode=True, count_include_pad=False)[0]
    head = _coarse_head(coarse.cpu().numpy())
    if not head.any():
        # A constant coarse grid over voxels that vary: nothing to go by but the voxels.
        full = (plain != plain.amin(dim=(1, 2, 3), keepdim=True)).any(0, keepdim=True)
    else:
        full = torch.from_numpy(head)
        for axis, size in enumerate(block):
            full = full.repeat_interleave(size, dim=axis).narrow(axis, 0, shape[axis])
        full = full[None].to(plain.device)
    return cast(Array, full if isinstance(image, torch.Tensor) else full.numpy())


def cranium_mask(image: Array) -> Array:
    """
    The head without its neck: made for ``CropForegroundd(select_fn=cranium_mask)``.

    Mouths and necks hold no lesion, take computing time, and their fat and air set the scale of intensities.

    Args:
        image: (channels, X, Y, Z), oriented to ARS or another order with the last axis towards superior; a
            MetaTensor tells its voxel size, others are taken for 1 mm.

    Returns:
        bool (1, X, Y, Z) of the same kind and device: `head_mask` down to 160 mm under its top, or all
        where there is no head.
    """
    mask = head_mask(image)
    shown = torch.as_tensor(mask).any(dim=(0, 1, 2)).nonzero()
    thickness = float(image.pixdim[2]) if isinstance(image, MetaTensor) else 1.0
    if len(shown):
        lowest = int(shown.max()) + 1 - round(CRANIUM_MM / thickness)
        mask[..., : max(0, lowest)] = False
    else:
        mask[:] = True  # nothing to crop to: a lone bright voxel is lost between coarse pixels
    return mask


def _coarse_head(channels: NDArray[np.float32]) -> NDArray[np.bool_]:
    above = np.zeros(channels.shape[1:], dtype=bool)
    for channel in channels:
        if channel.min() < channel.max():
            above |= _above_air(channel)
    if not above.any():
        return above
    # Closed first: dark bone would part the brain from the scalp.
    closed = ndimage.binary_closing(np.pad(above, 2), iterations=2)[2:-2, 2:-2, 2:-2]
    piece = cc3d.largest_k(closed, k=1, connectivity=6) > 0
    return cast(NDArray[np.bool_], ndimage.binary_fill_holes(piece))


def _above_air(channel: NDArray[np.float32]) -> NDArray[np.bool_]:
    """What is brighter than air in one channel."""
    background = background_of(channel)
    # Where the background is one exact value (0, or anything after z-scoring), distance from it is signal.
    signal = channel - channel.min() if background is None else np.abs(channel - background)
    # Bright fat, vessels or a corner under a coil must not set the scale; a head fills more than a twentieth.
    signal = np.minimum(signal, np.percentile(signal[signal > 0], 95))
    if signal.min() == signal.max():
        return signal > 0
    between = threshold_otsu(signal.ravel())
    air, head = signal[signal <= between], signal[signal > between]
    level = np.median(air)
    spread = 1.4826 * np.median(np.abs(air - level))  # the standard deviation, for a normal distribution
    # Otsu alone would give dark tissue to the air; noise and 15 % of the head's brightness bound it below.
    return cast(NDArray[np.bool_], signal > min(between, max(level + 5 * spread, 0.15 * np.median(head))))


def background_of(channel: NDArray[Any]) -> float | None:
    """
    The one value that most voxels of a volume's faces have exactly, if there is one.

    Args:
        channel: (X, Y, Z).
    """
    faces = np.concatenate([channel[index].ravel() for index in _faces(channel.ndim)])
    middle = float(np.median(faces))
    return middle if np.mean(faces == middle) > 0.5 else None


def _faces(ndim: int) -> list[tuple[slice | int, ...]]:
    whole = (slice(None),) * ndim
    return [(*whole[:axis], side, *whole[axis + 1 :]) for axis in range(ndim) for side in (0, -1)]


class CheckGridd(MapTransform):
    """
    Refuse a scan that does not lie on the grid that a crop at fixed voxels is made for.

    Args:
        keys: keys of the images (channels, X, Y, Z), MetaTensors.
        shape: voxels along the three axes.
        voxel_mm: the side of a voxel in mm.
        allow_missing_keys: whether a case may lack the keys.
    """

    def __init__(
        self, keys: KeysCollection, shape: Sequence[int], voxel_mm: float, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.shape = tuple(shape)
        self.voxel_mm = voxel_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Args:
            data: a case.

        Returns:
            the case as it is.

        Raises:
            ScanGeometryError: if an image has another shape, or voxels of another size by more than 1 %.
        """
        for key in self.key_iterator(dict(data)):
            shape, voxel = tuple(data[key].shape[1:]), data[key].pixdim.numpy()
            if shape != self.shape or not np.allclose(voxel, self.voxel_mm, rtol=0.01):
                has, wanted = (times(numbers) for numbers in (shape, self.shape))
                scan = data[key].meta.get("filename_or_obj", key)
                raise ScanGeometryError(
                    f"{scan} has {has} voxels of {times(voxel)} mm, and "
                    f"this recipe crops {wanted} of {self.voxel_mm:g} mm at fixed voxels: bring the scan to "
                    f"that grid, or leave the recipe out."
                )
        return dict(data)


class ScaleHeadIntensityd(MapTransform):
    """
    Bring each channel to 0-1 between two percentiles over the head that it shows, and clip.

    Its own head: FLAIR shows scalp and neck, which DWI suppresses. How much air a crop to both leaves around
    DWI's head still moves its scale, on the demo's case by a tenth.

    A constant channel (a missing modality) becomes 0. Air keeps its place below the head; only where a
    skull-stripped scan's background is one exact value above the lower percentile (a z-scored scan) is it set
    to 0.

    Args:
        keys: keys of the images (channels, X, Y, Z).
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        allow_missing_keys: whether a case may lack the keys.
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 0.5,
        upper: float = 99.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= lower < upper <= 100:
            raise UsageError(f"Percentiles must satisfy 0 <= lower < upper <= 100, not {lower} and {upper}.")
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Args:
            data: a case.

        Returns:
            the case with each key's image scaled to float32 in 0-1, its meta unchanged.
        """
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            scaled[key] = self._scale(scaled[key])
        return scaled

    def _scale(self, image: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(image, dtype=torch.float32)
        for index, (result, channel) in enumerate(zip(out, image.float(), strict=True)):
            values = channel.cpu().numpy()
            # Evenly spaced head voxels: the same ones every time.
            places = np.flatnonzero(head_mask(image[index : index + 1]).cpu().numpy())
            sample = values.ravel()[places[:: max(1, len(places) // SAMPLES)]]
            if sample.size == 0 or values.min() == values.max():
                continue
            low, high = np.percentile(sample, [self.lower, self.upper])
            if low == high:  # hardly anything varies: use all there is
                low, high = values.min(), values.max()
            result.copy_((channel - float(low)).div_(float(high - low)).clamp_(0, 1))
            background = background_of(values)
            if background is not None and background > low:
                result[torch.from_numpy(values == background).to(result.device)] = 0
        return out

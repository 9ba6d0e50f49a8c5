"""Voxels brought to another spacing, and lesion probabilities back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai import transforms
from monai.config import KeysCollection
from monai.data import MetaTensor
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from shared_nets.errors import UsageError

# Voxels. Coordinates in float32, as for any resampling on a grid of a few hundred voxels, are no more exact.
SAME_PLACE = 1e-4
# Voxels by which axes at right angles may stray over their length: DICOM, NRRD and MHA write orientations to
# six digits, which over 512 voxels moves the last one by up to a hundredth of its size.
STRAYING = 0.05
# How near to 0 and 1 a probability counts as certain. From 1e-3 to 1e-5 the volumes of 41 real lesions over
# 1 mL, brought to pixels of 2 mm and back, are right to 1 %; balls of 1.1 mL at 40 places to 2 % with this,
# not with 1e-4.
UNCERTAINTY = 3e-5
NEGLIGIBLE = 1e-6
# In MONAI's record of a resampling: the affine from before it was straightened.
GIVEN_AFFINE = "given_affine"
SPLINE: dict[str, Any] = {"order": 3, "mode": "nearest"}
LINEAR = ("bilinear", "border")
"""MONAI's names for the interpolation and padding that have ways of their own here."""

Shares = Callable[[int, int, float, float], NDArray[np.float64]]
"""
Of an axis' old length, new length, and the scale and start that lead from a new index to an old one: what
each old value gives to each new one, (new, old).
"""


class Spacingd(transforms.Spacingd):
    """
    MONAI's ``Spacingd`` for cases that have more than images, with `Rescale`'s linear interpolation.

    Up to MONAI 1.6.1 it takes every key that begins with ``image_`` for meta data of ``image``, and fails on
    the path that MONAI Label keeps as ``image_path``.
    """

    def __init__(self, keys: KeysCollection, pixdim: Sequence[float], *args: Any, **kwargs: Any) -> None:
        """
        As MONAI's, but with all of the spacing told: MONAI makes up what is left out.

        Raises:
            UsageError: if the spacing is not three numbers.
        """
        if not _is_spacing(pixdim):
            raise UsageError(
                f"spacing is three numbers, in mm, of which -1 keeps the scan's own, not {pixdim!r}."
            )
        super().__init__(keys, pixdim, *args, **kwargs)
        self.spacing_transform.sp_resample = Rescale(lazy=self.spacing_transform.lazy)

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """
        Args:
            data: a case.
            lazy: as MONAI's.

        Returns:
            the case with each key's image resampled, all else untouched.
        """
        images = {key: _straightened(data[key]) for key in self.key_iterator(dict(data))}
        changed = [key for key, image in images.items() if image is not data[key]]
        resampled = super().__call__(images, lazy)
        for key in changed:
            _remember(data[key].affine, resampled[key])
        return {**data, **resampled}


def _straightened(image: Any) -> Any:
    """
    An image with axes exactly at right angles, if they are so but for the rounding of a file's header.

    Otherwise MONAI takes the grid for a sheared one, and puts the new one elsewhere, by up to a voxel.
    """
    if not isinstance(image, MetaTensor) or image.ndim != 4:
        return image
    affine = np.asarray(image.affine.cpu(), dtype=np.float64)
    sizes = voxel_sizes(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / sizes)
    straight = affine.copy()
    straight[:3, :3] = left @ right * sizes
    astray = _distances(np.linalg.solve(affine, straight) - np.eye(4), image.shape[1:]).max()
    if not 0 < astray < STRAYING:
        return image
    image = MetaTensor(image.as_tensor()).copy_meta_from(image)
    image.affine = torch.from_numpy(straight)
    return image


def _remember(affine: torch.Tensor, resampled: Any) -> None:
    """Keep the affine that an image came with for the way back: what comes back lies where the file says."""
    steps = resampled.pending_operations or resampled.applied_operations
    if steps:  # none where MONAI keeps no record
        steps[-1][GIVEN_AFFINE] = affine


def _is_spacing(pixdim: object) -> bool:
    try:
        values = np.asarray(pixdim, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return values.shape == (3,) and bool(np.isfinite(values).all())


class Rescale(transforms.SpatialResample):
    """
    MONAI's ``SpatialResample`` with other ways there and back for ``mode="bilinear"`` with borders repeated.

    Where voxels become larger, MONAI takes one point of each: from 1 to 2 mm every second voxel, noise and
    all. Here each is a weighted mean over its extent, as in the antialiased interpolation of Pillow and
    PyTorch. Back, MONAI's interpolation makes convex lesions smaller; here `probability_on` keeps their size.
    What is not a volume, grids whose axes are not parallel, and lazy calls take MONAI's way there.
    """

    def __call__(
        self,
        img: torch.Tensor,
        dst_affine: torch.Tensor | None = None,
        spatial_size: Any = None,
        mode: Any = None,
        padding_mode: Any = None,
        align_corners: bool | None = None,
        dtype: Any = None,
        lazy: bool | None = None,
    ) -> torch.Tensor:
        """As MONAI's."""
        linear = (mode, padding_mode) == LINEAR and dst_affine is not None and spatial_size is not None
        eager = not (self.lazy if lazy is None else lazy)
        if linear and eager and isinstance(img, MetaTensor) and img.ndim == 4 and not img.pending_operations:
            there, size = np.asarray(dst_affine, dtype=np.float64), tuple(int(n) for n in spatial_size)
            to_here = np.linalg.solve(np.asarray(img.affine.cpu()), there)
            if are_parallel(to_here, size):
                return self._rescaled(img, to_here, size)
        return super().__call__(img, dst_affine, spatial_size, mode, padding_mode, align_corners, dtype, lazy)

    def _rescaled(self, img: MetaTensor, to_here: NDArray[np.float64], size: tuple[int, ...]) -> MetaTensor:
        """With what MONAI keeps for the way back."""
        values = rescale(img.as_tensor().float(), to_here, size, linear_shares)
        mode, padding_mode = LINEAR
        told = {"mode": mode, "padding_mode": padding_mode, "align_corners": False, "dtype": "float32"}
        there = MetaTensor(values).copy_meta_from(img)
        return cast(
            MetaTensor,
            self.push_transform(
                there,
                sp_size=size,
                affine=torch.from_numpy(to_here),
                orig_size=tuple(img.shape[1:]),
                extra_info={**told, "src_affine": img.affine},
            ),
        )

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """
        Args:
            data: what came from ``__call__``, or lesion probabilities on its grid.

        Returns:
            the same on the grid from before, with the affine that the scan came with.
        """
        step = self.get_most_recent_transform(data)
        back = self._back(data, step)
        if GIVEN_AFFINE in step and isinstance(back, MetaTensor) and not back.pending_operations:
            back.affine = step[GIVEN_AFFINE]
        return back

    def _back(self, data: torch.Tensor, step: Mapping[str, Any]) -> torch.Tensor:
        how, size = step["extra_info"], tuple(int(n) for n in step["orig_size"])
        waiting = isinstance(data, MetaTensor) and data.pending_operations
        if (how["mode"], how["padding_mode"]) != LINEAR or waiting:
            return cast(torch.Tensor, super().inverse(data))
        image = cast(MetaTensor, data)
        self.pop_transform(image)
        to_here = np.linalg.solve(np.asarray(image.affine.cpu()), np.asarray(how["src_affine"].cpu()))
        values = probability_on(image.as_tensor().float(), to_here, size)
        back = cast(MetaTensor, MetaTensor(values).copy_meta_from(image))
        back.affine = how["src_affine"]
        return back


def probability_on(
    probability: torch.Tensor, to_here: NDArray[np.float64], size: tuple[int, ...]
) -> torch.Tensor:
    """
    Lesion probabilities on another grid, with lesions of the size they had.

    Linear interpolation rounds off what curves, so that lesions shrink; and beside a pixel that is certain,
    one that is half lesion looks like the border. So the logarithm of the odds is interpolated, which is
    about linear in the distance from the border, by cubic splines, which keep curvature.

    Args:
        probability: (channels, X, Y, Z), float32, 0-1.
        to_here: 4×4, from voxel indices of the new grid to those of ``probability``.
        size: the new grid's.

    Returns:
        (channels, *size), of the same type and device, 0-1.
    """
    if tuple(probability.shape[1:]) == size and _distances(to_here - np.eye(4), size).max() < SAME_PLACE:
        return probability
    odds = probability.clamp(0, 1).mul_(1 - 2 * UNCERTAINTY).add_(UNCERTAINTY).logit_()
    # One axis after another is much faster.
    parallel = are_parallel(to_here, size)
    odds = rescale(odds, to_here, size, spline_shares) if parallel else _resample(odds, to_here, size)
    back = odds.sigmoid_().sub_(UNCERTAINTY).div_(1 - 2 * UNCERTAINTY).clamp_(0, 1)
    return F.threshold(back, NEGLIGIBLE, 0, inplace=True)  # air, which rounding left at 1e-8


def rescale(
    volume: torch.Tensor, to_here: NDArray[np.float64], size: tuple[int, ...], shares: Shares
) -> torch.Tensor:
    """
    Resample on a grid with parallel axes, one axis after another.

    Args:
        volume: (channels, X, Y, Z), floating point.
        to_here: 4×4 without rotation and shear, from voxel indices of the new grid to the volume's.
        size: the new grid's.
        shares: `linear_shares` or `spline_shares`.

    Returns:
        (channels, *size), of the same type and device.
    """
    for axis, (old, new) in enumerate(zip(volume.shape[1:], size, strict=True)):
        scale, start = float(to_here[axis, axis]), float(to_here[axis, 3])
        if old == new and np.allclose(
            start + scale * np.arange(new), np.arange(new), rtol=0, atol=SAME_PLACE
        ):
            continue
        share = torch.from_numpy(shares(old, new, scale, start)).to(volume)
        before, after = volume.shape[: axis + 1], volume.shape[axis + 2 :]
        volume = torch.matmul(share, volume.reshape(*before, old, -1)).reshape(*before, new, *after)
    return volume


def linear_shares(old: int, new: int, scale: float, start: float) -> NDArray[np.float64]:
    """
    Linear interpolation; where new voxels are larger, over as many old ones as they are larger.

    Args:
        old: the axis' length.
        new: its new length.
        scale: a new voxel's size in old ones, more than 0.
        start: the first new voxel's place; beyond the ends the outermost value goes on.

    Returns:
        (new, old), rows of sum 1.
    """
    places = np.clip(start + scale * np.arange(new), 0, old - 1)
    hats = np.clip(1 - np.abs(places[:, None] - np.arange(old)) / max(scale, 1), 0, None)
    return cast(NDArray[np.float64], hats / hats.sum(axis=1, keepdims=True))


def spline_shares(old: int, new: int, scale: float, start: float) -> NDArray[np.float64]:
    """Interpolation by cubic splines, with the outermost values going on outside; see `linear_shares`."""
    share = ndimage.affine_transform(np.eye(old), [scale, 1], [start, 0], (new, old), **SPLINE)
    share[np.abs(share) < 1e-12] = 0  # numbers that float32 hardly holds take ten times as long
    return cast(NDArray[np.float64], share)


def are_parallel(to_here: NDArray[np.float64], size: tuple[int, ...]) -> bool:
    """
    Whether a grid's axes run along another's, in the same order and direction.

    Args:
        to_here: 4×4, from voxel indices of the grid to those of the other.
        size: the grid's.
    """
    astray = _distances(to_here, size)[:, :3][~np.eye(3, dtype=bool)].max()
    return bool(astray < SAME_PLACE and (np.diag(to_here) > 0).all())


def _resample(volume: torch.Tensor, to_here: NDArray[np.float64], size: tuple[int, ...]) -> torch.Tensor:
    """Splines on any grid, on the CPU."""
    channels = volume.cpu().numpy()
    back = [ndimage.affine_transform(one, to_here, output_shape=size, **SPLINE) for one in channels]
    return torch.from_numpy(np.stack(back)).to(volume)


def _distances(matrix: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float64]:
    """How far the new grid's axes, and its origin, lead along each of the old one's: (3, 4), voxels."""
    return cast(NDArray[np.float64], np.abs(matrix[:3]) * [*(n - 1 for n in size), 1])

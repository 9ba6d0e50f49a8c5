"""The slices of a volume through a 2-D network: one window a head, several slices at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from monai.inferers import Inferer
from monai.networks.layers import gaussian_1d
from monai.utils import convert_to_dst_type, ensure_tuple_rep
from torch import Tensor
from torch.nn import functional as F

from shared_nets.errors import DeviceError, NetworkOutputError, UsageError, is_out_of_memory
from shared_nets.switches import check_amount

# The logit of what was not computed: a probability of 1e-7, finite in float16.
NO_LESION_LOGIT = -16.0
# A probability of 1e-5: when logits of slices are averaged, none of them counts for more than this.
SUREST_LOGIT = 11.5


class Window(NamedTuple):
    """One window: which slice, and its first row and column there."""

    plane: int
    row: int
    column: int


class SliceWindowInferer(Inferer):
    """
    Runs a 2-D network over the slices of a volume, the last spatial axis.

    A slice whose head fits the window is one window, centred on the head. A larger head is covered by
    the fewest windows of at least ``overlap``, blended by MONAI's importance map. Slices and windows
    without head are not computed, and get :data:`NO_LESION_LOGIT`. Windows of several slices go
    through the network together. The result does not depend on how many.

    What counts as head: a voxel above ``background``, in any channel, for most of whose 5×5 neighbours the
    mean of their own 5×5 is above it too, so that grains of noise do not count. Where the air is noisy
    the limit rises to twice the air's level (the tenth percentile of the means: for the Rayleigh noise
    of air that is 1.9 standard deviations above its mean, before averaging), at most to five times
    ``background``, so that tissue in a tight field of view does not pass for air.

    A slice is segmented by itself, but a lesion that shows in a single slice of 1 mm is none. With
    ``smoothing_mm`` the logits of a pixel are averaged over the slices beside it, by a Gaussian; slices
    that lie far apart stay as they are.

    When the GPU's memory is short, the number of windows at a time is halved until it suffices, and
    stays there.

    Args:
        roi_size: height and width of the window, rows and columns of a slice.
        sw_batch_size: windows at a time.
        overlap: least overlap of neighbouring windows, as a fraction of the window.
        mode: how overlapping windows are blended, ``"gaussian"`` or ``"constant"``.
        sigma_scale: standard deviation of the Gaussian, as a fraction of the window.
        background: what is not above it is air, for intensities of 0–1.
        mirror: take the mean of each window's logits and its left-right mirror image's (columns reversed,
            turned back); twice the work.
        first_channel_decides: where a window has more than its first channel, take the lower of its logits
            and those with the first channel alone (the others zero): the other channels can then take
            lesions away, but add none. Twice the work for such windows.
        smoothing_mm: standard deviation of that Gaussian in mm; 0 for none. How far slices lie apart is told
            by the inputs' affine; without one it is 1 mm.
        sw_device: where windows are computed; the inputs' device by default.
        device: where the result is stitched and returned; the inputs' device by default.

    Raises:
        UsageError: if a size, the overlap, the background or the smoothing is out of range.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int = (224, 192),
        sw_batch_size: int = 8,
        overlap: float = 0.25,
        mode: str = "gaussian",
        sigma_scale: float = 0.125,
        background: float = 0.02,
        mirror: bool = False,
        first_channel_decides: bool = False,
        smoothing_mm: float = 0.0,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.roi_size = tuple(int(size) for size in ensure_tuple_rep(roi_size, 2))
        if min(self.roi_size) < 1 or sw_batch_size < 1:
            raise UsageError(f"roi_size {self.roi_size} and sw_batch_size {sw_batch_size} must be positive.")
        if not 0 <= overlap < 1:
            raise UsageError(f"overlap is a fraction of the window, from 0 to below 1, not {overlap}.")
        if background < 0:
            raise UsageError(f"background is an intensity of at least 0, not {background}.")
        check_amount("smoothing_mm", smoothing_mm, "a distance in mm")
        self.sw_batch_size = sw_batch_size
        self.overlap = overlap
        self.background = background
        self.mirror = mirror
        self.first_channel_decides = first_channel_decides
        self.smoothing_mm = smoothing_mm
        self.sw_device = sw_device
        self.device = device
        self.importance = compute_importance_map(self.roi_size, mode=mode, sigma_scale=sigma_scale)

    @torch.no_grad()
    def find_windows(self, slices: Tensor, limit: float) -> list[Window]:
        """
        The windows to compute.

        Args:
            slices: ``(M, C, H, W)``, each at least as large as the window.
            limit: what is not above it is air.
        """
        head = _head(slices, limit).cpu().numpy()
        return [window for plane, mask in enumerate(head) for window in self._cover(plane, mask)]

    def _cover(self, plane: int, mask: np.ndarray) -> Iterator[Window]:
        """The windows over one slice's head, given as a boolean mask (H, W)."""
        height, width = self.roi_size
        if not mask.any():
            return
        rows, columns = (
            _starts(np.flatnonzero(mask.any(axis=1 - axis)), size, mask.shape[axis], self.overlap)
            for axis, size in enumerate(self.roi_size)
        )
        for row in rows:
            for column in columns:
                if mask[row : row + height, column : column + width].any():
                    yield Window(plane, row, column)

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor | MetaTensor:
        """
        Args:
            inputs: ``(N, C, H, W, S)``, intensities of 0–1, S slices of H rows and W columns.
            network: a module or function from ``(n, C, *roi_size)`` to logits ``(n, out, *roi_size)``.
            args: passed on to ``network``.
            kwargs: passed on to ``network``.

        Returns:
            Logits ``(N, out, H, W, S)``, float32, a MetaTensor with the inputs' meta data if they have any.

        Raises:
            ValueError: if the inputs are not 5-D, or the network returns another size than the window's.
            DeviceError: if the GPU's memory does not suffice for one window.
            NetworkOutputError: if the network returns NaN or infinite values.
        """
        if inputs.dim() != 5:
            raise ValueError(f"Inputs are (N, channels, H, W, slices), not of shape {tuple(inputs.shape)}.")
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        number, channels, height, width, depth = volumes.shape
        slices = volumes.permute(0, 4, 1, 2, 3).reshape(number * depth, channels, height, width)
        limit = _air_limit(slices, self.background)
        padding = _padding((height, width), self.roi_size)
        slices = F.pad(slices, padding)

        network = _both_ways(network) if self.mirror else network
        network = _first_deciding(network) if self.first_channel_decides else network
        logits = self._stitch(slices, limit, network, *args, **kwargs)
        top, left = padding[2], padding[0]
        logits = logits[:, :, top : top + height, left : left + width]
        logits = logits.unflatten(0, (number, depth)).permute(0, 2, 3, 4, 1).contiguous()
        if self.smoothing_mm > 0:
            logits = torch.stack(
                [
                    smoothed_across_slices(volume, self.smoothing_mm / distance)
                    for volume, distance in zip(logits, _slice_distances(inputs), strict=True)
                ]
            )
        if isinstance(inputs, MetaTensor):
            meta = MetaTensor([]).copy_meta_from(inputs, copy_attr=False)
            return convert_to_dst_type(logits, meta, device=logits.device)[0]
        return logits

    def _stitch(
        self, slices: Tensor, limit: float, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Logits (M, out, H, W) of padded ``slices`` (M, C, H, W), windows weighted by importance."""
        device = torch.device(self.device) if self.device is not None else slices.device
        height, width = self.roi_size
        importance = self.importance.to(device)
        windows = self.find_windows(slices, limit)

        total: Tensor | None = None
        weight = torch.zeros(slices.shape[0], 1, *slices.shape[2:], device=device)
        # Without any head one window of air is computed all the same: it tells the number of outputs.
        for batch, output in self._compute(windows or [Window(0, 0, 0)], slices, network, *args, **kwargs):
            output = output.to(device=device, dtype=torch.float32) * importance
            if total is None:
                total = torch.zeros(slices.shape[0], output.shape[1], *slices.shape[2:], device=device)
            for window, logits in zip(batch, output, strict=True):
                rows, columns = (
                    slice(window.row, window.row + height),
                    slice(window.column, window.column + width),
                )
                total[window.plane, :, rows, columns] += logits
                weight[window.plane, :, rows, columns] += importance
        assert total is not None  # there is always a window
        if not windows:
            return total.fill_(NO_LESION_LOGIT)
        logits = torch.where(weight > 0, total / weight, NO_LESION_LOGIT)
        # No probability of these would reach the threshold: the scan would pass for one without lesion.
        if not torch.isfinite(logits).all():
            raise NetworkOutputError(
                "the network returned values that are NaN or infinite: compute it in float32, or take other "
                "weights."
            )
        return logits

    def _compute(
        self,
        windows: Sequence[Window],
        slices: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> Iterator[tuple[Sequence[Window], Tensor]]:
        """Batches of windows and the network's output for each, in smaller batches if memory is short."""
        device = self.sw_device if self.sw_device is not None else slices.device
        height, width = self.roi_size
        wanted = self.sw_batch_size
        done = 0
        while done < len(windows):
            batch = windows[done : done + self.sw_batch_size]
            views = [slices[i, :, y : y + height, x : x + width] for i, y, x in batch]
            try:
                output: Tensor | None = network(torch.stack(views).to(device), *args, **kwargs)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                output = None  # outside this block, where the error no longer holds the failed pass's memory
            if output is None:
                self._halve(len(batch))
                continue
            if output.dim() != 4 or tuple(output.shape[2:]) != self.roi_size or len(output) != len(batch):
                raise ValueError(
                    f"The network returned {tuple(output.shape)} for {len(batch)} windows of "
                    f"{height}×{width}: it must keep the number and size of the windows."
                )
            done += len(batch)
            yield batch, output
        if self.sw_batch_size < wanted:
            warnings.warn(
                f"Memory is short: windows now go through the network {self.sw_batch_size} at a time, "
                f"not {wanted}; the result is the same.",
                stacklevel=2,
            )

    def _halve(self, tried: int) -> None:
        if tried == 1:
            raise DeviceError(
                "The device has not enough free memory for a single window: close other programs that use "
                "it, or run on the CPU (--device cpu)."
            )
        self.sw_batch_size = tried // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def smoothed_across_slices(logits: Tensor, sigma: float) -> Tensor:
    """
    Logits averaged over the slices beside each, by a Gaussian; beyond the ends the last slice is repeated.

    Args:
        logits: ``(out, H, W, S)``, S slices; those beyond :data:`SUREST_LOGIT` count as that.
        sigma: standard deviation of the Gaussian, in slices.
    """
    weights = gaussian_1d(torch.tensor(float(sigma)), approx="sampled", normalize=True).tolist()
    reach, slices = len(weights) // 2, logits.shape[-1]
    padded = F.pad(logits.clamp(-SUREST_LOGIT, SUREST_LOGIT), (reach, reach, 0, 0), mode="replicate")
    smoothed = torch.zeros_like(logits)
    for first, weight in enumerate(weights):  # a convolution would be one of bfloat16 under autocast
        smoothed += weight * padded[..., first : first + slices]
    return smoothed


def _slice_distances(inputs: Tensor) -> list[float]:
    """How far the slices of each volume (N, C, H, W, S) lie apart, in mm."""
    if not isinstance(inputs, MetaTensor):
        return [1.0] * len(inputs)
    affines = inputs.affine.expand(len(inputs), 4, 4)
    return torch.linalg.vector_norm(affines[:, :3, 2].double(), dim=1).tolist()


def _both_ways(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function from ``(n, C, H, W)`` to the mean of the network's logits for it and its mirror image."""

    def run(windows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        turned = network(windows.flip(-1), *args, **kwargs).flip(-1)
        return (network(windows, *args, **kwargs) + turned) / 2

    return run


def _first_deciding(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function from ``(n, C, H, W)`` to the lower of the network's logits for it and its first channel."""

    def run(windows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        logits = network(windows, *args, **kwargs)
        first, others = (part.flatten(1).any(dim=1) for part in (windows[:, :1], windows[:, 1:]))
        several = first & others
        if not several.any():
            return logits
        alone = windows.clone()
        alone[:, 1:] = 0
        lower = torch.minimum(logits, network(alone, *args, **kwargs))
        return torch.where(several[:, None, None, None], lower, logits)

    return run


def _air_limit(slices: Tensor, background: float) -> float:
    """Below what value of ``slices`` (M, C, H, W) there is air; padding would count as air without noise."""
    sample = _local_mean(slices.float()).amax(dim=1).flatten()
    sample = sample[:: max(1, sample.numel() // 2**20)]
    air = float(np.quantile(sample.cpu().numpy(), 0.1))  # torch's sorts all of it
    return min(max(background, 2 * air), 5 * background)


def _head(slices: Tensor, limit: float) -> Tensor:
    """Where there is head, brighter than the limit, in ``slices`` (M, C, H, W): a boolean (M, H, W)."""
    values = slices.float()
    means = _local_mean(values).amax(dim=1)
    most_neighbours = _local_mean((means > limit).float()) > 0.5
    # The voxel itself as well: its neighbours alone would widen the head by two voxels.
    return most_neighbours & (values.amax(dim=1) > limit)


def _local_mean(planes: Tensor) -> Tensor:
    """The mean of 5×5 pixels of planes (..., H, W), at the border of those that are there."""
    # As channels of one image, in memory beside each other: many pixels at a time.
    stacked = planes.flatten(end_dim=-3)[None].contiguous(memory_format=torch.channels_last)
    means = F.avg_pool2d(stacked, kernel_size=5, stride=1, padding=2, count_include_pad=False)
    return means.reshape(planes.shape)


def _starts(occupied: np.ndarray, window: int, size: int, overlap: float) -> list[int]:
    """First positions, on an axis of ``size``, of the fewest windows that cover the ``occupied`` ones."""
    first, last = int(occupied[0]), int(occupied[-1]) + 1
    extent = last - first
    if extent <= window:
        return [min(max(first - (window - extent) // 2, 0), size - window)]
    shared = min(math.ceil(overlap * window), window - 1)
    number = math.ceil((extent - shared) / (window - shared))
    return [first + round(step * (extent - window) / (number - 1)) for step in range(number)]


def _padding(size: Sequence[int], window: Sequence[int]) -> tuple[int, int, int, int]:
    """Zeros around a slice smaller than the window, as torch's ``pad`` wants them: the last axis first."""
    rows, columns = (max(0, w - s) for s, w in zip(size, window, strict=True))
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2

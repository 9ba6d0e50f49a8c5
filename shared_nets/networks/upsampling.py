"""Nearest-neighbour upsampling followed by a 3×3 convolution, which sees every value four times."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class UpConv(nn.Conv2d):
    """Nearest-neighbour upsampling ×2 followed by a 3×3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """
        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
        """
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """``(N, in, H, W)`` to ``(N, out, 2H, 2W)``."""
        return convolve_upsampled(input, self.weight, self.bias, self.training)


class UpJoin(nn.Module):
    """Nearest-neighbour upsampling ×2, joined with a skip → 3×3 convolution → ReLU."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        """
        Args:
            in_channels: channels of the map to upsample.
            skip_channels: channels of the skip.
            out_channels: channels of the output.
        """
        super().__init__()
        self.in_channels = in_channels
        self.skip_channels = skip_channels
        self.conv = nn.Conv2d(in_channels + skip_channels, out_channels, kernel_size=3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """``(N, in, H, W)`` and ``(N, skip, 2H, 2W)`` to ``(N, out, 2H, 2W)``."""
        # A convolution of joined maps is the sum of each map's, and what is upsampled costs less alone.
        up, skipped = self.conv.weight.split([self.in_channels, self.skip_channels], dim=1)
        joined = convolve_upsampled(x, up, self.conv.bias, self.training)
        return self.relu(joined + F.conv2d(skip, skipped, padding=1))


def convolve_upsampled(
    x: Tensor, weight: Tensor, bias: Tensor | None, training: bool, few_positions: int = 768
) -> Tensor:
    """
    Nearest-neighbour upsampling ×2 followed by a 3×3 convolution, in one transposed convolution.

    Upsampling repeats every value four times, so each output pixel sees only 2×2 distinct inputs: the
    same function costs 4/9 of the products as a 4×4 transposed convolution of stride 2. The larger kernel is
    summed from the smaller one on the way, and differentiable. In training, where that and its gradient are
    paid with every step, small maps are upsampled.

    Args:
        x: ``(N, in, H, W)``.
        weight: the 3×3 kernel ``(out, in, 3, 3)``.
        bias: of ``out`` channels.
        training: whether a gradient follows.
        few_positions: of a batch (N·H·W), below which summing the kernel costs a training step more than it
            saves: measured on AVX-512, 1024 -> 512 and 512 -> 256 channels, about 650 in float32, 1,000 in
            bfloat16.

    Returns:
        ``(N, out, 2H, 2W)``.
    """
    if training and x.shape[0] * x.shape[2] * x.shape[3] < few_positions:
        return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    return F.conv_transpose2d(x, summed_kernel(weight), bias, stride=2, padding=1)


def summed_kernel(weight: Tensor) -> Tensor:
    """
    The transposed convolution (stride 2, padding 1) that upsampling ×2 and a 3×3 convolution amount to.

    Args:
        weight: the 3×3 kernel ``(out, in, 3, 3)``.

    Returns:
        Its kernel ``(in, out, 4, 4)``.
    """
    # Four times the mean over 2×2 windows is their sum: the kernel that repeated inputs meet.
    return 4 * F.avg_pool2d(weight.flip(2, 3), kernel_size=2, stride=1, padding=1).transpose(0, 1)

"""Nearest-neighbour upsampling followed by a 3×3 convolution, which sees every value four times."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UpConv(nn.Conv2d):
    """
    Nearest-neighbour upsampling ×2 followed by a 3×3 convolution, in one transposed convolution.

    Upsampling repeats every value four times, so each output pixel sees only 2×2 distinct inputs: the
    same function costs 4/9 of the products as a 4×4 transposed convolution of stride 2. The parameters
    are those of the 3×3 convolution; the larger kernel is summed from them on the way, and differentiable.
    In training, where that and its gradient are paid with every step, small maps are upsampled.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """
        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
        """
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)
        # Positions of a batch (N·H·W) below which summing the kernel costs training more than it saves:
        # measured on AVX-512, 1024 -> 512 and 512 -> 256 channels, about 650 in float32, 1,000 in bfloat16.
        self.few_positions = 768

    def forward(self, input: Tensor) -> Tensor:
        """``(N, in, H, W)`` to ``(N, out, 2H, 2W)``."""
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] < self.few_positions:
            upsampled = F.interpolate(input, scale_factor=2.0, mode="nearest")
            return F.conv2d(upsampled, self.weight, self.bias, padding=1)
        return F.conv_transpose2d(input, summed_kernel(self.weight), self.bias, stride=2, padding=1)


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
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.relu(self.conv(torch.cat([x, skip], dim=1)))


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

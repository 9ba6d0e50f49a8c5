"""Convolutions with what follows them, as several of the networks have them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    kernel_size: int = 3,
    dilation: int = 1,
    bias: bool = True,
) -> nn.Sequential:
    """Size-keeping convolution → ``norm`` of its channels → ReLU, ``(N, in, H, W)`` to ``(N, out, H, W)``."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(
                in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=bias
            ),
            norm=norm(out_channels),
            relu=nn.ReLU(inplace=True),
        )
    )


def conv_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """3×3 convolution → ReLU, ``(N, in, H, W)`` to ``(N, out, H, W)``."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1), relu=nn.ReLU(inplace=True)
        )
    )

"""The X-block: three depthwise separable convolutions beside a 1×1 shortcut."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

# Keras' BatchNormalization defaults, which the published X-Net was trained with: epsilon 1e-3 and
# momentum 0.99, which is 0.01 in torch's convention.
BN_EPS = 1e-3
BN_MOMENTUM = 0.01


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the constants of the original Keras X-Net."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


class XBlock(nn.Module):
    """
    X-block of Qi et al., "X-Net: Brain Stroke Lesion Segmentation Based on Depthwise Separable
    Convolution and Long-range Dependencies", MICCAI 2019, section 2.1.

    Three depthwise separable convolutions, summed with a 1×1 convolution of the input. There is no
    activation after the sum, and the depthwise convolution has a batch norm and a ReLU of its own,
    as in the authors' code.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """
        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
        """
        super().__init__()
        self.main = nn.Sequential(
            separable_conv(in_channels, out_channels),
            separable_conv(out_channels, out_channels),
            separable_conv(out_channels, out_channels),
        )
        self.shortcut = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(in_channels, out_channels, kernel_size=1),
                norm=batch_norm(out_channels),
                relu=nn.ReLU(inplace=True),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: ``(N, in_channels, H, W)``.

        Returns:
            ``(N, out_channels, H, W)``.
        """
        return self.main(x) + self.shortcut(x)


def separable_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Depthwise 3×3 → BN → ReLU → pointwise 1×1 → BN → ReLU, ``(N, in, H, W)`` to ``(N, out, H, W)``."""
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(
                in_channels, in_channels, kernel_size=3, padding=1, groups=in_channels, bias=False
            ),
            depthwise_norm=batch_norm(in_channels),
            depthwise_relu=nn.ReLU(inplace=True),
            pointwise=nn.Conv2d(in_channels, out_channels, kernel_size=1),
            pointwise_norm=batch_norm(out_channels),
            pointwise_relu=nn.ReLU(inplace=True),
        )
    )

"""X-Net: stroke lesion segmentation on slices of a T1-weighted MRI."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from shared_nets.networks.checks import check_input, he_normal_
from shared_nets.networks.fsm import FeatureSimilarityModule
from shared_nets.networks.upsampling import UpConv
from shared_nets.networks.xblock import XBlock, batch_norm

# Those of U-Net (Ronneberger et al. 2015, figure 1), and of the comparators.
WIDTHS = (64, 128, 256, 512, 1024)


class XNet(nn.Module):
    """
    X-Net of Qi et al., "X-Net: Brain Stroke Lesion Segmentation Based on Depthwise Separable
    Convolution and Long-range Dependencies", MICCAI 2019.

    A U-shaped network of X-blocks with a Feature Similarity Module at its deepest level. Layer for
    layer the authors' Keras code: 15,072,332 trainable values and 45,314 batch-norm statistics with
    one channel in and out. Height and width of a slice must be multiples of 16.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1, fsm: str | None = "dot") -> None:
        """
        Args:
            in_channels: channels of the input slice; 1 for T1-weighted MRI.
            out_channels: channels of the output; 1 for lesion against everything else.
            fsm: ``"dot"`` (the authors' code), ``"softmax"`` (the paper's equations), or ``None`` (the
                ablation of the paper's Table 1).
        """
        super().__init__()
        self.in_channels = in_channels
        w1, w2, w3, w4, w5 = WIDTHS

        self.encoder1 = XBlock(in_channels, w1)
        self.encoder2 = XBlock(w1, w2)
        self.encoder3 = XBlock(w2, w3)
        self.encoder4 = XBlock(w3, w4)
        self.encoder5 = XBlock(w4, w5)
        self.pool = nn.MaxPool2d(2)

        self.fsm = nn.Identity() if fsm is None else FeatureSimilarityModule(w5, similarity=fsm)

        self.up4 = up_conv(w5, w4)
        self.decoder4 = XBlock(2 * w4, w4)
        self.up3 = up_conv(w4, w3)
        self.decoder3 = XBlock(2 * w3, w3)
        self.up2 = up_conv(w3, w2)
        self.decoder2 = XBlock(2 * w2, w2)
        self.up1 = up_conv(w2, w1)
        self.decoder1 = XBlock(2 * w1, w1)
        self.head = nn.Conv2d(w1, out_channels, kernel_size=1)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: slices ``(N, in_channels, H, W)`` with values from 0 to 1.

        Returns:
            Logits ``(N, out_channels, H, W)``.

        Raises:
            UsageError: if ``x`` has another dimension, other channels, or a size not divisible by 16.
        """
        check_input(x, self.in_channels, "X-Net")
        skip1 = self.encoder1(x)
        skip2 = self.encoder2(self.pool(skip1))
        skip3 = self.encoder3(self.pool(skip2))
        skip4 = self.encoder4(self.pool(skip3))
        x = self.fsm(self.encoder5(self.pool(skip4)))

        x = self.decoder4(torch.cat([skip4, self.up4(x)], dim=1))
        x = self.decoder3(torch.cat([skip3, self.up3(x)], dim=1))
        x = self.decoder2(torch.cat([skip2, self.up2(x)], dim=1))
        x = self.decoder1(torch.cat([skip1, self.up1(x)], dim=1))
        return self.head(x)


def up_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Upsampling ×2 → 3×3 convolution → BN → ReLU, ``(N, in, H, W)`` to ``(N, out, 2H, 2W)``."""
    return nn.Sequential(
        OrderedDict(
            conv=UpConv(in_channels, out_channels),
            norm=batch_norm(out_channels),
            relu=nn.ReLU(inplace=True),
        )
    )

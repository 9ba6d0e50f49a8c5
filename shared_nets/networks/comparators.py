"""The networks X-Net and CNN-Res are compared with: U-Net and ResUNet, with or without the FSM."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from shared_nets.networks.checks import check_input, he_normal_
from shared_nets.networks.convolutions import conv_relu
from shared_nets.networks.fsm import FeatureSimilarityModule
from shared_nets.networks.xblock import batch_norm
from shared_nets.networks.xnet import WIDTHS


class UNet(nn.Module):
    """
    U-Net of Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    MICCAI 2015, in the form common in Keras (github.com/zhixuhao/unet): 31,031,685 values with one
    channel in and out, the count of CNN-Res's comparator.

    That count leaves no room for batch norm: every layer is a convolution with bias, padded so that the
    map keeps its size. The up-convolution is nearest upsampling and a 2×2 convolution, and two 3×3
    kernels stand before the 1×1 head. With ``fsm``, the U-Net + FSM of X-Net's Table 1. Height and width
    of a slice must be multiples of 16.
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 1, fsm: str | None = None, dropout: float = 0.5
    ) -> None:
        """
        Args:
            in_channels: channels of the input slice.
            out_channels: channels of the output; 1 for lesion against everything else.
            fsm: the Feature Similarity Module after the deepest level: ``"dot"``, ``"softmax"`` or ``None``.
            dropout: probability of dropping a value of the two deepest levels in training; 0.5 in the
                Keras form.
        """
        super().__init__()
        self.in_channels = in_channels
        w1, w2, w3, w4, w5 = WIDTHS

        self.encoder1 = double_conv(in_channels, w1)
        self.encoder2 = double_conv(w1, w2)
        self.encoder3 = double_conv(w2, w3)
        self.encoder4 = double_conv(w3, w4)
        self.encoder5 = double_conv(w4, w5)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)

        self.fsm = nn.Identity() if fsm is None else FeatureSimilarityModule(w5, similarity=fsm)

        self.up4 = up_conv(w5, w4)
        self.decoder4 = double_conv(2 * w4, w4)
        self.up3 = up_conv(w4, w3)
        self.decoder3 = double_conv(2 * w3, w3)
        self.up2 = up_conv(w3, w2)
        self.decoder2 = double_conv(2 * w2, w2)
        self.up1 = up_conv(w2, w1)
        self.decoder1 = double_conv(2 * w1, w1)
        self.classes = conv_relu(w1, 2 * out_channels)
        self.head = nn.Conv2d(2 * out_channels, out_channels, kernel_size=1)
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
        check_input(x, self.in_channels, "U-Net")
        skip1 = self.encoder1(x)
        skip2 = self.encoder2(self.pool(skip1))
        skip3 = self.encoder3(self.pool(skip2))
        skip4 = self.dropout(self.encoder4(self.pool(skip3)))
        x = self.fsm(self.dropout(self.encoder5(self.pool(skip4))))

        x = self.decoder4(torch.cat([skip4, self.up4(x)], dim=1))
        x = self.decoder3(torch.cat([skip3, self.up3(x)], dim=1))
        x = self.decoder2(torch.cat([skip2, self.up2(x)], dim=1))
        x = self.decoder1(torch.cat([skip1, self.up1(x)], dim=1))
        return self.head(self.classes(x))


class ResUNet(nn.Module):
    """
    ResUNet of Zhang et al., "Road Extraction by Deep Residual U-Net", IEEE Geoscience and Remote Sensing
    Letters 15(5), 2018, for X-Net's Table 1.

    Pre-activated residual units with a batch norm on the shortcut, too, as is common in Keras
    (github.com/DuFanXin/deep_residual_unet); a stride of 2 in place of pooling; nearest upsampling
    without a convolution. Zhang et al. stop at 512 channels after three strides; here it has U-Net's five
    levels and widths, so that the Feature Similarity Module sees the map it sees in U-Net and X-Net: our
    choice. 33,141,057 trainable values and 19,456 batch-norm statistics with one channel in and out. Batch
    norm has X-Net's constants. Height and width of a slice must be multiples of 16.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1, fsm: str | None = None) -> None:
        """
        Args:
            in_channels: channels of the input slice.
            out_channels: channels of the output; 1 for lesion against everything else.
            fsm: the Feature Similarity Module after the deepest level: ``"dot"``, ``"softmax"`` or ``None``.
        """
        super().__init__()
        self.in_channels = in_channels
        w1, w2, w3, w4, w5 = WIDTHS

        self.encoder1 = ResidualUnit(in_channels, w1, first=True)
        self.encoder2 = ResidualUnit(w1, w2, stride=2)
        self.encoder3 = ResidualUnit(w2, w3, stride=2)
        self.encoder4 = ResidualUnit(w3, w4, stride=2)
        self.encoder5 = ResidualUnit(w4, w5, stride=2)

        self.fsm = nn.Identity() if fsm is None else FeatureSimilarityModule(w5, similarity=fsm)

        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.decoder4 = ResidualUnit(w5 + w4, w4)
        self.decoder3 = ResidualUnit(w4 + w3, w3)
        self.decoder2 = ResidualUnit(w3 + w2, w2)
        self.decoder1 = ResidualUnit(w2 + w1, w1)
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
        check_input(x, self.in_channels, "ResUNet")
        skip1 = self.encoder1(x)
        skip2 = self.encoder2(skip1)
        skip3 = self.encoder3(skip2)
        skip4 = self.encoder4(skip3)
        x = self.fsm(self.encoder5(skip4))

        x = self.decoder4(torch.cat([skip4, self.upsample(x)], dim=1))
        x = self.decoder3(torch.cat([skip3, self.upsample(x)], dim=1))
        x = self.decoder2(torch.cat([skip2, self.upsample(x)], dim=1))
        x = self.decoder1(torch.cat([skip1, self.upsample(x)], dim=1))
        return self.head(x)


class ResidualUnit(nn.Module):
    """2 × [BN → ReLU → 3×3 convolution] + BN(1×1 convolution of the input) (Zhang et al. 2018)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, first: bool = False) -> None:
        """
        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            stride: 2 to halve height and width.
            first: the network's first unit, which meets the image itself: no BN and ReLU before its
                first convolution.
        """
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if not first:
            layers["norm1"] = batch_norm(in_channels)
            layers["relu1"] = nn.ReLU(inplace=True)
        layers["conv1"] = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)
        layers["norm2"] = batch_norm(out_channels)
        layers["relu2"] = nn.ReLU(inplace=True)
        layers["conv2"] = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.unit = nn.Sequential(layers)
        self.shortcut = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride),
                norm=batch_norm(out_channels),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        return self.unit(x) + self.shortcut(x)


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """2 × [3×3 convolution → ReLU], ``(N, in, H, W)`` to ``(N, out, H, W)``."""
    return nn.Sequential(conv_relu(in_channels, out_channels), conv_relu(out_channels, out_channels))


def up_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Nearest upsampling ×2 → 2×2 convolution → ReLU, ``(N, in, H, W)`` to ``(N, out, 2H, 2W)``."""
    return nn.Sequential(
        OrderedDict(
            upsample=nn.Upsample(scale_factor=2, mode="nearest"),
            # Keras pads a 2×2 kernel by a row below and a column to the right.
            pad=nn.ZeroPad2d((0, 1, 0, 1)),
            conv=nn.Conv2d(in_channels, out_channels, kernel_size=2),
            relu=nn.ReLU(inplace=True),
        )
    )

"""The further networks of X-Net's Table 2, not pretrained: SegNet, PSPNet, DeepLabv3+, 2D Dense-UNet."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_nets.networks.checks import check_input, he_normal_
from shared_nets.networks.convolutions import conv_norm_relu


class SegNet(nn.Module):
    """
    SegNet of Badrinarayanan et al., "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
    Segmentation", IEEE TPAMI 39(12), 2017: VGG16's thirteen convolutions, each with batch norm, and their
    mirror image, which puts values back where the pooling took them from.

    Pooling rounds up, so that height and width of a slice may be any multiples of 16, not of 32.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1) -> None:
        """
        Args:
            in_channels: channels of the input slice.
            out_channels: channels of the output; 1 for lesion against everything else.
        """
        super().__init__()
        self.in_channels = in_channels
        self.encoder1 = convs(in_channels, 64, 64)
        self.encoder2 = convs(64, 128, 128)
        self.encoder3 = convs(128, 256, 256, 256)
        self.encoder4 = convs(256, 512, 512, 512)
        self.encoder5 = convs(512, 512, 512, 512)
        self.decoder5 = convs(512, 512, 512, 512)
        self.decoder4 = convs(512, 512, 512, 256)
        self.decoder3 = convs(256, 256, 256, 128)
        self.decoder2 = convs(128, 128, 64)
        self.decoder1 = convs(64, 64)
        self.head = nn.Conv2d(64, out_channels, kernel_size=3, padding=1)
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
        check_input(x, self.in_channels, "SegNet")
        full1 = self.encoder1(x)
        x, places1 = pool(full1)
        full2 = self.encoder2(x)
        x, places2 = pool(full2)
        full3 = self.encoder3(x)
        x, places3 = pool(full3)
        full4 = self.encoder4(x)
        x, places4 = pool(full4)
        full5 = self.encoder5(x)
        x, places5 = pool(full5)

        x = self.decoder5(unpool(x, places5, full5))
        x = self.decoder4(unpool(x, places4, full4))
        x = self.decoder3(unpool(x, places3, full3))
        x = self.decoder2(unpool(x, places2, full2))
        x = self.decoder1(unpool(x, places1, full1))
        return self.head(x)


class PSPNet(nn.Module):
    """
    PSPNet of Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, on a ResNet-50: features at an eighth
    of the slice's size, averaged over 1, 2×2, 3×3 and 6×6 regions, and judged together. Height and width of a
    slice must be multiples of 16.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1, dropout: float = 0.1) -> None:
        """
        Args:
            in_channels: channels of the input slice.
            out_channels: channels of the output; 1 for lesion against everything else.
            dropout: probability of dropping a channel before the head in training.
        """
        super().__init__()
        self.in_channels = in_channels
        self.backbone = DilatedResNet50(in_channels, stride=8)
        self.pyramid = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(regions), conv_norm_relu(2048, 512, kernel_size=1, bias=False))
            for regions in (1, 2, 3, 6)
        )
        self.fuse = conv_norm_relu(2048 + 4 * 512, 512, bias=False)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(512, out_channels, kernel_size=1)
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
        check_input(x, self.in_channels, "PSPNet")
        _, deep = self.backbone(x)
        levels = [deep]
        for level in self.pyramid:
            levels.append(resize(level(deep), deep))
        return resize(self.head(self.dropout(self.fuse(torch.cat(levels, dim=1)))), x)


class DeepLabV3Plus(nn.Module):
    """
    DeepLabv3+ of Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
    Segmentation", ECCV 2018, on a ResNet-50 at a sixteenth of the slice's size, with plain convolutions in
    place of separable ones. Height and width of a slice must be multiples of 16.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1) -> None:
        """
        Args:
            in_channels: channels of the input slice.
            out_channels: channels of the output; 1 for lesion against everything else.
        """
        super().__init__()
        self.in_channels = in_channels
        self.backbone = DilatedResNet50(in_channels, stride=16)
        self.pyramid = nn.ModuleList(
            [
                conv_norm_relu(2048, 256, kernel_size=1, bias=False),
                *(conv_norm_relu(2048, 256, dilation=rate, bias=False) for rate in (6, 12, 18)),
                nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm_relu(2048, 256, kernel_size=1, bias=False)),
            ]
        )
        self.fuse = conv_norm_relu(5 * 256, 256, kernel_size=1, bias=False)
        self.skip = conv_norm_relu(256, 48, kernel_size=1, bias=False)
        self.decoder = nn.Sequential(
            conv_norm_relu(256 + 48, 256, bias=False), conv_norm_relu(256, 256, bias=False)
        )
        self.head = nn.Conv2d(256, out_channels, kernel_size=1)
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
        check_input(x, self.in_channels, "DeepLabv3+")
        shallow, deep = self.backbone(x)
        levels = []
        for level in self.pyramid:
            levels.append(resize(level(deep), deep))
        fused = resize(self.fuse(torch.cat(levels, dim=1)), shallow)
        return resize(self.head(self.decoder(torch.cat([fused, self.skip(shallow)], dim=1))), x)


class DenseUNet2D(nn.Module):
    """
    The 2D Dense-UNet of Li et al., "H-DenseUNet: Hybrid Densely Connected UNet for Liver and Tumor
    Segmentation from CT Volumes", IEEE TMI 37(12), 2018: a DenseNet-161 whose levels are added to a
    decoder of 768, 384, 96, 96 and 64 channels. Height and width of a slice must be multiples of 32 there;
    here of 16, the last halving rounding up.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1, dropout: float = 0.3) -> None:
        """
        Args:
            in_channels: channels of the input slice.
            out_channels: channels of the output; 1 for lesion against everything else.
            dropout: probability of dropping a value before the head in training.
        """
        from monai.networks.nets import DenseNet  # here, so that the other networks do not wait for MONAI

        super().__init__()
        self.in_channels = in_channels
        net = DenseNet(2, in_channels, 1, init_features=96, growth_rate=48, block_config=(6, 12, 36, 24))
        features: Any = net.features
        self.stem = nn.Sequential(features.conv0, features.norm0, features.relu0)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.dense1: nn.Module = features.denseblock1
        self.transition1 = halving(features.transition1)
        self.dense2: nn.Module = features.denseblock2
        self.transition2 = halving(features.transition2)
        self.dense3: nn.Module = features.denseblock3
        self.transition3 = halving(features.transition3)
        self.dense4 = nn.Sequential(features.denseblock4, features.norm5, nn.ReLU(inplace=True))
        self.skip = nn.Conv2d(2112, 2208, kernel_size=1)
        self.decoder4 = conv_norm_relu(2208, 768, bias=False)
        self.decoder3 = conv_norm_relu(768, 384, bias=False)
        self.decoder2 = conv_norm_relu(384, 96, bias=False)
        self.decoder1 = conv_norm_relu(96, 96, bias=False)
        self.decoder0 = nn.Sequential(conv_norm_relu(96, 64, bias=False), nn.Dropout(dropout))
        self.head = nn.Conv2d(64, out_channels, kernel_size=1)
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
        check_input(x, self.in_channels, "2D Dense-UNet")
        level1 = self.stem(x)
        level2 = self.dense1(self.pool(level1))
        level3 = self.dense2(self.transition1(level2))
        level4 = self.dense3(self.transition2(level3))
        level5 = self.dense4(self.transition3(level4))

        level4 = self.skip(level4)
        deep = self.decoder4(upsample(level5, level4) + level4)
        deep = self.decoder3(upsample(deep, level3) + level3)
        deep = self.decoder2(upsample(deep, level2) + level2)
        deep = self.decoder1(upsample(deep, level1) + level1)
        return self.head(self.decoder0(upsample(deep, x)))


class DilatedResNet50(nn.Module):
    """MONAI's ResNet-50 as a feature extractor; dilation in place of its last strides keeps the map large."""

    def __init__(self, in_channels: int, stride: int) -> None:
        """
        Args:
            in_channels: channels of the input.
            stride: 8 or 16: how many times smaller than the input the deep map is.
        """
        from monai.networks.nets import resnet50

        super().__init__()
        net = resnet50(
            spatial_dims=2, n_input_channels=in_channels, conv1_t_stride=2, feed_forward=False,
            bias_downsample=False,
        )  # fmt: skip
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act, net.maxpool)
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        if stride == 8:
            dilate(self.layer3, 2)
        dilate(self.layer4, 32 // stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, in, H, W)`` to ``(N, 256, H/4, W/4)`` and ``(N, 2048, H/stride, W/stride)``."""
        shallow = self.layer1(self.stem(x))
        return shallow, self.layer4(self.layer3(self.layer2(shallow)))


def dilate(layer: nn.Sequential, dilation: int) -> None:
    """Give a layer of residual blocks no stride, and its 3×3 kernels a dilation that sees as far."""
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)


def halving(transition: nn.Sequential) -> nn.Sequential:
    """A DenseNet's transition that rounds odd sizes up."""
    transition.pool = nn.AvgPool2d(kernel_size=2, stride=2, ceil_mode=True)
    return transition


def convs(*channels: int) -> nn.Sequential:
    """3×3 convolution → BN → ReLU from each number of channels to the next."""
    return nn.Sequential(*(conv_norm_relu(i, o, bias=False) for i, o in pairwise(channels)))


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Max pooling by 2, rounding up, and where each value came from."""
    return F.max_pool2d_with_indices(x, kernel_size=[2, 2], stride=[2, 2], ceil_mode=True)


def unpool(x: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """Values back in their places in a map of zeros, of the size of ``like``."""
    return F.max_unpool2d(x, places, kernel_size=[2, 2], stride=[2, 2], output_size=like.shape[2:])


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear interpolation to the height and width of ``like``."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """Nearest-neighbour interpolation to the height and width of ``like``."""
    return F.interpolate(x, size=like.shape[2:], mode="nearest")

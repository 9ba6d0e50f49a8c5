"""CNN-Res: acute ischemic stroke lesion segmentation on slices of DWI and FLAIR."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from shared_nets.networks.checks import check_input, he_normal_
from shared_nets.networks.convolutions import conv_norm_relu, conv_relu
from shared_nets.networks.upsampling import UpJoin

WIDTHS = (32, 64, 128, 256, 512)
NECK_WIDTH = 64


class CNNRes(nn.Module):
    """
    CNN-Res of Gheibi et al., "CNN-Res: deep learning framework for segmentation of acute ischemic
    stroke lesions on multimodal MRI images", BMC Medical Informatics and Decision Making 23:192, 2023.

    Each level translates (3×3 convolution → BN → ReLU) to a new width, pools, and refines at constant
    width by a residual unit; a 1×1 neck and a plain decoder follow. No code is public: the widths are
    those that give the paper's counts (6,465,153 trainable values and 5,952 batch-norm statistics with
    one input channel); the skips leave before pooling and the deepest level does not pool, our reading
    of the figures. Height and width of a slice must be multiples of 16.
    """

    def __init__(self, in_channels: int = 2, out_channels: int = 1, dropout: float = 0.0) -> None:
        """
        Args:
            in_channels: channels of the input slice; 2 for DWI and FLAIR, 1 for the paper's pooled form.
            out_channels: channels of the output; 1 for lesion against everything else.
            dropout: probability of dropping a channel of the neck in training. The paper uses dropout
                without giving an amount or a place.
        """
        super().__init__()
        self.in_channels = in_channels
        w1, w2, w3, w4, w5 = WIDTHS

        self.translation1 = conv_norm_relu(in_channels, w1)
        self.residual1 = ResidualUnit(w1)
        self.translation2 = conv_norm_relu(w1, w2)
        self.residual2 = ResidualUnit(w2)
        self.translation3 = conv_norm_relu(w2, w3)
        self.residual3 = ResidualUnit(w3)
        self.translation4 = conv_norm_relu(w3, w4)
        self.residual4 = ResidualUnit(w4)
        self.translation5 = conv_norm_relu(w4, w5)
        self.residual5 = ResidualUnit(w5)
        self.pool = nn.MaxPool2d(2)

        self.neck = nn.Conv2d(w5, NECK_WIDTH, kernel_size=1)
        self.dropout = nn.Dropout2d(dropout)

        self.decoder4 = UpJoin(NECK_WIDTH, w4, w4)
        self.decoder3 = UpJoin(w4, w3, w3)
        self.decoder2 = UpJoin(w3, w2, w2)
        self.decoder1 = UpJoin(w2, w1, w2)
        self.decoder0 = conv_relu(w2, w1)
        self.head = nn.Conv2d(w1, out_channels, kernel_size=1)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: slices ``(N, in_channels, H, W)`` with values from 0 to 1; a missing channel is all 0.

        Returns:
            Logits ``(N, out_channels, H, W)``.

        Raises:
            UsageError: if ``x`` has another dimension, other channels, or a size not divisible by 16.
        """
        check_input(x, self.in_channels, "CNN-Res")
        skip1 = self.translation1(x)
        x = self.residual1(self.pool(skip1))
        skip2 = self.translation2(x)
        x = self.residual2(self.pool(skip2))
        skip3 = self.translation3(x)
        x = self.residual3(self.pool(skip3))
        skip4 = self.translation4(x)
        x = self.residual4(self.pool(skip4))
        x = self.residual5(self.translation5(x))

        x = self.dropout(self.neck(x))
        x = self.decoder4(x, skip4)
        x = self.decoder3(x, skip3)
        x = self.decoder2(x, skip2)
        x = self.decoder1(x, skip1)
        return self.head(self.decoder0(x))


class ResidualUnit(nn.Module):
    """``x + conv3×3(ReLU(BN(conv1×1(ReLU(BN(x))))))`` at constant width (Gheibi et al. 2023, figure 4)."""

    def __init__(self, channels: int) -> None:
        """
        Args:
            channels: channels of the input and the output.
        """
        super().__init__()
        self.unit = nn.Sequential(
            OrderedDict(
                norm1=nn.BatchNorm2d(channels),
                relu1=nn.ReLU(inplace=True),
                conv1=nn.Conv2d(channels, channels, kernel_size=1),
                norm2=nn.BatchNorm2d(channels),
                relu2=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to the same shape."""
        return x + self.unit(x)

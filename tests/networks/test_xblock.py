from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shared_nets import XBlock
from shared_nets.networks.xblock import batch_norm


@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 64), (64, 128), (6, 4)])
def test_counts(in_channels: int, out_channels: int) -> None:
    ci, co = in_channels, out_channels
    depthwise = 9 * (ci + co + co) + 2 * (ci + co + co)
    pointwise = (ci * co + 3 * co) + 2 * (co * co + 3 * co)
    shortcut = ci * co + 3 * co
    assert sum(p.numel() for p in XBlock(ci, co).parameters()) == depthwise + pointwise + shortcut


def test_is_the_sum_of_two_branches_that_end_in_relu() -> None:
    torch.manual_seed(0)
    block = XBlock(3, 5).eval()
    x = torch.randn(2, 3, 6, 7)
    nn.init.zeros_(block.main[2].pointwise_norm.weight)
    nn.init.constant_(block.main[2].pointwise_norm.bias, 2.0)
    shortcut = F.conv2d(x, block.shortcut.conv.weight, block.shortcut.conv.bias) / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(block(x), shortcut.clamp(min=0) + 2.0)


def test_depthwise_convolutions_do_not_mix_channels() -> None:
    block = XBlock(3, 5)
    convolution = block.main[0].depthwise
    assert convolution.bias is None
    x = torch.zeros(1, 3, 5, 5)
    x[0, 1] = 1
    assert convolution(x).abs().amax(dim=(0, 2, 3)).bool().tolist() == [False, True, False]


def test_batch_norm_follows_one_hundredth_of_a_batch() -> None:
    norm = batch_norm(1).train()
    x = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)  # mean 2, variance 1
    assert norm(x).flatten().tolist() == pytest.approx([-1 / 1.001**0.5, 1 / 1.001**0.5])
    assert norm.running_mean.item() == pytest.approx(0.02)

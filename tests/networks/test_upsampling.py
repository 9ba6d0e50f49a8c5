"""Upsampling and the convolution after it, against the two written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from shared_nets import CNNRes
from shared_nets.inference import rewrite
from shared_nets.networks.upsampling import UpConv, UpJoin

# Few positions, which training upsamples, and more than enough for the transposed convolution.
SIZES = [(1, 1), (4, 7), (5, 2), (24, 32)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_up_conv_is_nearest_upsampling_and_a_3x3_convolution(size: tuple[int, int], training: bool) -> None:
    up = UpConv(3, 5).double().train(training)
    torch.nn.init.normal_(up.bias)
    plain = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(3, 5, 3, padding=1)).double()
    plain[1].load_state_dict(up.state_dict())
    ours = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()

    up(ours).square().sum().backward()
    plain(theirs).square().sum().backward()

    torch.testing.assert_close(up(ours), plain(theirs))
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(up.weight.grad, plain[1].weight.grad)
    torch.testing.assert_close(up.bias.grad, plain[1].bias.grad)


def joined_and_convolved(join: UpJoin, x: Tensor, skip: Tensor) -> Tensor:
    """What `UpJoin` stands for, step by step."""
    upsampled = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return join.conv(torch.cat([upsampled, skip], dim=1)).relu()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_up_join_is_upsampling_joining_and_a_3x3_convolution(size: tuple[int, int], training: bool) -> None:
    join = UpJoin(3, 2, 5).double().train(training)
    torch.nn.init.normal_(join.conv.bias)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 2, 2 * size[0], 2 * size[1], dtype=torch.float64, requires_grad=True)
    inputs = [x, skip, *join.parameters()]

    ours, theirs = join(x, skip), joined_and_convolved(join, x, skip)
    gradients = [torch.autograd.grad(out.square().sum(), inputs) for out in (ours, theirs)]

    assert (theirs > 0).any()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("rewritten", [False, True])
def test_four_ninths_of_the_products_are_left(rewritten: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def products(net: nn.Module) -> float:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            net(torch.rand(1, 2, 160, 160))
        return counter.get_total_flops() / 2

    net = CNNRes().eval()
    ours = products(rewrite(net) if rewritten else net)
    monkeypatch.setattr(UpJoin, "forward", joined_and_convolved)
    # The 3×3 convolutions of upsampled maps, at 160×160: 20², 40², 80², 160² pixels of 64·256, 256·128,
    # 128·64 and 64·64 products each, of which four in nine are left.
    upsampled = 9 * (400 * 64 * 256 + 1600 * 256 * 128 + 6400 * 128 * 64 + 25600 * 64 * 64)
    assert products(net) - ours == pytest.approx(upsampled * 5 / 9)

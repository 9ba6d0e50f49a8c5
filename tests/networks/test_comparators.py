from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import nn

from shared_nets import FeatureSimilarityModule, ResUNet, UNet
from shared_nets.networks.comparators import ResidualUnit, up_conv
from tests.networks.base import NetworkTests

FSM = 2_395_520  # trainable values of the dot form for 1024 channels
FSM_STATISTICS = 2 * (128 + 1024)


class TestUNetFSM(NetworkTests):
    make = partial(UNet, fsm="dot")
    trainable = 31_031_685 + FSM
    statistics = FSM_STATISTICS


class TestResUNetFSM(NetworkTests):
    make = partial(ResUNet, fsm="dot")
    trainable = 33_141_057 + FSM
    statistics = 19_456 + FSM_STATISTICS


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.fixture
def _without_values() -> Iterator[None]:
    with torch.device("meta"):
        yield


@pytest.mark.usefixtures("_without_values")
class TestCounts:
    def test_fsm(self) -> None:
        assert count(FeatureSimilarityModule(1024)) == FSM

    def test_unet_is_the_common_keras_unet(self) -> None:
        assert count(UNet()) == 31_031_685

    def test_resunet_by_hand(self) -> None:
        units = [(64, 128), (128, 256), (256, 512), (512, 1024)]
        units += [(1024 + 512, 512), (512 + 256, 256), (256 + 128, 128), (128 + 64, 64)]
        # 3×3, 3×3 and 1×1 kernels, three biases, batch norm of the input, between, and on the shortcut.
        by_hand = sum(9 * i * o + 9 * o * o + i * o + 3 * o + 2 * (i + o + o) for i, o in units)
        first = 9 * 64 + 9 * 64 * 64 + 64 + 3 * 64 + 2 * (64 + 64)
        assert count(ResUNet()) == first + by_hand + 65


@pytest.mark.usefixtures("_without_values")
@pytest.mark.parametrize("make", [UNet, ResUNet])
def test_softmax_form_plugs_in(make: type[UNet | ResUNet]) -> None:
    net = make(fsm="softmax")
    assert isinstance(net.fsm, FeatureSimilarityModule)
    assert net.fsm.similarity == "softmax"
    assert net(torch.rand(1, 1, 16, 32)).shape == (1, 1, 16, 32)


def test_up_convolution_pads_below_and_right() -> None:
    up = up_conv(1, 1)
    nn.init.zeros_(up.conv.bias)
    with torch.no_grad():
        up.conv.weight.copy_(torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]]))  # what is below and to the right
        output = up(torch.tensor([[[[1.0, 2.0]]]]))
    assert output[0, 0].tolist() == [[1, 2, 2, 0], [0, 0, 0, 0]]


def test_residual_unit_is_its_shortcut_when_the_last_kernel_is_zero() -> None:
    unit = ResidualUnit(3, 5, stride=2).eval()
    nn.init.zeros_(unit.unit.conv2.weight)
    nn.init.zeros_(unit.unit.conv2.bias)
    x = torch.randn(1, 3, 8, 6)
    kept = x.clone()
    shortcut = nn.functional.conv2d(x[:, :, ::2, ::2], unit.shortcut.conv.weight, unit.shortcut.conv.bias)
    torch.testing.assert_close(unit(x), shortcut / 1.001**0.5)
    assert torch.equal(x, kept)


def test_residual_unit_halves_an_image_only_with_a_stride() -> None:
    x = torch.rand(2, 1, 8, 6)
    assert ResidualUnit(1, 4, first=True)(x).shape == (2, 4, 8, 6)
    assert ResidualUnit(1, 4, stride=2)(x).shape == (2, 4, 4, 3)

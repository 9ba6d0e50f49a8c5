from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from shared_nets.networks.checks import check_input, he_normal_


@pytest.mark.parametrize("shape", [(1, 2, 16, 32), (7, 2, 48, 16)])
def test_fitting_input_passes(shape: tuple[int, ...]) -> None:
    check_input(torch.zeros(shape), 2, "Net")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 16, 16), "Net takes a batch of slices .* not a 3-D tensor"),
        ((1, 2, 16, 16, 16), "not a 5-D tensor"),
        ((1, 1, 16, 16), "Net was built for 2 input .* the input has 1"),
        ((1, 2, 24, 16), "Net needs height and width that are multiples of 16, not 24×16"),
        ((1, 2, 16, 8), "not 16×8: pad the slice"),
    ],
)
def test_misfits_are_told_eagerly_and_in_torchscript(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_input(torch.zeros(shape), 2, "Net")
    with pytest.raises(Exception, match=message):
        torch.jit.script(check_input)(torch.zeros(shape), 2, "Net")


@pytest.mark.parametrize(
    ("conv", "fan_in"),
    [
        (nn.Conv2d(64, 128, 3), 9 * 64),
        (nn.Conv2d(256, 512, 1), 256),
        (nn.Conv2d(4096, 4096, 3, groups=4096), 9),
    ],
)
def test_he_normal(conv: nn.Conv2d, fan_in: int) -> None:
    torch.manual_seed(0)
    nn.init.ones_(conv.bias)
    he_normal_(nn.Sequential(conv))
    std = math.sqrt(2 / fan_in)
    assert conv.weight.std().item() == pytest.approx(std, rel=0.02)
    assert conv.weight.mean().item() == pytest.approx(0, abs=0.02 * std)
    # Cut at two standard deviations of the normal before cutting, as Keras does.
    assert 2.2 * std < conv.weight.abs().max().item() <= 2.2738 * std
    assert not conv.bias.any()

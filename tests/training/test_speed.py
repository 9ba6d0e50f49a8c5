"""Networks laid out for fast training, and in half precision on a CPU."""

from __future__ import annotations

import copy

import torch
from torch import nn

from shared_nets.training import prepared


def test_half_precision_rounds_what_is_computed_and_no_weight() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3))
    exact = copy.deepcopy(network)
    x = torch.rand(2, 1, 16, 16)
    rounded = prepared(network, "cpu", bfloat16=True)(x)
    assert rounded.dtype is torch.float32
    assert not torch.equal(rounded, exact(x))
    torch.testing.assert_close(rounded, exact(x), rtol=0, atol=0.02)  # bfloat16 has 8 bits: 1 in 256
    rounded.sum().backward()
    assert network[0].weight.grad.dtype is torch.float32
    for (name, value), (same, expected) in zip(
        network.state_dict().items(), exact.state_dict().items(), strict=True
    ):
        assert name == same
        assert torch.equal(value, expected)


def test_in_full_precision_nothing_is_rounded() -> None:
    network = nn.Conv2d(1, 2, 3)
    x = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(prepared(copy.deepcopy(network), "cpu")(x), network(x), rtol=0, atol=1e-6)

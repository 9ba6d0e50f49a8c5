from __future__ import annotations

import torch

from shared_nets import CNNRes
from shared_nets.networks.cnnres import ResidualUnit
from tests.networks.base import NetworkTests


class TestCNNRes(NetworkTests):
    make = CNNRes
    channels = 2
    trainable = 6_465_441
    statistics = 5_952


def test_the_papers_counts_with_one_channel() -> None:
    with torch.device("meta"):
        net = CNNRes(in_channels=1)
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()}
    running = {
        name: sum(b.numel() for key, b in child.named_buffers() if "running_" in key)
        for name, child in net.named_children()
    }
    table = {name: counts[name] + running[name] for name in counts if counts[name]}
    # The paper's Figures 1-5 with its total of 6,471,105 force these, part by part.
    assert table == {
        "translation1": 448,
        "residual1": 10_560,
        "translation2": 18_752,
        "residual2": 41_600,
        "translation3": 74_368,
        "residual3": 165_120,
        "translation4": 296_192,
        "residual4": 657_920,
        "translation5": 1_182_208,
        "residual5": 2_626_560,
        "neck": 32_832,
        "decoder4": 737_536,
        "decoder3": 442_496,
        "decoder2": 110_656,
        "decoder1": 55_360,
        "decoder0": 18_464,
        "head": 33,
    }
    assert sum(counts.values()) == 6_465_153
    assert sum(running.values()) == 5_952


def test_residual_unit_adds_to_its_input() -> None:
    unit = ResidualUnit(4).eval()
    x = torch.randn(1, 4, 5, 5)
    kept = x.clone()
    torch.nn.init.zeros_(unit.unit.conv2.weight)
    torch.nn.init.zeros_(unit.unit.conv2.bias)
    assert torch.equal(unit(x), kept)
    assert torch.equal(x, kept)


def test_dropout_drops_whole_channels_of_the_neck_only_in_training() -> None:
    net = CNNRes(dropout=0.5)
    dropped: list[torch.Tensor] = []
    net.dropout.register_forward_hook(lambda _module, _inputs, output: dropped.append(output))
    x = torch.rand(2, 2, 32, 32)
    net.train()(x)
    net.eval()(x)
    silent = [(output == 0).all(dim=(2, 3)) for output in dropped]
    assert silent[0].any()
    assert not silent[0].all()
    assert not silent[1].any()

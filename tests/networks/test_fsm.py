from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from shared_nets import FeatureSimilarityModule
from shared_nets.networks.checks import he_normal_

BOTH = pytest.mark.parametrize("similarity", ["dot", "softmax"])


def naive(fsm: FeatureSimilarityModule, x: Tensor) -> Tensor:
    """The module with all N×N affinities written out."""
    reduced = fsm.reduce(x)
    alpha, beta, value = (layer(reduced).flatten(2) for layer in (fsm.alpha, fsm.beta, fsm.value))
    scores = torch.einsum("bci,bcj->bij", alpha, beta)
    affinity = scores / scores.shape[2] if fsm.similarity == "dot" else scores.softmax(dim=2)
    gathered = torch.einsum("bij,bcj->bci", affinity, value).reshape(*value.shape[:2], *x.shape[2:])
    return fsm.expand(fsm.project(gathered) + reduced) + x


@BOTH
def test_equals_the_written_out_affinities(similarity: str) -> None:
    torch.manual_seed(0)
    fsm = FeatureSimilarityModule(32, reduction=4, similarity=similarity).double().eval()
    x = torch.randn(2, 32, 5, 7, dtype=torch.float64, requires_grad=True)
    ours, theirs = fsm(x), naive(fsm, x)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours.square().sum(), [x, *fsm.parameters()]),
        torch.autograd.grad(theirs.square().sum(), [x, *fsm.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@BOTH
def test_positions_far_apart_meet(similarity: str) -> None:
    torch.manual_seed(0)
    fsm = FeatureSimilarityModule(32, reduction=4, similarity=similarity).double().eval()
    he_normal_(fsm)
    x = torch.rand(1, 32, 12, 12, dtype=torch.float64)
    moved = x.clone()
    moved[..., 0, 0] += 5
    far = (fsm(moved) - fsm(x))[..., 8:, 8:]  # beyond the reach of the two 3×3 convolutions
    assert far.abs().max() > 1e-6


def test_forms_have_the_published_widths() -> None:
    dot, softmax = FeatureSimilarityModule(1024), FeatureSimilarityModule(1024, similarity="softmax")
    assert [tuple(w.shape[:2]) for w in (dot.alpha.weight, dot.beta.weight, dot.value.weight)] == [
        (64, 128)
    ] * 3
    assert tuple(dot.project.weight.shape[:2]) == (128, 64)
    assert tuple(softmax.value.weight.shape[:2]) == (128, 128)
    assert not list(softmax.project.parameters())


@pytest.mark.parametrize(("channels", "reduction"), [(20, 8), (8, 8), (4, 8), (24, 8)])
def test_channels_that_do_not_divide(channels: int, reduction: int) -> None:
    with pytest.raises(ValueError, match=f"divisible by 2 × reduction = 16, not {channels}"):
        FeatureSimilarityModule(channels, reduction)


def test_unknown_similarity() -> None:
    with pytest.raises(ValueError, match="one of dot, softmax, not 'cosine'"):
        FeatureSimilarityModule(16, similarity="cosine")


@BOTH
def test_plugs_into_monai(similarity: str) -> None:
    torch.manual_seed(0)
    net = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=(8, 8, 16, 16, 32, 8))
    net.down_4 = nn.Sequential(net.down_4, FeatureSimilarityModule(32, similarity=similarity))
    x = torch.rand(2, 1, 48, 32)
    logits = net(x)
    logits.square().mean().backward()
    assert logits.shape == x.shape
    assert all(p.grad is not None and p.grad.any() for p in net.down_4[1].parameters())


def peak_bytes(run: Callable[[], object], trace: Path) -> int:
    """The most memory that ``run`` held at one time, beyond what was held before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    profiler.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    held = [event["args"]["Total Allocated"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(held) - held[0]


@BOTH
@pytest.mark.parametrize("training", [False, True])
def test_memory_grows_linearly_with_the_positions(similarity: str, training: bool, tmp_path: Path) -> None:
    fsm = FeatureSimilarityModule(16, similarity=similarity).train(training)

    def peak(side: int, module: Callable[[Tensor], Tensor]) -> int:
        def run() -> None:
            with torch.set_grad_enabled(training):
                output = module(x)
            if training:
                output.sum().backward()

        x = torch.rand(1, 16, side, side)
        return peak_bytes(run, tmp_path / "trace.json")

    small, large = peak(64, fsm), peak(128, fsm)
    all_affinities = 4 * (128 * 128) ** 2  # bytes of the N×N matrix: 1.07 GB
    assert small > 4 * 16 * 64 * 64  # the measure sees at least the output
    assert large / small < 5  # four times the positions
    assert large < all_affinities / 50
    if not training:  # the measure sees an N×N matrix where there is one
        written_out = peak(64, lambda x: naive(fsm, x))
        assert written_out > 4 * (64 * 64) ** 2

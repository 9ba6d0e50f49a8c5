"""Pretraining: it runs, resumes, exports weights that fit, and says in words what it cannot use."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from shared_nets import XNet
from shared_nets.errors import DeviceError, OutputError, UsageError, WeightsError
from shared_nets.simulation import SimulatedSlices, t1_contrast
from shared_nets.training import pretrain
from shared_nets.training.pretrain import (
    Recipe,
    Run,
    Stage,
    app,
    export_average,
    read_checkpoint,
    schedule,
    train,
    usual_workers,
)
from shared_nets.weights import load_into, load_weights
from tests.second_device import second_device
from tests.simulation import heads


class Tiny(nn.Module):
    """A network of a few weights, with batch-norm statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu())


def recipe(network: type[nn.Module] = Tiny) -> Recipe:
    stages = (Stage(0.5, 8.0, (32, 32), 2), Stage(1.0, 4.0, (48, 48), 2))
    return Recipe(network, t1_contrast, stages, learning_rate=1e-3)


def train_tiny(output: Path, minutes: float, workers: int = 0) -> None:
    train(recipe(), [heads.brain()], [heads.ball()], output, minutes, workers=workers)


def random_batch() -> dict[str, torch.Tensor]:
    return {
        "image": torch.rand(2, 1, 16, 16),
        "label": torch.rand(2, 1, 16, 16).round(),
        "tissue": torch.randint(5, (2, 16, 16), dtype=torch.uint8),
    }


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the images that are trained on; a step takes six seconds, however fast the machine."""
    shapes, seconds, step = [], itertools.count(step=6), Run.step

    def watched(run: Run, batch: Mapping[str, torch.Tensor], progress: float) -> torch.Tensor:
        shapes.append(tuple(batch["image"].shape))
        return step(run, batch, progress)

    monkeypatch.setattr(Run, "step", watched)
    monkeypatch.setattr(pretrain, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    return shapes


def test_training_runs_through_its_stages_resumes_and_exports(
    tmp_path: Path, seen: list[tuple[int, ...]]
) -> None:
    checkpoint = tmp_path / "new" / "tiny.ckpt"
    small, large = (2, 1, 32, 32), (2, 1, 48, 48)
    train_tiny(checkpoint, minutes=1.0)
    first = read_checkpoint(checkpoint)
    assert seen == [small] * 4 + [large] * 5  # half a minute each, of which starting takes six seconds
    assert (first["step"], first["slices"], first["minutes"]) == (9, 18, 1.0)
    assert first["average"]["n_averaged"] == 9

    seen.clear()
    train_tiny(checkpoint, minutes=1.0)  # done already
    assert not seen
    assert read_checkpoint(checkpoint)["step"] == 9
    train_tiny(checkpoint, minutes=3.0)  # of which a third is done: the first stage, for half a minute more
    assert seen == [small] * 4 + [large] * 15
    second = read_checkpoint(checkpoint)
    assert (second["step"], second["minutes"]) == (28, 3.0)
    assert os.listdir(checkpoint.parent) == ["tiny.ckpt"]

    export_average(recipe(), checkpoint, tmp_path / "model.pt", [heads.brain()], [heads.ball()], batches=3)
    for key, value in load_into(Tiny(), tmp_path / "model.pt").state_dict().items():
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(value, second["average"][f"module.{key}"], rtol=1e-3, atol=1e-6)


def test_a_run_goes_on_exactly_where_it_was_saved(tmp_path: Path) -> None:
    batch = random_batch()
    whole, before, after = (Run(recipe()) for _ in range(3))
    before.network.load_state_dict(whole.network.state_dict())
    before.tissue_head.load_state_dict(whole.tissue_head.state_dict())
    before.average.load_state_dict(whole.average.state_dict())
    for _ in range(4):
        whole.step(batch, 0.1)
    for _ in range(2):
        before.step(batch, 0.1)
    before.save(tmp_path / "half.ckpt")
    after.load(tmp_path / "half.ckpt")
    for _ in range(2):
        after.step(batch, 0.1)
    for one, other in ((whole.network, after.network), (whole.average, after.average)):
        for key, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[key], value)


def test_no_batch_pulls_the_weights_far() -> None:
    run, batch = Run(recipe()), random_batch()
    run.bfloat16 = False
    with torch.no_grad():
        run.network.head.weight *= 100  # and with it the gradients of the layers below
    run.step(batch, 0.1)
    gradients = [parameter.grad for parameter in run.parameters if parameter.grad is not None]
    assert torch.cat([gradient.flatten() for gradient in gradients]).norm().item() == pytest.approx(1)


@pytest.mark.parametrize("workers", [0, 2])
def test_slices_come_from_as_many_processes_as_asked(
    tmp_path: Path, seen: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    asked = []

    class Watched(DataLoader):
        def __init__(self, *args: Any, **options: Any) -> None:
            asked.append(options["num_workers"])
            super().__init__(*args, **options)

    monkeypatch.setattr(pretrain, "DataLoader", Watched)
    monkeypatch.setattr(pretrain, "loader_workers", int)  # whatever shared memory there is
    others = set(multiprocessing.active_children())  # an earlier test's may still be ending
    train_tiny(tmp_path / "tiny.ckpt", 0.5, workers)
    assert asked == [workers] * 2  # a loader a stage
    assert len(seen) == 4
    assert not set(multiprocessing.active_children()) - others


def test_a_gpu_is_fed_by_every_core_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usual_workers(torch.device("cuda")) == 7
    assert usual_workers(torch.device("cpu")) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usual_workers(torch.device("cuda", 1)) == 1


@pytest.mark.filterwarnings("ignore:for .* meta parameter")  # the stand-in's name; it does copy
def test_another_device_takes_over_a_checkpoint_and_learns_the_same(tmp_path: Path) -> None:
    batch, here = random_batch(), Run(recipe())
    here.bfloat16 = False  # where the CPU has bfloat16: the stand-in has not
    here.step(batch, 0.1)
    here.save(tmp_path / "tiny.ckpt")
    here.step(batch, 0.1)
    with second_device() as device:
        there = Run(recipe(), device=device)
        there.bfloat16 = False
        there.load(tmp_path / "tiny.ckpt")
        loss = there.step(batch, 0.1)
        gradients, expected = (
            [state["exp_avg"] for state in run.optimizer.state.values()] for run in (there, here)
        )
        learned = [*there.network.state_dict().values(), *there.tissue_head.parameters()]
        assert all(tensor.device == device for tensor in (loss, *learned, *gradients))
        torch.testing.assert_close([gradient.cpu() for gradient in gradients], expected)
        for one, other in ((here.network, there.network), (here.average.module, there.average.module)):
            for key, value in one.state_dict().items():
                # A step of 2e-5 in whichever direction where a gradient is but rounding.
                torch.testing.assert_close(other.state_dict()[key].cpu(), value, rtol=1e-5, atol=1e-4)


def test_exported_weights_fit_the_network_in_half_precision(tmp_path: Path) -> None:
    run = Run(recipe(XNet))
    run.save(tmp_path / "xnet.ckpt")
    export = tmp_path / "model.safetensors"
    export_average(recipe(XNet), tmp_path / "xnet.ckpt", export, [heads.brain()], [heads.ball()], batches=1)
    assert (tmp_path / "model.safetensors").stat().st_size < 32e6
    weights = load_weights(tmp_path / "model.safetensors")
    XNet().load_state_dict(weights, strict=True)
    for key, value in run.network.named_parameters():
        torch.testing.assert_close(weights[key], value.detach(), rtol=1e-3, atol=1e-6)


def test_exported_statistics_are_those_of_the_averaged_weights(tmp_path: Path) -> None:
    run = Run(recipe())
    norm = run.average.module.norm
    norm.running_mean += 1000  # statistics of other weights, which do not fit
    run.save(tmp_path / "tiny.ckpt")
    export_average(
        recipe(), tmp_path / "tiny.ckpt", tmp_path / "model.pt", [heads.brain()], [heads.ball()], batches=4
    )
    network = load_into(Tiny(), tmp_path / "model.pt")
    slices = SimulatedSlices([heads.brain()], [heads.ball()], t1_contrast, (48, 48), 4.0, seed=7)
    images = torch.stack([case["image"] for case in islice(iter(slices), 16)])
    with torch.no_grad():
        seen = network.conv(images)
    torch.testing.assert_close(network.norm.running_mean, seen.mean((0, 2, 3)), rtol=0.3, atol=0.05)


def test_the_learning_rate_warms_up_and_ends_low() -> None:
    assert schedule(0, 0.0) == pytest.approx(0.01)
    assert schedule(99, 0.0) == schedule(500, 0.0) == 1
    assert schedule(500, 0.5) == pytest.approx(0.5)
    assert schedule(500, 1.0) == pytest.approx(0.01)


def test_training_goes_on_from_weights_and_refuses_those_that_do_not_fit(tmp_path: Path) -> None:
    torch.save(Run(recipe()).network.state_dict(), tmp_path / "model.pt")
    one, other = (Run(recipe(), tmp_path / "model.pt").network.state_dict() for _ in range(2))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    with pytest.raises(WeightsError, match=r"model\.pt"):
        Run(recipe(XNet), tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_what_is_no_checkpoint_is_told_and_left_alone(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tiny.ckpt"
    torch.save({"network": {}}, path) if content is None else path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(WeightsError, match=r"tiny.ckpt .* checkpoint of a pretraining"):
        train_tiny(path, minutes=0.01)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_network_is_told(tmp_path: Path) -> None:
    Run(recipe(XNet)).save(tmp_path / "xnet.ckpt")
    with pytest.raises(WeightsError, match=r"xnet.ckpt do not fit Tiny .* X-Net"):
        train_tiny(tmp_path / "xnet.ckpt", minutes=0.01)


def test_exporting_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone.ckpt is not there"):
        export_average(recipe(), tmp_path / "gone.ckpt", tmp_path / "model.pt", [], [])


def test_an_output_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        train_tiny(tmp_path / "file" / "tiny.ckpt", minutes=60)


def test_the_command_tells_bad_input_in_one_sentence(tmp_path: Path) -> None:
    options = ["--model", "cnnres", "--masks", str(tmp_path / "gone"), "--output", str(tmp_path / "a.ckpt")]
    line = [sys.executable, "-m", "shared_nets.training.pretrain", *options, "--device", "cpu"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1
    assert "gone is not there: check the path" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.ckpt").exists()


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        (["--device", "nonsense"], DeviceError, "^nonsense: no device has this name"),
        (
            ["--device", "cuda:99"],
            DeviceError,
            "^cuda:99: (PyTorch finds no GPU|this machine's GPUs)",
        ),
        (["--workers", "2", "--simulate-on-device"], UsageError, "leave them out with --simulate-on-device"),
    ],
)
def test_a_device_that_cannot_be_had_is_told_first(
    tmp_path: Path, options: list[str], kind: type[Exception], told: str
) -> None:
    known = ["--model", "xnet", "--masks", str(tmp_path / "gone"), "--output", str(tmp_path / "a.ckpt")]
    done = CliRunner().invoke(app, [*known, *options])
    assert isinstance(done.exception, kind)
    assert re.search(told, str(done.exception))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [["--model", "unet"], ["--minutes", "-1"], ["--minuets", "1"], ["--workers", "0"]]
)
def test_the_command_refuses_wrong_options_before_any_work(tmp_path: Path, wrong: list[str]) -> None:
    right = ["--model", "xnet", "--masks", str(tmp_path), "--output", str(tmp_path / "a.ckpt")]
    done = CliRunner().invoke(app, [*right, *wrong])
    assert done.exit_code == 2
    assert not list(tmp_path.iterdir())

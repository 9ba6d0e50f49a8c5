"""Runs that are killed at random moments or asked to end: what is left, and how they go on."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from tests.commands import ROOT, Done, Running, start
from tests.heads import SMALL, write_tree

Happened = Callable[[object], None]
EPOCHS = 4

# A network of 7 thousand weights with a batch norm and dropout, which draw and count.
NETWORK = {
    "_target_": "BasicUNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "features": [4, 4, 4, 8, 8, 4],
    "dropout": 0.1,
    "norm": "batch",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five heads to learn from, and eight to segment."""
    root = write_tree(tmp_path_factory.mktemp("crashes") / "data", ["T1w"])
    for number in range(3, 9):
        source = root / "imagesTr" / f"case{1 + number % 5}.nii.gz"
        (root / "imagesTs" / f"case{number}.nii.gz").write_bytes(source.read_bytes())
    overlay = {"network_def": NETWORK, **SMALL, "slices_per_scan": 2, "max_epochs": EPOCHS, "cache_num": 0}
    (root / "small.json").write_text(json.dumps(overlay))
    return root


def train(tree: Path, output: Path, *, resume: bool = False) -> Running:
    files = [str(ROOT / "xnet_bundle" / "configs" / "train.json"), str(tree / "small.json")]
    options = {
        "config_file": files, "bundle_root": ROOT / "xnet_bundle", "dataset_dir": tree, "output_dir": output,
        "resume": resume, "early_stop_patience": 99,
    }  # fmt: skip
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return start("monai.bundle", "run", "training", *words)


@pytest.fixture(scope="module")
def unbroken(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What an unbroken training leaves in last.ckpt, and how many seconds it takes."""
    output, begin = tmp_path_factory.mktemp("unbroken"), time.monotonic()
    done = train(tree, output).wait()
    assert done.code == 0, done.err
    return state_of(output), time.monotonic() - begin


def state_of(output: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(output / "models" / "last.ckpt", weights_only=True)
    return state


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def check_whole(output: Path) -> None:
    """Whatever stands in the folder under a result's name can be read to its end."""
    for path in output.rglob("*"):
        if path.name.startswith("."):
            continue  # a name nobody looks for, left by a kill
        if path.suffix in (".pt", ".ckpt"):
            torch.load(path, weights_only=True)
        elif path.name.endswith(".nii.gz"):
            np.asarray(nib.load(path).dataobj)
        elif path.suffix == ".csv":
            pd.read_csv(path)


def broken_training(tree: Path, output: Path, seconds: float, moments: Iterator[float]) -> list[int]:
    """Train, killed at each of the moments and resumed, then to the end; the epochs done at each kill."""
    epochs = []
    for moment in moments:
        running = train(tree, output, resume=(output / "models" / "last.ckpt").exists())
        time.sleep(moment * seconds)
        running.signal(signal.SIGKILL)
        running.wait()
        check_whole(output)
        done = (output / "models" / "last.ckpt").exists()
        epochs.append(state_of(output)["trainer"]["epoch"] if done else 0)
        if epochs[-1] == EPOCHS:
            return epochs
    done = train(tree, output, resume=(output / "models" / "last.ckpt").exists()).wait()
    assert done.code == 0, done.err
    return epochs


RESUMED = "Files are absent or whole; resumed, at most one epoch is repeated, and the weights end the same."


@pytest.mark.reliability("Crash safety", "kill -9 at two random moments of a training", RESUMED)
def test_a_killed_training_ends_as_if_unbroken(
    tree: Path, unbroken: tuple[dict[str, Any], float], tmp_path: Path, happened: Happened
) -> None:
    expected, seconds = unbroken
    draw = random.Random()
    epochs = broken_training(tree, tmp_path, seconds, iter([draw.uniform(0.4, 0.9), draw.uniform(0.3, 0.6)]))
    assert same(state_of(tmp_path), expected)
    happened(
        f"Killed after {' and '.join(map(str, epochs))} of {EPOCHS} epochs; the final state was the same."
    )


def predict(tree: Path, output: Path) -> Running:
    settings = {**SMALL, "save_picture": False, "save_probability": True, "dataset_dir": tree / "imagesTs"}
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    return start(
        "monai.bundle", "run", "--config_file", ROOT / "xnet_bundle" / "configs" / "inference.json",
        "--bundle_root", ROOT / "xnet_bundle", "--output_dir", output, *words,
    )  # fmt: skip


@pytest.fixture(scope="module")
def segmented(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """What an unbroken prediction leaves, and how many seconds it takes."""
    output, begin = tmp_path_factory.mktemp("segmented"), time.monotonic()
    done = predict(tree, output).wait()
    assert done.code == 0, done.err
    return output, time.monotonic() - begin


def check_same_results(output: Path, expected: Path) -> None:
    """The same files to the byte; the same sidecars and table but for the seconds."""
    for path in expected.glob("*_label-*"):
        made = output / path.name
        if path.suffix == ".json":
            assert without_seconds(made) == without_seconds(path)
        else:
            assert made.read_bytes() == path.read_bytes()
    one, two = (pd.read_csv(folder / "lesions.csv").drop(columns="seconds") for folder in (output, expected))
    pd.testing.assert_frame_equal(one, two)


def without_seconds(sidecar: Path) -> dict[str, Any]:
    """What a mask's sidecar says, but for how long it took."""
    content: dict[str, Any] = json.loads(sidecar.read_text())
    content.get("Result", {}).pop("seconds", None)
    return content


@pytest.mark.reliability(
    "Crash safety",
    "kill -9 at three random moments of a prediction of eight scans",
    "Files are absent or whole; run again, the results are those of an unbroken run to the byte.",
)
def test_a_killed_prediction_ends_as_if_unbroken(
    tree: Path, segmented: tuple[Path, float], tmp_path: Path, happened: Happened
) -> None:
    expected, seconds = segmented
    draw, masks = random.Random(), []
    for _ in range(3):
        running = predict(tree, tmp_path)
        time.sleep(draw.uniform(0.3, 0.95) * seconds)
        running.signal(signal.SIGKILL)
        running.wait()
        check_whole(tmp_path)
        masks.append(len(list(tmp_path.glob("*_mask.nii.gz"))))
    done = predict(tree, tmp_path).wait()
    assert done.code == 0, done.err
    check_same_results(tmp_path, expected)
    happened(f"Killed with {', '.join(map(str, masks))} of 8 masks written; the rest as promised.")


ENDS = "It ends within seconds with one sentence, and what was finished is whole."


@pytest.mark.reliability("Crash safety", "Ctrl-C or SIGTERM in a training", ENDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_asked_to_end(
    tree: Path, unbroken: tuple[dict[str, Any], float], tmp_path: Path, number: int, happened: Happened
) -> None:
    running = train(tree, tmp_path)
    wait_for(tmp_path / "models" / "last.ckpt", running)
    done = ended_by(running, number)
    assert "last.ckpt holds the run up to epoch" in done.err
    happened(told(done))
    check_whole(tmp_path)
    done = train(tree, tmp_path, resume=True).wait()
    assert done.code == 0, done.err
    assert same(state_of(tmp_path), unbroken[0])


@pytest.mark.reliability("Crash safety", "Ctrl-C or SIGTERM in a prediction", ENDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_prediction_asked_to_end(tree: Path, tmp_path: Path, number: int, happened: Happened) -> None:
    running = predict(tree, tmp_path)
    wait_for(tmp_path / "lesions.csv", running)
    done = ended_by(running, number)
    left = 8 - len(pd.read_csv(tmp_path / "lesions.csv"))
    by = "interrupted" if number == signal.SIGINT else "terminated"
    assert told(done) == f"Stopped, {left} scan{'' if left == 1 else 's'} left: {by}; run again to continue."
    happened(told(done))
    check_whole(tmp_path)
    assert len(list(tmp_path.glob("*_mask.nii.gz"))) < 8


def wait_for(path: Path, running: Running) -> None:
    """Until the file is there, or the run has ended."""
    while not path.exists() and running.process.is_alive():
        time.sleep(0.02)


def ended_by(running: Running, number: int) -> Done:
    running.signal(number)
    begin = time.monotonic()
    done = running.wait()
    assert time.monotonic() - begin < 60
    assert done.code != 0
    assert "Traceback" not in done.err
    return done


def told(done: Done) -> str:
    """The last thing it said."""
    return done.err.replace("\r", "\n").strip().splitlines()[-1]


@pytest.mark.long
@pytest.mark.reliability("Longer runs", "kill -9 at 30 random moments, half of them in trainings", RESUMED)
def test_thirty_kills(
    tree: Path,
    unbroken: tuple[dict[str, Any], float],
    segmented: tuple[Path, float],
    tmp_path: Path,
    happened: Happened,
) -> None:
    draw = random.Random()
    kills, epochs, masks = 0, [], []
    while kills < 15:
        output = tmp_path / f"train{kills}"
        moments = iter([draw.uniform(0.2, 0.95) for _ in range(3)])
        broken = broken_training(tree, output, unbroken[1], moments)
        kills += len(broken)
        epochs += broken
        assert same(state_of(output), unbroken[0])
    for turn in range(3):
        output = tmp_path / f"predict{turn}"
        for _ in range(5):
            running = predict(tree, output)
            time.sleep(draw.uniform(0.2, 0.99) * segmented[1])
            running.signal(signal.SIGKILL)
            running.wait()
            check_whole(output)
            masks.append(len(list(output.glob("*_mask.nii.gz"))))
        assert predict(tree, output).wait().code == 0
        check_same_results(output, segmented[0])
    happened(
        f"{kills} kills of trainings with {', '.join(map(str, epochs))} of {EPOCHS} epochs done, "
        f"{len(masks)} of predictions with {', '.join(map(str, masks))} of 8 masks written: every run ended "
        f"as the unbroken one."
    )

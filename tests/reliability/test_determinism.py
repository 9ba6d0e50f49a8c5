"""The same scan gives the same result, whatever stands around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from shared_nets import CNNRes
from tests.heads import head, lesion_mask, write
from tests.reliability.programs import Run, predict
from tests.reliability.small import EPOCHS, train

Happened = Callable[[object], None]
TOLERANCE = 1e-5


@lru_cache
def opinionated_network() -> nn.Module:
    """CNN-Res with random weights: on a head it says all from 0 to .9, and over a quarter is above .5."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CNNRes(in_channels=2).eval()


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three DWI of different heads."""
    folder = tmp_path_factory.mktemp("scans")
    return [
        str(write(folder / f"case{n}_dwi.nii.gz", head("DWI", lesion_mask(n), seed=n))) for n in (1, 2, 3)
    ]


def segment(scans: list[str], output: Path, **settings: object) -> Run:
    settings = {
        "save_probability": True, "threshold": 0.5, "peak_threshold": 0.5, "smallest_lesion_ml": 0.0,
        "smoothing_mm": 0.0, **settings,
    }  # fmt: skip
    run = predict(scans, output, "cnnres", opinionated_network(), **settings)
    assert run.code == 0, run.err
    return run


@pytest.fixture(scope="module")
def usual(scans: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All three, eight windows at a time, on one thread."""
    with threads(1):
        return segment(scans, tmp_path_factory.mktemp("usual") / "out")


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def farthest(run: Run, usual: Run) -> float:
    """The largest difference of a voxel's probability; masks differ only where it crosses the threshold."""
    largest = 0.0
    paths = sorted(run.output.glob("*_probseg.nii.gz"))
    assert paths
    for path in paths:
        one, two = (nib.load(folder / path.name).get_fdata() for folder in (run.output, usual.output))
        assert 0.1 < (two > 0.5).mean() < 0.5  # the network has something to say
        masks = [
            nib.load(folder / path.name.replace("probseg", "mask")).get_fdata()
            for folder in (run.output, usual.output)
        ]
        assert (np.abs(two[masks[0] != masks[1]] - 0.5) <= TOLERANCE).all()
        largest = max(largest, float(np.abs(one - two).max()))
    return largest


ALIKE = (
    "Every voxel's probability is the same to 1e-5; masks differ only where it is that near to a threshold."
)


def row(done: str) -> pytest.MarkDecorator:
    return pytest.mark.reliability("Determinism", done, ALIKE)


@pytest.mark.parametrize(
    ("changed", "number"),
    [
        pytest.param({"window_batch": 1}, 1, marks=row("One window or five at a time, not eight")),
        pytest.param({"window_batch": 5}, 1, marks=row("One window or five at a time, not eight")),
        pytest.param({}, 2, marks=row("Two or three threads, not one")),
        pytest.param({}, 3, marks=row("Two or three threads, not one")),
    ],
)
def test_settings_that_change_nothing(
    scans: list[str], usual: Run, tmp_path: Path, changed: dict[str, int], number: int, happened: Happened
) -> None:
    with threads(number):
        run = segment(scans, tmp_path / "out", **changed)
    difference = farthest(run, usual)
    happened(f"Largest difference {difference:.1g}.")
    assert difference <= TOLERANCE


@row("The files in another order")
def test_another_order(scans: list[str], usual: Run, tmp_path: Path, happened: Happened) -> None:
    with threads(1):
        difference = farthest(segment(scans[::-1], tmp_path / "out"), usual)
    happened(f"Largest difference {difference:.1g}.")
    assert difference <= TOLERANCE


@row("A scan alone, not among others")
def test_alone(scans: list[str], usual: Run, tmp_path: Path, happened: Happened) -> None:
    with threads(1):
        run = segment(scans[1:2], tmp_path / "out")
    assert len(run.table) == 1
    difference = farthest(run, usual)
    happened(f"Largest difference {difference:.1g}.")
    assert difference <= TOLERANCE


IDENTICAL = "The files are identical to the byte."


@pytest.mark.reliability(
    "Determinism", "A prediction with the same settings again: masks, maps, pictures", IDENTICAL
)
def test_predictions_to_the_byte(scans: list[str], tmp_path: Path) -> None:
    kept = {"save_picture": True, "save_labels": True}
    runs = [segment(scans[:1], tmp_path / name, **kept) for name in ("one", "two")]
    names = {name for name in runs[0].files if not name.endswith(".json")}  # a sidecar tells the seconds
    assert {name.rpartition("lesion")[2] for name in names} == {
        "_mask.nii.gz", "_probseg.nii.gz", "_dseg.nii.gz", ".png"
    }  # fmt: skip
    for name in names:
        assert (runs[0].output / name).read_bytes() == (runs[1].output / name).read_bytes()


@pytest.mark.reliability(
    "Determinism", "A training with the same settings again: weights and resume state", IDENTICAL
)
def test_trainings_to_the_byte(tree: Path, trained: Path, tmp_path: Path) -> None:
    done = train(tree, tmp_path, max_epochs=EPOCHS).wait()
    assert done.code == 0, done.err
    for name in ("model.pt", "last.ckpt"):
        assert (tmp_path / "models" / name).read_bytes() == (trained / "models" / name).read_bytes()

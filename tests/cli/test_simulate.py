"""`strokeseg simulate`: which masks it takes, and that its options arrive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from typer.testing import CliRunner

from shared_nets import simulation
from shared_nets.cli import app
from tests.simulation import heads

SMALL = ["--shape", "24", "20", "6", "--spacing", "8", "12", "--folds", "2", "--quiet"]


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Eleven masks, of which pretraining keeps the first, sixth and eleventh apart."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in range(11):
        heads.save_ball(folder / f"mask{number:02d}.nii.gz", radius_mm=20.0)
    return folder


@pytest.fixture(autouse=True)
def _small_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "anatomies_of", lambda folder: [heads.brain()])


def simulate(*words: object) -> Any:
    return CliRunner().invoke(app, ["simulate", *map(str, words)])


@pytest.mark.parametrize(
    ("which", "numbers"),
    [([], range(11)), (["--held-out"], (0, 5, 10)), (["--not-held-out"], (1, 2, 3, 4, 6, 7, 8, 9))],
)
def test_masks_kept_apart(
    tmp_path: Path, masks: Path, monkeypatch: pytest.MonkeyPatch, which: list[str], numbers: Any
) -> None:
    """The figures on held-out masks rest on this."""
    taken: list[str] = []

    def record(folder: Path, masks: list[Path], *more: object) -> Path:
        taken.extend(path.name for path in masks)
        return folder / "datalist.json"

    monkeypatch.setattr(simulation, "simulate_dataset", record)
    done = simulate("--model", "xnet", "--masks", masks, "--output", tmp_path / "out", *which)
    assert done.exit_code == 0, done.output
    assert taken == [f"mask{number:02d}.nii.gz" for number in numbers]


@pytest.mark.parametrize(("model", "channels"), [("xnet", ["_0000"]), ("cnnres", ["_0000", "_0001"])])
def test_cases_as_asked_for(tmp_path: Path, masks: Path, model: str, channels: list[str]) -> None:
    words = ["--model", model, "--masks", masks, "--cases", 4, *SMALL]
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        done = simulate(*words, "--output", tmp_path / name, "--seed", seed)
        assert done.exit_code == 0, done.output
        assert done.output == f"Wrote {tmp_path / name / 'datalist.json'}\n"
    listed = json.loads((tmp_path / "one" / "datalist.json").read_text())["training"]
    assert [case["fold"] for case in listed] == [0, 1, 0, 1]
    labels = sorted((tmp_path / "one" / "labelsTr").iterdir())
    assert len(labels) == 4
    for path in labels:
        label = nib.load(path)
        assert label.shape == (20, 24, 6)
        assert nib.affines.voxel_sizes(label.affine) == pytest.approx((8, 8, 12))
        assert label.get_fdata().sum() * 8 * 8 * 12 / 1000 >= 1  # mL
        assert path.read_bytes() == (tmp_path / "again" / "labelsTr" / path.name).read_bytes()
    names = {path.name for path in (tmp_path / "one" / "imagesTr").iterdir()}
    assert names <= {f"sim{n:04d}{channel}.nii.gz" for n in range(4) for channel in channels}
    others = [tmp_path / "other" / "labelsTr" / path.name for path in labels]
    assert any(one.read_bytes() != other.read_bytes() for one, other in zip(labels, others, strict=True))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cases", "1"], "1 cases from 11 masks do not make 2 folds"),
        (["--held-out", "--folds", "4"], "cases from 3 masks do not make 4 folds"),
        (["--masks", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_made(tmp_path: Path, masks: Path, words: list[str], told: str) -> None:
    done = simulate("--model", "xnet", "--masks", masks, "--output", tmp_path / "out", *SMALL, *words)
    assert done.exit_code == 1
    assert told in str(done.exception)
    assert not (tmp_path / "out").exists()

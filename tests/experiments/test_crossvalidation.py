"""`strokeseg experiment`: folds are trained and evaluated once, and a killed run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.bundles.test_workflows import items
from tests.commands import ROOT, strokeseg

Folders = Mapping[str, Path]


@pytest.fixture(scope="module")
def data(trees: Folders) -> dict[str, Path]:
    """A data list of two folds for each bundle."""
    lists = {}
    for name, tree in trees.items():
        lists[name] = tree / "two_folds.json"
        folds = [items(tree, name, [n], fold=n % 2)[0] for n in range(1, 6)]
        lists[name].write_text(json.dumps({"training": folds}))
    return lists


def command(
    bundles: Folders, data: Mapping[str, Path], name: str, output: Path, *more: object
) -> list[object]:
    settings = ("max_epochs=2", "slices_per_scan=1", "scans_per_batch=2")
    return [
        "experiment", data[name], "--model", name, "--bundle", bundles[name], "--output", output, "--quiet",
        *(word for setting in settings for word in ("--set", setting)), *more,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["xnet", "cnnres"])
def test_folds_to_table(bundles: Folders, data: dict[str, Path], tmp_path: Path, name: str) -> None:
    done = strokeseg(*command(bundles, data, name, tmp_path, "--scoring", "paper"))
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert sorted(table["scan"]) == [f"case{n}" for n in range(1, 6)]  # every case once
    assert dict(zip(table["scan"], table["fold"], strict=True)) == {f"case{n}": n % 2 for n in range(1, 6)}
    assert f"By the {name} paper's rules: dice" in done.out
    for fold in (0, 1):
        trained = json.loads((tmp_path / f"fold{fold}" / "trained.json").read_text())
        assert trained["epoch"] == 2
        run = json.loads((tmp_path / f"fold{fold}" / "run.json").read_text())
        held = {case["name"] for case in run["cases"]["validation"]}
        assert held == {f"case{n}" for n in range(1, 6) if n % 2 == fold}
        assert run["seed"] == 0
        assert run["versions"]["torch"] == torch.__version__
    settings = json.loads((tmp_path / "experiment.json").read_text())
    assert settings["settings"] == {"max_epochs": 2, "slices_per_scan": 1, "scans_per_batch": 2}

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("fold*/**/*.*")}
    again = strokeseg(*command(bundles, data, name, tmp_path))
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("fold*/**/*.*")} == before  # nothing anew

    other = strokeseg(*command(bundles, data, name, tmp_path, "--set", "learning_rate=0.1"))
    assert other.code == 1
    assert other.err.startswith(f"{tmp_path} holds an experiment with other settings")


def test_killed_in_training_it_loses_an_epoch_at_most(
    bundles: Folders, data: dict[str, Path], tmp_path: Path
) -> None:
    """SIGKILL as soon as the first epoch is on disk; the run then goes on from there."""
    words = command(bundles, data, "cnnres", tmp_path, "--fold", "0", "--set", "max_epochs=6")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "shared_nets.cli", *map(str, words)], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    checkpoint = tmp_path / "fold0" / "models" / "last.ckpt"
    try:
        while not checkpoint.is_file():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = torch.load(checkpoint, weights_only=True)["trainer"]["epoch"]
    assert 1 <= reached < 6
    assert not (tmp_path / "fold0" / "trained.json").exists()

    done = strokeseg(*words)
    assert done.code == 0, done.err
    trained = json.loads((tmp_path / "fold0" / "trained.json").read_text())
    assert trained["resumed_after_epoch"] == reached
    assert trained["epoch"] == 6
    assert len(pd.read_csv(tmp_path / "fold0" / "evaluation" / "metrics.csv")) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--recipe", "papre.json"], "papre.json is not there"),
        (["--set", "max_epochs"], "write KEY=VALUE"),
        (["--weights", "first"], "first"),
        (["--scoring", "ours"], "ours"),
    ],
)
def test_wrong_commands(
    bundles: Folders, data: dict[str, Path], tmp_path: Path, words: list[str], told: str
) -> None:
    done = strokeseg(*command(bundles, data, "xnet", tmp_path / "out", *words))
    assert done.code == 2
    assert told in " ".join(done.err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()

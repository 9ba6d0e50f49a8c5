"""What `strokeseg table` and `finetune` hand to an experiment, without running one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from shared_nets.cli import app, experiments
from shared_nets.experiments import crossvalidation, finetuning, tables
from shared_nets.experiments.crossvalidation import Experiment
from shared_nets.experiments.methods import METHODS, Comparison


class EnoughError(Exception):
    """Ends a command when it has said what it would do."""


def enough(*_: object) -> None:
    raise EnoughError


@pytest.fixture(autouse=True)
def _own_errors_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command changes how its whole process tells errors, and this one is pytest's."""
    monkeypatch.setattr(experiments, "tell_errors_in_words", lambda debug: None)


def invoke(*words: object) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(done.exception, EnoughError), done.output


# ---- table ----


def test_networks_that_tables_have_in_common_are_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder and by one experiment, which is finished when the second table asks for it."""
    ran: list[Experiment] = []
    monkeypatch.setattr(crossvalidation.Experiment, "run", lambda self, folds: ran.append(self))
    monkeypatch.setattr(tables, "compare", enough)
    by_table = {}
    for which in (Comparison.ablation, Comparison.comparison):
        ran.clear()
        invoke("table", which.value, tmp_path / "data.json", "--output", tmp_path)
        names = [method.name for method in METHODS[which]]
        by_table[which] = dict(zip(names, ran, strict=True))
    first, second = by_table.values()
    both = first.keys() & second.keys()
    assert both == {"U-Net", "ResUNet", "X-Net"}
    for name in both:
        assert first[name] == second[name]  # folder, data, recipes and settings
    folders = {one.output for part in by_table.values() for one in part.values()}
    assert len(folders) == len(first | second)


# ---- finetune ----


@pytest.mark.parametrize(
    ("recipe", "words", "rate"),
    [
        (None, (), 1e-4),
        ({"max_epochs": 3}, (), 1e-4),
        ({"learning_rate": 0.02}, (), 0.02),
        ({"learning_rate": 0.02}, ("--learning-rate", "0.003"), 0.003),
        (None, ("--learning-rate", "0"), 0.0),
    ],
    ids=["by default", "with a recipe of other things", "a recipe's", "the option before a recipe", "zero"],
)
def test_the_learning_rate_of_fine_tuning(
    bundles: Mapping[str, Path], trees: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    recipe: dict[str, float] | None, words: tuple[str, ...], rate: float,
) -> None:  # fmt: skip
    started: list[Experiment] = []

    def start(tuning: Experiment, fold: int, weights: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        started.append(tuning)
        raise EnoughError

    monkeypatch.setattr(finetuning, "before_and_after", start)
    if recipe is not None:
        (tmp_path / "recipe.json").write_text(json.dumps(recipe))
        words += ("--recipe", str(tmp_path / "recipe.json"))
    invoke(
        "finetune", trees["xnet"], "--model", "xnet", "--bundle", bundles["xnet"], "--output",
        tmp_path / "out", *words,
    )  # fmt: skip
    parser = started[0].workflow([], 0).parser
    assert parser.get_parsed_content("optimizer").param_groups[0]["lr"] == rate
    # Which X-Net's own is not: without any of this it would learn at that.
    plain = replace(started[0], settings={}, recipes=()).workflow([], 0).parser
    assert plain.get_parsed_content("learning_rate") == 0.001

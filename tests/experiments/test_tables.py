"""The papers' tables: scoring rules, paired tests and costs against what can be worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from shared_nets.errors import UsageError
from shared_nets.evaluation import read_cases
from shared_nets.experiments.crossvalidation import Experiment
from shared_nets.experiments.finetuning import before_and_after_text
from shared_nets.experiments.methods import BUNDLES, METHODS, Method
from shared_nets.experiments.tables import (
    OVERLAPS,
    budget,
    build,
    costs,
    explanation,
    holm,
    in_common,
    markdown,
    means,
    scores,
    table,
    write_table,
)
from tests.commands import ROOT


def cases(
    dice: list[float], fold: list[int] | None = None, reference: list[float] | None = None
) -> pd.DataFrame:
    n = len(dice)
    columns = {
        f"{part}{key}": dice for part in ("", "slice_") for key in ("dice", "iou", "precision", "recall")
    }
    return pd.DataFrame(
        {
            "scan": [f"s{i}" for i in range(n)],
            "fold": fold or [0] * n,
            "status": "ok",
            "reference_ml": reference or [1.0] * n,
            "lesion_slices": 3,
            **columns,
        }
    )


def test_xnets_scoring_counts_volumes_without_lesion_as_0_and_takes_the_mean_of_the_folds_means() -> None:
    rows = cases([1.0, 0.4, 0.8], fold=[0, 0, 1], reference=[0.0, 5.0, 5.0])
    ours = means(scores(rows, "volumes"), "volumes")
    theirs = means(scores(rows, "xnet"), "xnet")
    assert ours["dice"] == pytest.approx((1.0 + 0.4 + 0.8) / 3)
    assert theirs["dice"] == pytest.approx(((0.0 + 0.4) / 2 + 0.8) / 2)


def test_cnn_res_scoring_is_over_slices_with_lesion() -> None:
    rows = cases([0.5, 0.9])
    rows["slice_dice"] = [0.2, np.nan]
    rows["lesion_slices"] = [4, 0]
    assert means(scores(rows, "cnnres"), "cnnres")["dice"] == pytest.approx(0.2)


def test_cnn_res_scoring_counts_every_slice_once() -> None:
    """30 slices at 0.8 and 2 at 0.2, from volumes of two folds; so is the table's difference."""
    last, other = (
        cases(dice, fold=[0, 1]).assign(lesion_slices=[30, 2]) for dice in ([0.8, 0.2], [0.5, 0.4])
    )
    mean = (30 * 0.8 + 2 * 0.2) / 32
    assert means(scores(last, "cnnres"), "cnnres") == pytest.approx(dict.fromkeys(OVERLAPS, mean))
    rows = table(
        [A, C], {"A": other, "C": last}, {"A": COST, "C": COST}, {"A": BUDGET, "C": BUDGET}, "cnnres"
    )
    assert rows["difference"][0] == pytest.approx((30 * 0.5 + 2 * 0.4) / 32 - mean)


def test_cnn_res_scoring_of_cases_without_lesion_has_no_value() -> None:
    rows = cases([1.0, 0.9]).assign(lesion_slices=0)
    assert np.isnan(list(means(scores(rows, "cnnres"), "cnnres").values())).all()


def test_a_failed_case_and_an_unknown_scoring_are_refused() -> None:
    rows = cases([0.5, 0.9])
    with pytest.raises(UsageError, match="no scoring 'mean'"):
        scores(rows, "mean")
    rows.loc[1, "status"] = "failed"
    with pytest.raises(UsageError, match="s1"):
        scores(rows, "volumes")


def test_a_failed_case_is_named_as_its_scan_is(tmp_path: Path) -> None:
    rows = cases([0.5, 0.9]).assign(scan=["001", "002"], status=["ok", "failed"])
    rows.drop(columns="fold").to_csv(tmp_path / "metrics.csv", index=False)
    with pytest.raises(UsageError, match=r"^002: failed"):
        scores(read_cases(tmp_path / "metrics.csv").assign(fold=0), "volumes")


A, B, C = (Method(name, "XNet") for name in ("A", "B", "C"))
COST = {"parameters_million": 1.0, "gmacs_per_slice": 2.0, "ms_per_slice": 3.0}
BUDGET = {"folds": 1, "epochs": 2, "slices": 16, "chosen_on_these_cases": False}


def made(**dice: list[float]) -> pd.DataFrame:
    methods = [{"A": A, "B": B, "C": C}[name] for name in dice]
    rows = {name: cases(values) for name, values in dice.items()}
    return table(methods, rows, dict.fromkeys(dice, COST), dict.fromkeys(dice, BUDGET))


def test_methods_are_tested_case_by_case_against_the_last() -> None:
    rng = np.random.default_rng(0)
    last = rng.uniform(0.3, 0.9, 20)
    a, b = last - 0.1 * rng.uniform(0, 1, 20), last + rng.normal(0, 0.05, 20)
    rows = made(A=list(a), B=list(b), C=list(last)).set_index("method")
    raw = [stats.wilcoxon(a, last).pvalue, stats.wilcoxon(b, last).pvalue]
    assert list(rows["p"][:2]) == pytest.approx(sorted_holm(raw))
    assert np.isnan(rows["p"]["C"])
    assert rows["difference"]["A"] == pytest.approx((a - last).mean())


def sorted_holm(raw: list[float]) -> list[float]:
    """By its definition, for two."""
    low, high = min(raw), max(raw)
    corrected = {low: min(1, 2 * low), high: max(min(1, 2 * low), high)}
    return [corrected[p] for p in raw]


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03], [0.5, 0.9], [0.001], []])
def test_holm_is_monotone_and_never_below_the_raw_value(p: list[float]) -> None:
    corrected = holm(p)
    assert all(c >= raw for c, raw in zip(corrected, p, strict=True))
    assert all(c <= min(1, len(p) * raw) for c, raw in zip(corrected, p, strict=True))
    assert [corrected[i] for i in np.argsort(p)] == sorted(corrected)


def test_a_case_that_several_folds_models_were_judged_on_is_one() -> None:
    """As the test cases of a cross-validation: five models make no five times as many patients."""
    rng = np.random.default_rng(0)
    last = rng.uniform(0.3, 0.9, 12)
    a = last + rng.normal(0.02, 0.05, 12)
    folds, name = [fold for fold in range(5) for _ in range(12)], [f"s{i}" for i in range(12)] * 5
    jitter = rng.normal(0, 0.01, 60)
    rows = {
        "A": cases(list(np.tile(a, 5) + jitter), fold=folds).assign(scan=name),
        "C": cases(list(np.tile(last, 5) + jitter), fold=folds).assign(scan=name),
    }
    of_both = table([A, C], rows, dict.fromkeys(rows, COST), dict.fromkeys(rows, BUDGET)).set_index("method")
    assert of_both["p"]["A"] == pytest.approx(stats.wilcoxon(a, last).pvalue)
    assert list(of_both["cases"]) == [12, 12]
    assert of_both["dice"]["A"] == pytest.approx((np.tile(a, 5) + jitter).mean())


def test_equal_methods_do_not_differ() -> None:
    rows = made(A=[0.5] * 6, C=[0.5] * 6)
    assert rows["p"].iloc[0] == 1.0


def test_other_cases_are_not_compared() -> None:
    with pytest.raises(UsageError, match="different cases"):
        made(A=[0.5] * 6, C=[0.5] * 5)


def test_a_table_is_of_the_folds_that_all_methods_have() -> None:
    rows = in_common({"A": cases([0.1, 0.2, 0.3], fold=[0, 1, 2]), "C": cases([0.4, 0.5], fold=[2, 0])})
    assert {name: list(of["dice"]) for name, of in rows.items()} == {"A": [0.1, 0.3], "C": [0.4, 0.5]}


def test_costs_of_one_convolution_by_hand() -> None:
    nets = {"one": nn.Conv2d(1, 4, 3, padding=1), "two": nn.Conv2d(1, 8, 3, padding=1)}
    found = costs(nets, channels=1, window=(16, 32), batch=2)
    assert found["one"]["parameters_million"] == pytest.approx(40e-6)
    assert found["one"]["gmacs_per_slice"] == pytest.approx(16 * 32 * 9 * 4 / 1e9)
    assert found["two"]["gmacs_per_slice"] == pytest.approx(2 * found["one"]["gmacs_per_slice"])
    assert all(net["ms_per_slice"] > 0 for net in found.values())


def own_network(model: str) -> dict[str, Any]:
    """The ``network_def`` of a bundle's train.json."""
    train = json.loads((ROOT / f"{model}_bundle" / "configs" / "train.json").read_text())
    return dict(train["network_def"])


@pytest.mark.parametrize("model", ["xnet", "cnnres"])
def test_the_bundles_own_network_is_train_jsons(model: str) -> None:
    own = own_network(model)
    rows = [row for which in METHODS if BUNDLES[which] == model for row in METHODS[which]]
    same = [row.network_def(own) for row in rows if row.name == {"xnet": "X-Net", "cnnres": "CNN-Res"}[model]]
    assert same
    del own["_requires_"]
    assert all(row == own for row in same)


def test_a_network_takes_the_channels_of_a_recipe_and_what_its_row_says() -> None:
    own = {**own_network("xnet"), "in_channels": 3}
    target = {"_target_": "shared_nets.networks.XNet", "in_channels": 3, "out_channels": 1}
    assert Method("No FSM", "XNet", {"fsm": None}).network_def(own) == {**target, "fsm": None}
    assert Method("U-Net", "UNet").network_def(own) == {**target, "_target_": "shared_nets.networks.UNet"}


@pytest.mark.parametrize("which", list(METHODS))
def test_every_row_is_a_network_of_its_bundles_channels(which: str) -> None:
    channels = 2 if BUNDLES[which] == "cnnres" else 1
    with torch.device("meta"):
        for method in METHODS[which]:
            net = build(method, own_network(BUNDLES[which])).eval()
            assert net(torch.rand(1, channels, 32, 48)).shape == (1, 1, 32, 48)
    assert len({method.folder for method in METHODS[which]}) == len(METHODS[which])


def test_the_markdown_has_measured_and_published_figures(tmp_path: Path) -> None:
    xnet = Method("X-Net", "XNet", {}, {"dice": 0.4867})
    rows = table([A, xnet], {"A": cases([0.2, 0.4]), "X-Net": cases([0.5, 0.7])},
                 {"A": COST, "X-Net": COST}, {"A": BUDGET, "X-Net": BUDGET})  # fmt: skip
    write_table(rows, tmp_path / "t", "Title", ["Simulated."])
    text = (tmp_path / "t.md").read_text()
    assert text.startswith("# Title\n\nSimulated.\n\n| Method |")
    assert "| A | 0.300 |" in text
    assert "| X-Net | 0.600 (0.4867) |" in text
    assert "-0.300" in text
    assert pd.read_csv(tmp_path / "t.csv")["dice"].tolist() == pytest.approx([0.3, 0.6])
    assert all(
        line.count("|") == markdown(rows).splitlines()[0].count("|") for line in markdown(rows).splitlines()
    )


def test_the_note_tells_the_range_where_trainings_ended_at_different_epochs() -> None:
    rows = made(A=[0.5] * 6, C=[0.4] * 6)
    limits = {"threshold": 0.3, "peak_threshold": 0.0, "smoothing_mm": 0.0}
    told = explanation(rows, (48, 48), "volumes", limits)
    assert "for 2 epoch(s) and 16 slices a fold" in told
    assert "Probabilities from 0.3 on are lesion. Each" in told
    rows["epochs"], rows["slices"] = [2, 5], [16, 40]
    told = explanation(rows, (48, 48), "volumes", limits | {"peak_threshold": 0.8, "smoothing_mm": 1.5})
    assert "for 2 to 5 epoch(s) and 16 to 40 slices a fold. In brackets" in told
    assert "lesion, in pieces that reach 0.8, smoothed by 1.5 mm. Each" in told


def test_the_note_tells_where_the_epoch_was_chosen_on_the_cases_scored() -> None:
    rows = made(A=[0.5] * 6, C=[0.4] * 6)
    limits = {"threshold": 0.3, "peak_threshold": 0.0, "smoothing_mm": 0.0}
    words = " a fold. The best epoch is scored, on the very cases that it was chosen on, which flatters. In "
    for chosen in (True, False):
        rows["chosen_on_these_cases"] = chosen
        assert (words in explanation(rows, (48, 48), "volumes", limits)) == chosen


def test_the_budget_is_that_of_the_fold_trained_longest(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "bundle", tmp_path / "data", tmp_path)
    for fold, epochs in ((0, 3), (2, 5)):
        trained = {"epoch": epochs, "slices": 80 * epochs}
        (tmp_path / f"fold{fold}").mkdir()
        (tmp_path / f"fold{fold}" / "trained.json").write_text(json.dumps(trained))
    told = {"folds": 2, "epochs": 5, "slices": 5 * 10 * 8}
    assert budget(experiment, [0, 2]) == {**told, "chosen_on_these_cases": False}
    for change, chosen in (({}, True), ({"evaluate_on": "test"}, False)):
        best = replace(experiment, weights="best", **change)
        assert budget(best, [0, 2]) == {**told, "chosen_on_these_cases": chosen}


def test_fine_tuning_is_tested_on_cases_that_did_not_choose_the_epoch() -> None:
    before, after = cases([0.5, 0.6, 0.4, 0.7, 0.5, 0.6]), cases([0.6, 0.8, 0.7, 0.9, 0.9, 0.65])
    told = before_and_after_text(before, after, "test")
    assert "Mean over 6 test cases" in told
    assert f"p = {stats.wilcoxon(after['dice'] - before['dice']).pvalue:.2g} " in told
    told = before_and_after_text(before, after, "held-out")
    assert "p = " not in told
    assert "No p value: the epoch was chosen on these cases" in told

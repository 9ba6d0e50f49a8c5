"""Rows and summaries against hand-computed values and a bootstrap written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import MetaTensor

from shared_nets.errors import MaskError, OutputError, ScanMismatchError, ScanNotFoundError, UsageError
from shared_nets.evaluation import (
    METRICS,
    case_metrics,
    measure_case,
    measure_slices,
    read_cases,
    summarise,
    summary_text,
    write_summary,
)
from shared_nets.evaluation.tables import RESAMPLES, interval


def table(dice: list[float], **columns: list[Any]) -> pd.DataFrame:
    """A table of cases in which every metric has the values of ``dice``, but for those given."""
    values: dict[str, list[Any]] = {"scan": [f"sub-{i:02}" for i in range(1, len(dice) + 1)]}
    return pd.DataFrame(values | dict.fromkeys(METRICS, dice) | columns)


def row(summary: pd.DataFrame, metric: str) -> dict[str, Any]:
    (found,) = summary[summary["metric"] == metric].to_dict("records")
    return {str(key): value for key, value in found.items()}


def output(**changed: Any) -> dict[str, Any]:
    """What the evaluator leaves for a scan of 2×1×1 mm voxels: one lesion half found and one missed."""
    affine = torch.diag(torch.tensor([2.0, 1, 1, 1], dtype=torch.float64))
    label, pred = torch.zeros(2, 1, 12, 10, 8, dtype=torch.uint8)
    label[0, 0:4, 0:4, 0:4] = 1
    label[0, 9:11, 9:10, 7:8] = 1
    pred[0, 2:4, 0:4, 0:4] = 1
    masks = {
        "pred": MetaTensor(pred, affine=affine),
        "label": MetaTensor(label.float(), affine=affine.clone()),
    }
    return {"name": "sub-01", **masks, **changed}


def test_a_row_has_the_metrics_and_the_lesions_found_and_missed() -> None:
    columns = measure_case(output())
    label, pred = output()["label"][0].numpy(), output()["pred"][0].numpy()
    assert {key: columns[key] for key in METRICS} == case_metrics(pred, label, np.diag([2, 1, 1, 1]))
    assert columns["reference_ml"] == pytest.approx(0.132)
    assert (columns["found_ml"], columns["missed_ml"]) == ("0.128", "0.004")
    assert tuple(columns) == (*METRICS, "found_ml", "missed_ml")


def test_a_scan_without_lesion_has_a_row_too() -> None:
    nothing = MetaTensor(torch.zeros(1, 12, 10, 8), affine=output()["pred"].affine)
    columns = measure_case(output(label=nothing))
    assert (columns["dice"], columns["found_ml"], columns["missed_ml"]) == (0, "", "")
    assert columns["false_positive_ml"] == pytest.approx(0.064)


@pytest.mark.parametrize("head_foot", [0, 1, 2])
def test_overlaps_of_the_slices_across_head_foot_whichever_axis_that_is(head_foot: int) -> None:
    label, pred = np.zeros((2, 4, 5, 3), np.uint8)  # left-right, front-back, head-foot
    label[0:4, 0, 0], pred[2:4, 0:3, 0] = 1, 1  # 4 and 6 pixels, 2 common
    label[1, 1:3, 1] = 1  # missed
    pred[0, 0:2, 2] = 1  # a slice without lesion does not count
    affine = np.diag([1.0, 1, 5, 1])
    turned = [0, 1]
    turned.insert(head_foot, 2)
    masks = {
        key: MetaTensor(torch.tensor(mask.transpose(turned)[None]), affine=affine[:, [*turned, 3]])
        for key, mask in (("pred", pred), ("label", label))
    }
    assert measure_slices(masks) == pytest.approx(
        {
            "lesion_slices": 2,
            "slice_dice": (2 * 2 / 10 + 0) / 2,
            "slice_iou": (2 / 8 + 0) / 2,
            "slice_precision": (2 / 6 + 0) / 2,
            "slice_recall": (2 / 4 + 0) / 2,
        }
    )


def test_tilted_slices_thicker_than_their_pixels_are_across_left_right() -> None:
    """Sagittal slices of 5 mm, tilted by 13°, so that a step between them climbs more mm than one in them."""
    turn = np.deg2rad(13)
    affine = np.diag([5.0, 1, 1, 1])
    affine[[0, 0, 2, 2], [0, 2, 0, 2]] = 5 * np.cos(turn), -np.sin(turn), 5 * np.sin(turn), np.cos(turn)
    mask = MetaTensor(torch.zeros(1, 4, 6, 8), affine=affine)
    mask[0, 1:3, 2:4, 1:6] = 1
    assert measure_slices({"pred": mask, "label": mask})["lesion_slices"] == 5


def test_without_a_slice_with_lesion_there_are_no_overlaps_of_slices() -> None:
    nothing = MetaTensor(torch.zeros(1, 12, 10, 8), affine=output()["pred"].affine)
    lesion_slices, *overlaps = measure_slices(output(label=nothing)).values()
    assert lesion_slices == 0
    assert len(overlaps) == 4
    assert np.isnan(overlaps).all()


@pytest.mark.parametrize("absent", ["pred", "label"])
def test_a_scan_without_reference_or_prediction_is_told(absent: str) -> None:
    incomplete = output()
    del incomplete[absent]
    with pytest.raises(UsageError, match=f"sub-01: there is no {absent} to evaluate"):
        measure_case(incomplete)


@pytest.mark.parametrize(
    "change",
    [
        torch.diag(torch.tensor([-1.0, 1, 1, 1])),
        torch.diag(torch.tensor([1.0, 1, 1.2, 1])),
        torch.tensor([[1.0, 0, 0, 0.6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        torch.full((4, 4), torch.nan),
    ],
)
def test_a_reference_that_lies_elsewhere_is_refused(change: torch.Tensor) -> None:
    case = output()
    moved = MetaTensor(case["label"].as_tensor(), affine=case["pred"].affine @ change.double())
    with pytest.raises(ScanMismatchError, match="sub-01: the reference is not on the grid of its scan"):
        measure_case(case | {"label": moved})


def test_rounding_in_a_header_is_no_mismatch() -> None:
    case = output()
    affine = case["pred"].affine.clone()
    affine[0, 3] += 0.05  # mm
    nearly = MetaTensor(case["label"].as_tensor(), affine=affine)
    assert measure_case(case | {"label": nearly}) == measure_case(case)


def test_bad_masks_are_refused_by_name() -> None:
    case = output()
    with pytest.raises(ScanMismatchError, match=r"sub-01: .*12×10×\d+ against 12×10×7 voxels"):
        measure_case(case | {"pred": case["pred"][..., :7]})
    with pytest.raises(MaskError, match="sub-01: the reference is not binary"):
        measure_case(case | {"label": case["label"] * 3})


def test_a_summary_counted_by_hand() -> None:
    summary = summarise(table([0.2, 0.4, 0.9, 0.5], hd95_mm=[3, np.nan, 5, np.nan]), resamples=100)
    assert tuple(summary["metric"]) == METRICS
    dice = row(summary, "dice")
    assert (dice["of"], dice["n"], dice["undefined"], dice["failed"]) == ("cases", 4, 0, 0)
    assert (dice["mean"], dice["median"]) == pytest.approx((0.5, 0.45))
    assert dice["sd"] == pytest.approx((0.26 / 3) ** 0.5)
    distance = row(summary, "hd95_mm")
    assert (distance["n"], distance["undefined"], distance["mean"]) == (2, 2, 4)


def test_the_interval_holds_95_percent_of_the_means_of_resampled_cases() -> None:
    rng = np.random.default_rng(1)
    values = rng.beta(2, 2, size=40)
    low, high = np.percentile(values[rng.integers(0, 40, (10_000, 40))].mean(1), [2.5, 97.5])
    ours = row(summarise(table(list(values))), "dice")
    # Two bootstraps of 10,000 resamples differ by a few hundredths of the interval.
    assert (ours["ci_low"], ours["ci_high"]) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_the_interval_of_two_cases_ends_at_them() -> None:
    # Drawn twice, one case is all in a quarter of the resamples, and so is the other.
    ends = interval(np.array([0.2, 0.8]), np.ones(2), resamples=1000, seed=0)
    assert (ends["ci_low"], ends["ci_high"]) == pytest.approx((0.2, 0.8))


def test_the_interval_of_a_rate_draws_cases_with_all_their_lesions() -> None:
    rng = np.random.default_rng(4)
    total = rng.integers(1, 20, size=30).astype(float)
    hits = np.floor(total * rng.uniform(size=30))
    drawn = rng.integers(0, 30, (10_000, 30))
    low, high = np.percentile(hits[drawn].sum(1) / total[drawn].sum(1), [2.5, 97.5])
    # Cases without a lesion of this size say nothing about the rate.
    ours = interval(np.append(hits, [0, 0]), np.append(total, [0, 0]), resamples=10_000, seed=0)
    assert (ours["ci_low"], ours["ci_high"]) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(100):
        ends = interval(rng.normal(0.5, 0.1, 30), np.ones(30), resamples=200, seed=seed)
        covered += ends["ci_low"] <= 0.5 <= ends["ci_high"]
    assert 85 <= covered <= 99


def test_the_same_table_gives_the_same_interval_and_another_seed_another() -> None:
    cases = table([0.1, 0.5, 0.6, 0.8, 0.85])
    pd.testing.assert_frame_equal(summarise(cases, resamples=200), summarise(cases, resamples=200))
    first, second = (row(summarise(cases, resamples=200, seed=seed), "dice") for seed in (0, 1))
    assert (first["ci_low"], first["ci_high"]) != (second["ci_low"], second["ci_high"])


def test_a_case_that_several_models_were_judged_on_is_one() -> None:
    rng = np.random.default_rng(0)
    once, jitter = rng.uniform(0, 1, 20), rng.normal(0, 0.01, (5, 20))
    values = once + jitter - jitter.mean(0)  # of each case as much above as below
    many = table(list(values.ravel()), scan=[f"sub-{i:02}" for i in range(1, 21)] * 5)
    assert row(summarise(many), "dice") == pytest.approx(row(summarise(table(list(once))), "dice"))
    # So is a lesion, which some models found and others missed; one case failed with all, one with two.
    found = [*["2", "3 4", "", ""] * 4, "2 5", "3 4", "", ""]
    lesions = {"found_ml": found, "missed_ml": [*["5", "", "", ""] * 4, "", "", "", ""]}
    status = ["ok", "ok", "failed", "ok"] * 3 + ["ok", "ok", "failed", "failed"] * 2
    of_two = table([0.5] * 20, scan=["a", "b", "c", "d"] * 5, status=status, **lesions)
    hits = row(summarise(of_two, sizes_ml=(0, 10)), "detection_rate_under_10_ml")
    assert (hits["n"], hits["failed"]) == (4, 2)
    assert hits["mean"] == pytest.approx((1.2 + 2) / 4)
    expected = interval(np.array([1.2, 2]), np.array([2.0, 2]), RESAMPLES, 0)
    assert {key: hits[key] for key in expected} == pytest.approx(expected)


def test_one_case_has_no_interval() -> None:
    dice = row(summarise(table([0.7])), "dice")
    assert (dice["n"], dice["mean"], dice["median"]) == (1, 0.7, 0.7)
    assert np.isnan([dice["sd"], dice["ci_low"], dice["ci_high"]]).all()


def test_detection_rate_by_lesion_size() -> None:
    cases = table([1.0] * 3, found_ml=["12 0.5", "1", ""], missed_ml=["0.05", "0.1 0.02 0.099", ""])
    summary = summarise(cases, resamples=500)
    rates = {
        key: row(summary, f"detection_rate_{key}_ml")
        for key in ("under_0.1", "0.1_to_1", "1_to_10", "from_10")
    }
    assert {key: (rate["n"], rate["mean"]) for key, rate in rates.items()} == {
        "under_0.1": (3, 0),
        "0.1_to_1": (2, 0.5),  # an edge belongs to the class above it
        "1_to_10": (1, 1),
        "from_10": (1, 1),
    }
    assert all(rate["of"] == "lesions" for rate in rates.values())
    # Whole cases are drawn: one with the lesion found, one with it missed, so 0, ½ or 1.
    assert (rates["0.1_to_1"]["ci_low"], rates["0.1_to_1"]["ci_high"]) == (0, 1)
    own = summarise(cases, sizes_ml=(0, 0.06, np.inf), resamples=10)
    assert row(own, "detection_rate_under_0.06_ml")["n"] == 2
    assert row(own, "detection_rate_from_0.06_ml")["n"] == 5


def test_a_size_class_without_lesions_keeps_its_row() -> None:
    rate = row(
        summarise(table([1.0, 1.0], found_ml=["0.5", ""], missed_ml=["", ""])), "detection_rate_from_10_ml"
    )
    assert rate["n"] == 0
    assert np.isnan(rate["mean"])


def test_failed_scans_are_counted_and_in_no_figure() -> None:
    cases = table([0.4, np.nan, 0.6], status=["ok", "failed", "ok"])
    summary = summarise(cases, resamples=100)
    dice = row(summary, "dice")
    assert (dice["n"], dice["failed"], dice["mean"]) == (2, 1, 0.5)
    assert "1 scan(s) failed" in summary_text(summary)


def test_all_scans_failed() -> None:
    summary = summarise(pd.DataFrame({"scan": ["a", "b"], "status": ["failed", "failed"]}))
    assert tuple(summary["metric"]) == METRICS
    assert (summary["n"] == 0).all()
    assert (summary["failed"] == 2).all()
    assert summary["mean"].isna().all()


@pytest.mark.parametrize("metric", [key for key in METRICS if key != "hd95_mm"])
@pytest.mark.parametrize("hole", [np.nan, np.inf, "n/a"])
def test_no_case_is_dropped_silently(metric: str, hole: Any) -> None:
    cases = table([0.5, 0.5]).astype({metric: object})
    cases.loc[1, metric] = hole
    with pytest.raises(UsageError, match=f"case sub-02 has no {metric} although it is not marked as failed"):
        summarise(cases)


def test_tables_that_are_none_of_ours_are_refused() -> None:
    with pytest.raises(UsageError, match="there are no cases"):
        summarise(table([]))
    with pytest.raises(UsageError, match="has no column recall"):
        summarise(table([0.5]).drop(columns="recall"))


def test_from_rows_on_disk_to_a_summary_on_disk(tmp_path: Path) -> None:
    nothing = MetaTensor(torch.zeros(1, 12, 10, 8), affine=output()["pred"].affine)
    rows = [
        {"scan": "01", "status": "ok"} | measure_case(output()),
        {"scan": "02", "status": "ok"} | measure_case(output(pred=nothing, label=nothing)),
        {"scan": "03", "status": "failed"},
    ]
    source, target = tmp_path / "metrics.csv", tmp_path / "summary.csv"
    pd.DataFrame(rows).to_csv(source, index=False)
    summary = write_summary(source, target, resamples=100)
    pd.testing.assert_frame_equal(pd.read_csv(target), summary, check_dtype=False)
    assert row(summary, "dice")["mean"] == pytest.approx((2 * 32 / (66 + 32) + 1) / 2)
    assert (row(summary, "hd95_mm")["n"], row(summary, "hd95_mm")["undefined"]) == (1, 1)
    assert (row(summary, "detection_rate_0.1_to_1_ml")["n"], row(summary, "dice")["failed"]) == (1, 1)


def test_names_and_volumes_stay_text_where_they_look_like_numbers(tmp_path: Path) -> None:
    """No case has two lesions found or missed, and one failed; NA is a name as any other."""
    names = ["001", "1e2", "NA", "7"]
    columns = {"status": ["ok"] * 3 + ["failed"], "found_ml": ["2.5", "", "0.5", ""], "missed_ml": [""] * 4}
    written = table([0.2, 0.4, 0.6, np.nan], scan=names, **columns)
    written.to_csv(tmp_path / "metrics.csv", index=False)
    cases = read_cases(tmp_path / "metrics.csv")
    assert list(cases["scan"]) == names
    assert cases["dice"].tolist()[:3] == [0.2, 0.4, 0.6]
    of_rows, of_file = (summarise(rows, resamples=100) for rows in (written, cases))
    pd.testing.assert_frame_equal(of_rows, of_file)
    for size in ("0.1_to_1", "1_to_10"):
        rate = row(of_file, f"detection_rate_{size}_ml")
        assert (rate["n"], rate["mean"]) == (1, 1)


def test_a_volume_that_was_read_as_a_number_counts() -> None:
    summary = summarise(table([0.5, 0.5], found_ml=[2.5, np.nan], missed_ml=[np.nan, 3]), resamples=100)
    rate = row(summary, "detection_rate_1_to_10_ml")
    assert (rate["n"], rate["mean"]) == (2, 0.5)


def test_the_printed_summary_tells_what_was_left_out() -> None:
    text = summary_text(summarise(table([0.25, 0.75], hd95_mm=[4, np.nan])))
    lines = {line.split()[0]: line for line in text.splitlines()[1:]}
    assert tuple(lines) == METRICS
    assert "0.500 [0.250, 0.750]" in lines["dice"]
    assert lines["dice"].endswith("2 cases")
    assert lines["hd95_mm"].endswith("1 case (1 undefined)")
    assert "4.000 [–] " in lines["hd95_mm"]
    assert "failed" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("content", [None, b"", b"\x00\xff\xfe\x89", b'a,b\n"1,2\n3'])
def test_a_table_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None) -> None:
    source = tmp_path / "metrics.csv"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises((ScanNotFoundError, UsageError), match=r"metrics\.csv") as caught:
        write_summary(source, tmp_path / "summary.csv")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "summary.csv").exists()


def test_a_summary_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    table([0.5, 0.6]).to_csv(tmp_path / "metrics.csv")
    with pytest.raises(OutputError, match=r"summary\.csv cannot be written"):
        write_summary(tmp_path / "metrics.csv", tmp_path / "metrics.csv" / "summary.csv", resamples=10)

"""From scored cases to tables: a row a case, and a summary with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy.stats import bootstrap

from shared_nets.arrays import as_array
from shared_nets.data.checks import Grid, check_same_grid
from shared_nets.errors import ScanNotFoundError, UsageError
from shared_nets.evaluation.metrics import (
    METRICS,
    UNDEFINED_WHEN_EMPTY,
    case_metrics,
    reference_lesions,
)
from shared_nets.files import write_json, write_text

FOUND, MISSED = "found_ml", "missed_ml"
"""Columns with the volumes in mL of the reference's lesions that were found and missed, space between."""

TEXT = dict.fromkeys(("scan", FOUND, MISSED), str)
"""Columns that stay text where all of it looks like numbers: a scan ``001``, a case's only lesion."""

EVALUATION = "evaluation.json"
"""What a summary is of, beside it."""

LESION_SIZES_ML = (0.0, 0.1, 1.0, 10.0, inf)
"""Edges in mL of the size classes for the detection rate: decades, lower edge included."""

RESAMPLES = 10_000
"""Bootstrap resamples: the interval's ends then vary by about a hundredth of its width."""


def measure_case(output: Mapping[str, Any]) -> dict[str, Any]:
    """
    The columns that evaluation adds to a scan's row.

    Args:
        output: what the evaluator leaves for one scan: ``pred`` and ``label``, masks ``(1, X, Y, Z)`` on
            the scan's own grid that know their affine (MONAI's ``MetaTensor``), and ``name``.

    Returns:
        `METRICS` as `case_metrics` defines them, then the lesion volumes ``found_ml`` and ``missed_ml``
        as text such as ``"12.4 0.35"``, largest first.

    Raises:
        UsageError: if ``pred`` or ``label`` is not there.
        ScanMismatchError: if the two are not on one grid.
        MaskError, ScanGeometryError: as `case_metrics`.
    """
    name = str(output.get("name", "scan"))
    if absent := [key for key in ("pred", "label") if key not in output]:
        raise UsageError(f"{name}: there is no {absent[0]} to evaluate; give every scan a reference mask.")
    pred, label = output["pred"], output["label"]
    affine = as_array(pred.affine)
    reference = Grid(as_array(label.affine), tuple(label.shape[1:]), f"{name}: the reference")
    check_same_grid(reference, Grid(affine, tuple(pred.shape[1:]), "its scan"))
    case = (pred[0], label[0], affine, name)
    found = reference_lesions(*case)
    return case_metrics(*case) | {
        FOUND: " ".join(f"{lesion.volume_ml:.6g}" for lesion in found if lesion.overlaps),
        MISSED: " ".join(f"{lesion.volume_ml:.6g}" for lesion in found if not lesion.overlaps),
    }


def measure_slices(output: Mapping[str, Any]) -> dict[str, Any]:
    """
    The columns that the CNN-Res paper's rule needs: mean overlaps of the axial slices with lesion.

    Args:
        output: as `measure_case`.

    Returns:
        ``lesion_slices`` (count) and ``slice_dice``, ``slice_iou``, ``slice_precision``, ``slice_recall``,
        NaN where no slice has a lesion. Slices are those across the grid's axis nearest to head-foot.
    """
    pred, label = as_array(output["pred"])[0] > 0, as_array(output["label"])[0] > 0
    affine = as_array(output["pred"].affine)
    axis = int(np.argmax(np.abs(affine[2, :3]) / voxel_sizes(affine)))
    pred, label = (np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1) for mask in (pred, label))
    pred, label = pred[label.any(1)], label[label.any(1)]
    common, predicted, real = ((mask).sum(1) for mask in (pred & label, pred, label))
    overlaps = {
        "dice": 2 * common / (predicted + real),
        "iou": common / (predicted + real - common),
        "precision": common / np.maximum(predicted, 1),
        "recall": common / real,
    }
    return {"lesion_slices": len(label)} | {
        f"slice_{key}": float(values.mean()) if len(values) else np.nan for key, values in overlaps.items()
    }


def summarise(
    cases: pd.DataFrame,
    sizes_ml: Sequence[float] = LESION_SIZES_ML,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """
    Mean, median, spread and confidence interval of every metric over the cases.

    No case is dropped silently: ``n`` counts those a figure is made of, ``undefined`` those for which it
    has no value (only ``hd95_mm``, when a mask is empty), ``failed`` those that could not be scored. A case
    that several models were judged on, as the test cases of a cross-validation, is one: the mean over them.
    Where some of them failed, it is the mean over the others, and the case also counts as failed.

    Args:
        cases: one row a case with the columns `METRICS`, and, where there, ``status`` (``ok`` or
            ``failed``) and ``found_ml`` and ``missed_ml`` (see `measure_case`).
        sizes_ml: edges in mL of the lesion size classes, ascending, lower edge included.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap; the same table gives the same interval.

    Returns:
        One row for each of `METRICS`, then, with the lesions' volumes, one of the detection rate in each
        size class. Columns: ``metric``, ``of`` (``cases`` or ``lesions``: what ``n`` counts), ``n``,
        ``undefined``, ``failed``, ``mean``, ``median``, ``sd`` (n − 1), ``ci_low`` and ``ci_high``: 95 %
        percentile bootstrap over cases, NaN for fewer than two.

    Raises:
        UsageError: if there are no cases, a metric's column is missing, or a case that is not marked as
            failed has no value where one is always defined.
    """
    if cases.empty:
        raise UsageError("there are no cases to summarise; evaluate at least one scan with a reference mask.")
    is_scored = cases["status"] == "ok" if "status" in cases else np.full(len(cases), True)
    scored, left_out = cases[is_scored], cases[~is_scored]
    failed = left_out["scan"].nunique() if "scan" in cases else len(left_out)
    case = pd.factorize(scored["scan"])[0] if "scan" in scored else np.arange(len(scored))
    columns = [by_case(metric_column(scored, metric), case).mean().to_numpy() for metric in METRICS]
    rows = [
        {"metric": metric, "of": "cases", "n": len(defined), "undefined": len(values) - len(defined)}
        | {"failed": failed}
        | statistics(defined, resamples, seed)
        for metric, values in zip(METRICS, columns, strict=True)
        for defined in [values[np.isfinite(values)]]
    ]
    if FOUND in scored and MISSED in scored:
        found, missed = ([volumes(cell) for cell in scored[column]] for column in (FOUND, MISSED))
        for low, high in pairwise(sizes_ml):
            hits, others = (
                by_case(count_between(c, low, high), case).mean().to_numpy() for c in (found, missed)
            )
            total = hits + others
            name = f"detection_rate_{size_class(low, high)}"
            rows.append(
                {"metric": name, "of": "lesions", "n": round(total.sum())}
                | {"undefined": 0, "failed": failed, "mean": rate(hits, total)}
                | interval(hits, total, resamples, seed)
            )
    order = ["metric", "of", "n", "undefined", "failed", "mean", "median", "sd", "ci_low", "ci_high"]
    return pd.DataFrame(rows).reindex(columns=order)


def read_cases(table_csv: str | Path) -> pd.DataFrame:
    """
    The table of cases that an evaluation wrote.

    Args:
        table_csv: CSV with one row a case, as `summarise` takes it.

    Returns:
        Its rows; the scans' names and the volumes of lesions are text, and what is empty is NaN.

    Raises:
        ScanNotFoundError: if the table is not there or cannot be read as CSV.
    """
    try:  # only what is empty has no value: a scan may be called NA
        return pd.read_csv(table_csv, dtype=TEXT, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ScanNotFoundError(
            f"{table_csv} is not a readable table of cases ({reason}); run the evaluation again."
        ) from error


def write_summary(table_csv: str | Path, output_csv: str | Path, **options: Any) -> pd.DataFrame:
    """
    Summarise a table of cases on disk.

    Args:
        table_csv: as of `read_cases`.
        output_csv: where the summary goes, as CSV.
        options: further arguments of `summarise`.

    Returns:
        The summary; `summary_text` makes it short enough to print.

    Raises:
        ScanNotFoundError: as `read_cases`.
        UsageError: as `summarise`.
        OutputError: if the summary cannot be written.
    """
    cases = read_cases(table_csv)
    try:
        summary = summarise(cases, **options)
    except UsageError as error:
        raise UsageError(f"{table_csv}: {error}") from error
    write_text(output_csv, summary.to_csv(index=False))
    return summary


def tell_summary(
    table_csv: str | Path, output_csv: str | Path, evaluated: Mapping[str, Any] | None = None
) -> None:
    """
    Write the summary of a table of cases, and print it; errors as of `write_summary`.

    Args:
        table_csv: as of `write_summary`.
        output_csv: as of `write_summary`.
        evaluated: what was evaluated, written beside the summary as ``evaluation.json``: the weights' file as
            ``Weights``, its SHA-256 as ``WeightsSHA256``, and on what and by which settings.
    """
    if evaluated is not None:  # before the summary, which is never there without it
        write_json(Path(output_csv).with_name(EVALUATION), evaluated)
    print(summary_text(write_summary(table_csv, output_csv)))
    print(f"Summary: {Path(output_csv).resolve()}")


def summary_text(summary: pd.DataFrame) -> str:
    """
    The summary for people: one line a figure, ``mean [95 % interval]  median  n``, and what was left out.

    Args:
        summary: what `summarise` returns.

    Returns:
        Text of several lines without a trailing newline.
    """
    lines = [f"{'':<32}{'mean [95 % interval]':<30}{'median':<10}n"]
    for row in summary.to_dict("records"):
        spread = f"{number(row['mean'])} [{interval_text(row, ', ')}]"
        left_out = f" ({row['undefined']} undefined)" if row["undefined"] else ""
        lines.append(f"{row['metric']:<32}{spread:<30}{number(row['median']):<10}{count_text(row)}{left_out}")
    if failed := int(summary["failed"].max()):
        lines.append(f"{failed} scan(s) failed; what failed is in none of these figures.")
    return "\n".join(lines)


def metric_column(scored: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """One metric of all scored cases as float64, or a `UsageError` where a value must be and is not."""
    if metric not in scored:
        if scored.empty:  # every case failed before it was scored
            return np.empty(0)
        raise UsageError(f"the table of cases has no column {metric}; run the evaluation again.")
    values = pd.to_numeric(scored[metric], errors="coerce").to_numpy(np.float64)
    holes = np.flatnonzero(~np.isfinite(values))
    if holes.size and metric not in UNDEFINED_WHEN_EMPTY:
        which = scored["scan"].iloc[holes[0]] if "scan" in scored else f"in row {holes[0] + 1}"
        raise UsageError(
            f"case {which} has no {metric} although it is not marked as failed; run the evaluation again."
        )
    return values


def by_case(values: NDArray[np.float64], case: NDArray[np.int64]) -> Any:
    """Values grouped by the number of the case that they are of; infinite ones count as none."""
    return pd.Series(np.where(np.isfinite(values), values, np.nan), dtype=np.float64).groupby(case)


def statistics(values: NDArray[np.float64], resamples: int, seed: int) -> dict[str, float]:
    """Mean, median, standard deviation (n − 1) and bootstrap interval; NaN where too few values define it."""
    n = len(values)
    return {
        "mean": float(values.mean()) if n else np.nan,
        "median": float(np.median(values)) if n else np.nan,
        "sd": float(values.std(ddof=1)) if n > 1 else np.nan,
    } | interval(values, np.ones(n), resamples, seed)


def interval(
    parts: NDArray[np.float64], wholes: NDArray[np.float64], resamples: int, seed: int
) -> dict[str, float]:
    """
    95 % percentile bootstrap interval over cases of ``sum(parts) / sum(wholes)``.

    With wholes of 1 that is the mean. Lesions of one person are not independent: for a rate over lesions,
    too, it is cases that are drawn, each with all of its lesions.

    Args:
        parts: numerator of each case.
        wholes: denominator of each case.
        resamples: number of resamples.
        seed: of the generator.

    Returns:
        ``ci_low`` and ``ci_high``, NaN when fewer than two cases have a denominator.
    """
    parts, wholes = parts[wholes > 0], wholes[wholes > 0]
    if len(parts) < 2:
        return {"ci_low": np.nan, "ci_high": np.nan}
    low, high = bootstrap(
        (parts, wholes),
        lambda p, w, axis: p.sum(axis) / w.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        batch=1000,  # all at once would take gigabytes for a large cohort
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return {"ci_low": float(low), "ci_high": float(high)}


def rate(hits: NDArray[np.float64], total: NDArray[np.float64]) -> float:
    """Share of lesions found, NaN when there are none."""
    return float(hits.sum() / total.sum()) if total.sum() else np.nan


def volumes(cell: str | float) -> NDArray[np.float64]:
    """The numbers of a ``found_ml`` or ``missed_ml`` cell; pandas reads an empty one back as NaN."""
    return np.array([] if pd.isna(cell) else str(cell).split(), dtype=np.float64)


def count_between(cases: Sequence[NDArray[np.float64]], low: float, high: float) -> NDArray[np.float64]:
    """How many volumes of each case lie in ``[low, high)``."""
    return np.array([np.count_nonzero((case >= low) & (case < high)) for case in cases], dtype=np.float64)


def size_class(low: float, high: float) -> str:
    """The name of a size class: ``under_0.1_ml``, ``0.1_to_1_ml``, ``from_10_ml``."""
    if low <= 0:
        return f"under_{high:g}_ml"
    return f"from_{low:g}_ml" if high == inf else f"{low:g}_to_{high:g}_ml"


def number(value: float) -> str:
    """Three decimals, or a dash where there is no value."""
    return "–" if np.isnan(value) else f"{value:.3f}"


def interval_text(row: Mapping[Any, Any], between: str) -> str:
    """Both ends of a figure's interval, or one dash where it has none."""
    low, high = row["ci_low"], row["ci_high"]
    return number(low) if np.isnan(low) else f"{number(low)}{between}{number(high)}"


def count_text(row: Mapping[Any, Any]) -> str:
    """What a figure is made of: ``12 cases``, ``1 lesion``."""
    n = int(row["n"])
    return f"{n} {row['of'].removesuffix('s') if n == 1 else row['of']}"

"""The papers' tables: networks trained alike on the same folds, scored, timed and tested."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from shared_nets import networks
from shared_nets.errors import UsageError, few
from shared_nets.experiments.crossvalidation import TRAINED, Experiment
from shared_nets.experiments.methods import Comparison, Method
from shared_nets.files import write_text

OVERLAPS = ("dice", "iou", "precision", "recall")
TITLES = {
    Comparison.ablation: "U-Net, ResUNet and X-Net with and without the Feature Similarity Module",
    Comparison.comparison: "Networks compared on T1-weighted slices",
    Comparison.acute: "U-Net and CNN-Res on DWI and FLAIR",
}
CHOSEN = "The best epoch is scored, on the very cases that it was chosen on, which flatters."
ROUNDS = 5
"""Timings of each network, taken in turns; the table has their median."""


def compare(
    methods: Sequence[Method],
    experiments: Mapping[str, Experiment],
    own: Mapping[str, Any],
    window: tuple[int, int],
    folds: Sequence[int] | None = None,
    scoring: str = "volumes",
) -> pd.DataFrame:
    """
    The table of methods that have been trained and evaluated.

    Args:
        methods: the rows; the last one is what the others are tested against.
        experiments: the experiment of each method, by its name, that has run.
        own: the bundle's own ``network_def``.
        window: rows and columns of a slice, for products and milliseconds.
        folds: which; all by default.
        scoring: see `scores`.

    Returns:
        A row a method, see `table`, over these folds and all others that every method has finished.

    Raises:
        UsageError: if the methods were not evaluated on the same cases.
    """
    cases = in_common({method.name: experiments[method.name].rows(folds) for method in methods})
    speed = costs({method.name: build(method, own) for method in methods}, own["in_channels"], window)
    trained = {name: budget(experiments[name], rows["fold"].unique()) for name, rows in cases.items()}
    return table(methods, cases, speed, trained, scoring)


def in_common(cases: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The rows of the folds that all methods have, by the method's name."""
    folds = set.intersection(*(set(rows["fold"]) for rows in cases.values()))
    return {name: rows[rows["fold"].isin(folds)] for name, rows in cases.items()}


def table(
    methods: Sequence[Method],
    cases: Mapping[str, pd.DataFrame],
    speed: Mapping[str, Mapping[str, float]],
    trained: Mapping[str, Mapping[str, float]],
    scoring: str = "volumes",
) -> pd.DataFrame:
    """
    The rows of evaluated methods.

    Args:
        methods: the rows; the last one is what the others are tested against.
        cases: a row a case, of each method: `metrics.csv` with its ``fold``.
        speed: as `costs`.
        trained: as `budget`.
        scoring: see `scores`.

    Returns:
        ``method``, ``cases``, the four overlaps, their published values as ``published_dice`` and so on,
        ``difference`` (Dice minus that of the last method), ``p`` (Wilcoxon's signed-rank test of Dice case
        by case, two-sided, Holm's correction over the rows), and the columns of `costs` and `budget`.

    Raises:
        UsageError: if the methods were not evaluated on the same cases, or a case failed.
    """
    scored = {method.name: scores(cases[method.name], scoring) for method in methods}
    last = scored[methods[-1].name]
    for name, rows in scored.items():
        if list(rows.index) != list(last.index):
            raise UsageError(
                f"{name} and {methods[-1].name} were evaluated on different cases: evaluate again."
            )
    overlaps = {name: means(rows, scoring) for name, rows in scored.items()}
    # A case that the models of several folds were judged on, as the test cases, is one.
    dice = {name: rows["dice"].groupby(level="scan").mean() for name, rows in scored.items()}
    raw = [paired_p(dice[method.name], dice[methods[-1].name]) for method in methods[:-1]]
    corrected = [*holm(raw), float("nan")]
    return pd.DataFrame(
        [
            {"method": method.name, "cases": len(dice[method.name])}
            | overlaps[method.name]
            | {f"published_{key}": method.published.get(key, float("nan")) for key in OVERLAPS}
            | {"difference": overlaps[method.name]["dice"] - overlaps[methods[-1].name]["dice"], "p": p}
            | dict(speed[method.name])
            | dict(trained[method.name])
            for method, p in zip(methods, corrected, strict=True)
        ]
    )


def scores(cases: pd.DataFrame, scoring: str) -> pd.DataFrame:
    """
    The four overlaps of every case, by ``fold`` and ``scan``, for `means`.

    Args:
        cases: rows of `metrics.csv` with their ``fold``.
        scoring: ``"volumes"``: each volume on its own grid, nothing marked where nothing is being right.
            ``"xnet"``, as X-Net's code: a volume without lesion counts as 0. ``"cnnres"``, as the CNN-Res
            paper: the mean over a volume's slices with lesion, with their number as ``lesion_slices``;
            volumes without are left out. (That paper also counts each slice's mirror image, which is not
            repeated here.)

    Raises:
        UsageError: if the scoring is unknown, a case failed, or columns are missing.
    """
    if scoring not in ("volumes", "xnet", "cnnres"):
        raise UsageError(f"There is no scoring {scoring!r}: choose volumes, xnet or cnnres.")
    failed = cases.loc[cases["status"] != "ok", "scan"]
    if len(failed):
        raise UsageError(f"{few(list(failed))}: failed, mend the scans and evaluate again.")
    rows = cases.set_index(["fold", "scan"]).sort_index()
    if scoring == "cnnres":
        rows = rows[rows["lesion_slices"] > 0]
        of_slices = {f"slice_{key}": key for key in OVERLAPS}
        return rows[[*of_slices, "lesion_slices"]].rename(columns=of_slices)
    overlaps = rows[list(OVERLAPS)]
    return overlaps.where(rows["reference_ml"] > 0, 0.0) if scoring == "xnet" else overlaps


def means(scored: pd.DataFrame, scoring: str) -> dict[str, float]:
    """The mean over cases; in X-Net's scoring, that of the folds' means; in CNN-Res's, that over slices."""
    if scoring == "xnet":
        scored = scored.groupby(level="fold").mean()
    if scoring == "cnnres":
        scored = scored.loc[scored.index.repeat(scored["lesion_slices"])]
    return {key: float(scored[key].mean()) for key in OVERLAPS}


def paired_p(one: pd.Series, other: pd.Series) -> float:
    """Wilcoxon's signed-rank test, two-sided; 1 where no case differs."""
    difference = (one - other).to_numpy()
    return float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of several p-values, in their order."""
    corrected = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def build(method: Method, own: Mapping[str, Any]) -> nn.Module:
    """The method's network, untrained, in a bundle with its own ``network_def``."""
    settings = method.network_def(own)
    settings.pop("_target_")
    return getattr(networks, method.network)(**settings)


def costs(
    nets: Mapping[str, nn.Module], channels: int, window: tuple[int, int], batch: int = 8
) -> dict[str, dict[str, float]]:
    """
    What the networks cost: parameters, products and time.

    Args:
        nets: by the method's name.
        channels: of the input.
        window: rows and columns of a slice.
        batch: slices at a time.

    Returns:
        ``parameters_million``, ``gmacs_per_slice`` (multiplications of convolutions and matrix products, in
        10⁹, as computed here: X-Net's up-convolutions in their short form) and ``ms_per_slice`` (float32, on
        the GPU if there is one; networks in turns, median of five).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.rand(batch, channels, *window, device=device)
    found: dict[str, dict[str, float]] = {}
    times: dict[str, list[float]] = {name: [] for name in nets}
    with torch.inference_mode():
        for name, net in nets.items():
            net.to(device).eval()
            with FlopCounterMode(display=False) as counter:
                net(x[:1])
            found[name] = {
                "parameters_million": sum(p.numel() for p in net.parameters()) / 1e6,
                "gmacs_per_slice": counter.get_total_flops() / 2e9,
            }
        for _ in range(ROUNDS):
            for name, net in nets.items():
                times[name].append(seconds(net, x))
    return {name: found[name] | {"ms_per_slice": 1000 * median(times[name]) / batch} for name in nets}


def seconds(net: nn.Module, x: torch.Tensor) -> float:
    """How long one forward pass takes."""
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    net(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def budget(experiment: Experiment, folds: Iterable[int]) -> dict[str, float]:
    """
    How many ``folds`` were trained; ``epochs`` and ``slices`` of the longest of them; and whether the epoch
    was ``chosen_on_these_cases``.
    """
    paths = [experiment.fold_folder(fold) / TRAINED for fold in folds]
    runs: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {
        "folds": len(runs),
        "epochs": max(run["epoch"] for run in runs),
        "slices": max(run["slices"] for run in runs),
        "chosen_on_these_cases": experiment.flatters,
    }


def write_table(rows: pd.DataFrame, output: Path, title: str, notes: Sequence[str]) -> None:
    """
    Write a table as ``NAME.md`` and ``NAME.csv``.

    Args:
        rows: as `table`.
        output: path without ending.
        title: the Markdown's heading.
        notes: paragraphs under it.

    Raises:
        OutputError: if a file cannot be written.
    """
    write_text(output.with_suffix(".csv"), rows.to_csv(index=False))
    text = "\n\n".join([f"# {title}", *notes, markdown(rows)]) + "\n"
    write_text(output.with_suffix(".md"), text)


def explanation(rows: pd.DataFrame, window: Sequence[int], rules: str, limits: Mapping[str, float]) -> str:
    """
    What a table's figures are.

    Args:
        rows: as `table`.
        window: rows and columns of a slice.
        rules: see `scores`.
        limits: ``threshold``, ``peak_threshold`` and ``smoothing_mm`` of all the networks.
    """
    first = rows.iloc[0]
    scored = {
        "volumes": "Overlaps are means over whole volumes on their own grids",
        "xnet": "Overlaps by X-Net's code: volumes without lesion count as 0, mean of the folds' means",
        "cnnres": "Overlaps by the rule of the CNN-Res paper: means over slices with lesion",
    }[rules]
    return (
        f"{scored}; {first['cases']} cases in {first['folds']} fold(s). Probabilities from "
        f"{limits['threshold']:g} on are lesion"
        + (f", in pieces that reach {peak:g}" if (peak := limits["peak_threshold"]) else "")
        + (f", smoothed by {smoothing:g} mm" if (smoothing := limits["smoothing_mm"]) else "")
        + f". Each network was trained alike, for {span(rows['epochs'])} epoch(s) and {span(rows['slices'])} "
        f"slices a fold."
        + (f" {CHOSEN}" if first["chosen_on_these_cases"] else "")
        + f" In brackets: what the paper reports on its own data, where at hand. p: Wilcoxon's "
        f"signed-rank test of Dice against the last row, Holm's correction. GMACs and ms: for a slice of "
        f"{window[0]}×{window[1]}, float32."
    )


def span(numbers: pd.Series) -> str:
    """A column's least and greatest number: early stop ends trainings at different epochs."""
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"


def markdown(rows: pd.DataFrame) -> str:
    """The table for people: measured figures with the published ones in brackets."""
    head = ["Method", "Dice", "IoU", "Precision", "Recall", "Dice − last", "p", "M parameters", "GMACs", "ms"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows.to_dict("records"):
        cells = [str(row["method"])]
        for key in OVERLAPS:
            published = row[f"published_{key}"]
            cells.append(f"{row[key]:.3f}" + ("" if np.isnan(published) else f" ({published:.4f})"))
        cells.append("–" if np.isnan(row["p"]) else f"{row['difference']:+.3f}")
        cells.append("–" if np.isnan(row["p"]) else f"{row['p']:.2g}")
        cells += [
            f"{row['parameters_million']:.1f}",
            f"{row['gmacs_per_slice']:.2f}",
            f"{row['ms_per_slice']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

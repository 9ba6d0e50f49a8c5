"""Weights that a user trained, made a bundle to pass on: with its own card, numbers and names."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from shared_nets.errors import OutputError, UsageError
from shared_nets.files import reason, write_bytes
from shared_nets.release.exports import bundle_network
from shared_nets.release.weights import CURRENT, SHIPPED, check_architecture, read_state, save_weights, sha256

SHOWN = ("dice", "iou", "precision", "recall", "lesion_f1", "hd95_mm")
"""The measures that the metadata's ``eval_metrics`` names, of those that the evaluation has."""


def share_weights(
    output: str | Path,
    bundle: str | Path,
    weights: str | Path,
    evaluation: str | Path,
    data: str,
    authors: str,
    version: str = "1.0.0",
    half: bool = False,
) -> Path:
    """
    Make a bundle of trained weights: the configs they were trained with, and a card of their own.

    The card keeps what holds of the network and its inputs, and takes data, training, performance and limits
    from the arguments and the evaluation: nothing of the old weights' results is left in it.

    Args:
        output: folder of the new bundle, which must not be there.
        bundle: folder of the bundle they were trained with.
        weights: the weights.
        evaluation: folder with the ``metrics.csv`` and ``summary.csv`` that evaluate.json wrote with them.
        data: what they were trained and evaluated on, in sentences.
        authors: who trained them.
        version: the new bundle's version, three numbers.
        half: store kernels as float16.

    Returns:
        ``output``.

    Raises:
        UsageError: if something is not there, said or fitting.
        WeightsError: if the weights cannot be read or are of another network.
        OutputError: if the folder cannot be written.
    """
    output, bundle, weights = Path(output), Path(bundle), Path(weights)
    if output.exists():
        raise UsageError(f"{output} is there already; remove it, or choose another folder.")
    if not data.strip() or not authors.strip():
        raise UsageError("Say what the weights were trained on (data) and who trained them (authors).")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise UsageError(f"{version} is no version: three numbers, as 1.0.0.")
    state = read_state(weights)
    check_architecture(bundle_network(bundle), state, weights)
    summary = _summary(Path(evaluation))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    card = (bundle / "docs" / "README.md").read_text()
    try:
        shutil.copytree(bundle / "configs", output / "configs")
        shutil.copy2(bundle / "LICENSE", output / "LICENSE")
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {reason(error)}") from error
    for name in (CURRENT, SHIPPED):
        save_weights(state, output / name, half=half)
    start = f"{metadata['name']} {metadata['version']}"
    metadata |= {
        "name": f"{metadata['name']}: {output.name}",
        "version": version,
        "changelog": {version: f"Weights trained by {authors}, from {start}."},
        "weights_sha256": {Path(name).name: sha256(output / name) for name in (CURRENT, SHIPPED)},
        "description": _described(metadata["description"], authors),
        "authors": authors,
        "copyright": f"Copyright (c) {authors}; configs and code: {metadata['copyright']}",
        "data_source": data,
        "provenance": {"configs": start, "weights_file_sha256": sha256(weights)},
        "eval_metrics": _metrics(summary),
    }
    write_bytes(output / "configs" / "metadata.json", (json.dumps(metadata, indent=4) + "\n").encode())
    write_bytes(output / "docs" / "README.md", _card(card, metadata, summary, data, authors, start).encode())
    write_bytes(output / "docs" / "data_license.txt", f"As stated by {authors}:\n\n{data}\n".encode())
    return output


def _summary(evaluation: Path) -> pd.DataFrame:
    path = evaluation / "summary.csv"
    try:
        summary = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} is not there or no table: evaluate the weights first, and name the folder it wrote."
        ) from error
    needed = {"metric", "of", "n", "mean", "median", "ci_low", "ci_high", "failed"}
    if missing := sorted(needed - set(summary.columns)):
        raise UsageError(f"{path} has no column {missing[0]}: name the folder that an evaluation wrote.")
    if not len(summary) or not (summary["metric"] == "dice").any():
        raise UsageError(f"{path} holds no Dice: evaluate the weights on scans with masks.")
    return summary


def _metrics(summary: pd.DataFrame) -> dict[str, Any]:
    rows = summary.set_index("metric")
    means = {metric: float(rows.loc[metric, "mean"]) for metric in SHOWN if metric in rows.index}
    found = {f"mean_{metric}": round(mean, 4) for metric, mean in means.items() if math.isfinite(mean)}
    return {**found, "scans": int(rows.loc["dice", "n"])}


def _described(description: str, authors: str) -> str:
    """The description without what it says of the old weights."""
    first = description.split(". ")[0].rstrip(".")
    return f"{first}. Weights trained by {authors}. Research use only, not a medical device."


def _card(
    card: str, metadata: dict[str, Any], summary: pd.DataFrame, data: str, authors: str, start: str
) -> str:
    sections = _sections(card)
    sections["Data"] = f"As stated by {authors}:\n\n{data}"
    sections["Training"] = (
        f"Trained by {authors} with the configs of {start} (`configs/train.json`). The weights' SHA-256 "
        f"stands in `configs/metadata.json`."
    )
    sections["Performance"] = _performance(summary)
    sections["Limits"] = (
        "- The figures above hold for scans like those they were measured on, and for no others.\n"
        "- Slices are looked at one by one.\n"
        f"- What the card of {start} says of other weights' faults was not looked at for these."
    )
    head = (
        f"# {metadata['name']}\n\n"
        "> **Research use only, not a medical device.** "
        f"Weights trained and evaluated by {authors}; the makers of the configs have not seen them.\n"
    )
    body = "".join(f"\n## {title}\n\n{text.strip()}\n" for title, text in sections.items())
    return head + body


def _sections(card: str) -> dict[str, str]:
    """The text of a card by its headings of the second level, in order."""
    parts = re.split(r"^## (.+)$", card, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _performance(summary: pd.DataFrame) -> str:
    lines = ["| measure | mean | 95 % interval | median | of |", "| --- | --- | --- | --- | --- |"]
    for row in summary.to_dict("records"):
        mean, low, high, median = (
            f"{row[key]:.3f}" if math.isfinite(row[key]) else "–"
            for key in ("mean", "ci_low", "ci_high", "median")
        )
        lines.append(
            f"| {row['metric']} | {mean} | {low} to {high} | {median} | {int(row['n'])} {row['of']} |"
        )
    failed = int(summary["failed"].max())
    note = "Every scan counts, on its own grid; a scan without lesion in mask and prediction has a Dice of 1."
    told = f"{failed} scan(s) failed and are in none of these figures." if failed else "No scan failed."
    return "\n".join([*lines, "", f"{note} {told} Made by `configs/evaluate.json`."])

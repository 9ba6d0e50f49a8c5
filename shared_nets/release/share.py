"""Weights that a user trained, made a bundle to pass on: with its own card, numbers and names."""

from __future__ import annotations

import json
import math
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from shared_nets import NOTICE
from shared_nets.bundles import check_parts, read_inference_config, read_metadata
from shared_nets.errors import UsageError, WeightsError
from shared_nets.evaluation.tables import EVALUATION, count_text, interval_text, number
from shared_nets.files import new_folder, write_json, write_text
from shared_nets.inference.ranges import RANGES, copy_ranges, ranges_beside
from shared_nets.release.archive import PARTS, configs_to_pass_on
from shared_nets.release.exports import bundle_network, describe
from shared_nets.weights import (
    CURRENT,
    SHIPPED,
    as_stored,
    check_architecture,
    read_state,
    save_weights,
    sha256,
)

SHOWN = ("dice", "iou", "precision", "recall", "lesion_f1", "hd95_mm")
"""The measures that the metadata's ``eval_metrics`` names, of those that the evaluation has."""

NO_LICENCE = "not stated; ask their authors"


def share_weights(
    output: str | Path,
    bundle: str | Path,
    weights: str | Path,
    evaluation: str | Path,
    data: str,
    authors: str,
    version: str = "1.0.0",
    licence: str = "",
    half: bool = False,
) -> Path:
    """
    Make a bundle of trained weights: the configs they were trained with, and a card of their own.

    The card keeps what holds of the network and its inputs, and takes data, training, performance and limits
    from the arguments and the evaluation: nothing of the old weights' results is left in it.

    Args:
        output: folder of the new bundle, which must not be there; it is whole, or not made.
        bundle: folder of the bundle they were trained with.
        weights: the weights.
        evaluation: folder with the ``summary.csv`` that evaluate.json wrote with them, and
            ``evaluation.json``, which names them. Without the second the card says that this was not checked.
        data: what they were trained and evaluated on, in sentences.
        authors: who trained them.
        version: the new bundle's version, three numbers.
        licence: the weights' licence, if it is to be stated; code and configs stay under the bundle's own.
        half: store kernels as float16.

    Returns:
        ``output``.

    Raises:
        UsageError: if something is not there, said or fitting, the evaluation is of other weights, or a
            config tells where files of a machine lie.
        WeightsError: if the weights cannot be read or stored, or are of another network.
        OutputError: if the folder cannot be written.
    """
    output, bundle, weights, evaluation = Path(output), Path(bundle), Path(weights), Path(evaluation)
    if not data.strip() or not authors.strip():
        raise UsageError("Say what the weights were trained on (data) and who trained them (authors).")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise UsageError(f"{version} is no version: three numbers, as 1.0.0.")
    check_parts(bundle, "to share", PARTS)
    configs = configs_to_pass_on(bundle)
    state = read_state(weights)
    check_architecture(bundle_network(bundle), state, weights)
    stored = as_stored(state, str(weights), half)
    summary = _summary(evaluation)
    checked = _is_of(evaluation, weights, state)
    metadata = read_metadata(bundle)
    start = f"{metadata['name']} {metadata['version']}"
    with new_folder(output) as part:
        for name, content in configs.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(content)
        shutil.copy2(bundle / "LICENSE", part / "LICENSE")
        for name in (CURRENT, SHIPPED):
            save_weights(stored, part / name)
        copy_ranges(ranges_beside(weights), part / RANGES, stored)
        metadata |= {
            "name": f"{metadata['name']}: {output.name}",
            "version": version,
            "changelog": {version: f"Weights trained by {authors}, from {start}."},
            "weights_sha256": {Path(name).name: sha256(part / name) for name in (CURRENT, SHIPPED)},
            "weights_license": licence.strip() or NO_LICENCE,
            "description": describe(metadata, f"Weights trained by {authors}."),
            "authors": authors,
            "copyright": f"Copyright (c) {authors}; configs and code: {metadata['copyright']}",
            "data_source": data,
            "provenance": {"configs": start, "weights_file_sha256": sha256(weights)},
            "eval_metrics": _metrics(summary),
        }
        write_json(part / "configs" / "metadata.json", metadata)
        write_text(part / "docs" / "README.md", _card(bundle, metadata, summary, checked))
        write_text(part / "docs" / "data_license.txt", f"As stated by {authors}:\n\n{data}\n")
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


def _is_of(evaluation: Path, weights: Path, state: dict[str, Tensor]) -> bool:
    """Whether an evaluation says that it is of these weights; one of others is refused."""
    path = evaluation / EVALUATION
    if not path.is_file():
        return False
    try:
        evaluated = json.loads(path.read_text(encoding="utf-8"))
        name, digest = evaluated["Weights"], evaluated["WeightsSHA256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged: evaluate the weights again.") from error
    if digest == sha256(weights) or _is_twin(weights, state, digest):
        return True
    raise UsageError(
        f"{evaluation} is the evaluation of other weights ({name}) than {weights}: "
        f"name those, or evaluate these."
    )


def _is_twin(weights: Path, state: dict[str, Tensor], digest: str) -> bool:
    """Whether the file with this SHA-256 is the same weights beside these, in the other format."""
    twin = weights.with_suffix(".pt" if weights.suffix == ".safetensors" else ".safetensors")
    with suppress(WeightsError):
        other = read_state(twin, digest)
        return other.keys() == state.keys() and all(
            tensor.dtype == state[key].dtype and torch.equal(tensor, state[key])
            for key, tensor in other.items()
        )
    return False


def _metrics(summary: pd.DataFrame) -> dict[str, Any]:
    rows = summary.set_index("metric")
    means = {metric: float(rows.loc[metric, "mean"]) for metric in SHOWN if metric in rows.index}
    found = {f"mean_{metric}": round(mean, 4) for metric, mean in means.items() if math.isfinite(mean)}
    return {**found, "scans": int(rows.loc["dice", "n"])}


def _card(bundle: Path, metadata: dict[str, Any], summary: pd.DataFrame, checked: bool) -> str:
    """The bundle's card, with what the new bundle's metadata and the evaluation say in place of its own."""
    authors, start = metadata["authors"], metadata["provenance"]["configs"]
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    # In what is kept, a remark in brackets.
    sections = _sections(re.sub(r"\s*\([^()]*\bshipped weights\b[^()]*\)", "", card))
    sections["Data"] = f"As stated by {authors}:\n\n{metadata['data_source']}"
    sections["Training"] = (
        f"Trained by {authors} with the configs of {start} (`configs/train.json`). The weights' SHA-256 "
        f"stands in `configs/metadata.json`."
    )
    sections["Performance"] = _performance(summary, checked)
    sections["Limits"] = (
        "- The figures above hold for scans like those they were measured on, and for no others.\n"
        "- Slices are looked at one by one, and at most averaged over their neighbours.\n"
        f"- What the card of {start} says of other weights' faults was not looked at for these."
        f"{_about_peak(bundle, start)}"
    )
    sections["Licence"] = (
        "Code and configs: Apache 2.0 (`LICENSE`). "
        f"Licence of the weights: {metadata['weights_license'].rstrip('.')}."
    )
    head = (
        f"# {metadata['name']}\n\n"
        f"> **{NOTICE}** "
        f"Weights trained and evaluated by {authors}; the makers of the configs have not seen them.\n"
    )
    body = "".join(f"\n## {title}\n\n{text.strip()}\n" for title, text in sections.items())
    return head + body


def _sections(card: str) -> dict[str, str]:
    """The text of a card by its headings of the second level, in order."""
    parts = re.split(r"^## (.+)$", card, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _about_peak(bundle: Path, start: str) -> str:
    """A line of the limits, if the configs drop lesions by a probability that other weights have set."""
    peak = read_inference_config(bundle).get("peak_threshold")
    if not peak:
        return ""
    return (
        f"\n- `peak_threshold` ({peak}) was taken over from {start}. It was not chosen for these weights: it "
        "may drop lesions that they find, or keep what they mark falsely."
    )


def _performance(summary: pd.DataFrame, checked: bool) -> str:
    lines = ["| measure | mean | 95 % interval | median | of |", "| --- | --- | --- | --- | --- |"]
    for row in summary.to_dict("records"):
        lines.append(
            f"| {row['metric']} | {number(row['mean'])} | {interval_text(row, ' to ')} | "
            f"{number(row['median'])} | {count_text(row)} |"
        )
    failed = int(summary["failed"].max())
    note = "Every scan counts, on its own grid; a scan without lesion in mask and prediction has a Dice of 1."
    told = f"{failed} scan(s) failed and are in none of these figures." if failed else "No scan failed."
    made = (
        "Made by `configs/evaluate.json` with these weights."
        if checked
        else "It was not checked whose figures these are: the evaluation does not name its weights."
    )
    return "\n".join([*lines, "", f"{note} {told} {made}"])

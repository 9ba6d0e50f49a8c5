"""Data lists: JSON files that name a dataset's cases, their labels and folds."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from monai.utils import ensure_tuple
from tqdm import tqdm

from shared_nets.affine import voxel_ml
from shared_nets.data.datasets import Found, Item
from shared_nets.data.loading import read_grid, read_merged_mask
from shared_nets.data.names import first_path
from shared_nets.data.splits import FOLDS, folds_of, parts_of, unshuffled_folds
from shared_nets.errors import ScanNotFoundError, StrokeSegError, UsageError
from shared_nets.files import write_text

Split = Callable[[Sequence[Item]], dict[str, Any]]


def make_data_list(
    found: Found,
    output: Path,
    folds: int = FOLDS,
    split: str = "shuffled",
    stratify: str | None = None,
    seed: int = 0,
    check: bool = True,
    quiet: bool = False,
) -> str:
    """
    Write a data list of what a reader found, split by subject.

    Args:
        found: the cases; those that cannot be used are moved to its ``left_out``.
        output: the JSON file; paths in it start from its folder.
        folds: number of folds.
        split: ``"shuffled"`` folds by seed, ``"unshuffled"`` as X-Net's code, or ``"34/5/5"``: subjects for
            training, validation and test.
        stratify: a key of the items, such as ``"site"``, that is spread evenly over the folds.
        seed: of the shuffling.
        check: read every mask: those that are not binary, or on another grid than their scan, are left out,
            and volumes are told.
        quiet: no progress bar.

    Returns:
        The summary, for people.

    Raises:
        UsageError: if the split cannot be made.
        ScanNotFoundError: if no labelled case is left.
        OutputError: if the file cannot be written.
    """
    volumes = check_labels(found, quiet) if check else {}
    if not found.training:
        alone = sum("label" not in item for item in found.test)
        without = f": {alone} scan(s) have no mask" if alone else ""
        raise ScanNotFoundError(f"No labelled case is left{without}. {_left_out(found)}".rstrip())
    try:
        sections = split_items(found.training, folds, split, stratify, seed)
    except UsageError as error:  # perhaps only as so much was left out
        raise UsageError(f"{error} {_left_out(found)}".rstrip()) from error
    sections["test"] = sections.get("test", []) + found.test
    relative = {
        name: [relative_to(item, output.absolute().parent) for item in items]
        for name, items in sections.items() if items
    }  # fmt: skip
    settings = f"split {split}" + (f", {stratify} balanced" if stratify else "") + f", seed {seed}"
    write_data_list(output, relative, settings)
    return summary(sections, found, volumes)


def _left_out(found: Found, at_most: int = 5) -> str:
    """What is in neither part and why, as a sentence; nothing where nothing was left out."""
    reasons = [f"{what}: {why.rstrip('.')}" for what, why in found.left_out]
    more = [f"{len(reasons) - at_most} more"] if len(reasons) > at_most else []
    return f"Left out: {'; '.join(reasons[:at_most] + more)}." if reasons else ""


def split_items(
    items: Sequence[Item], folds: int, split: str, stratify: str | None, seed: int
) -> dict[str, list[Item]]:
    """The items by section, those of folds all in ``training`` with their ``fold``; see `make_data_list`."""
    subjects = [str(item["subject"]) for item in items]
    if split not in ("shuffled", "unshuffled"):
        section = parts_of(subjects, parse_sizes(split), seed)
        names = ("training", "validation", "test")
        return {name: [item for item in items if section[str(item["subject"])] == name] for name in names}
    if split == "unshuffled":
        fold = unshuffled_folds(subjects, folds)
    else:
        lacking = [item["name"] for item in items if stratify and item.get(stratify) is None]
        if lacking:
            raise UsageError(
                f"{lacking[0]} has no {stratify}, so folds cannot be balanced by it: leave that out."
            )
        groups = {str(item["subject"]): str(item[stratify]) if stratify else "" for item in reversed(items)}
        fold = folds_of(groups, folds, seed)
    return {"training": [item | {"fold": fold[str(item["subject"])]} for item in items]}


def parse_sizes(split: str) -> tuple[int, int, int]:
    """``34/5/5`` as numbers."""
    parts = split.split("/")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise UsageError(
            f"There is no split {split!r}: choose shuffled, unshuffled, or sizes such as 34/5/5."
        )
    one, two, three = map(int, parts)
    return one, two, three


def check_labels(found: Found, quiet: bool) -> dict[int, float]:
    """Volumes in mL by the item's ``id``; what cannot be used is moved to ``left_out``."""
    volumes: dict[int, float] = {}
    labelled = [item for item in (*found.training, *found.test) if item.get("label")]
    for item in tqdm(labelled, unit="mask", disable=quiet):
        try:
            volumes[id(item)] = lesion_ml(item)
        except StrokeSegError as error:
            found.left_out.append((item["name"], str(error)))
    found.training = [item for item in found.training if id(item) in volumes]
    found.test = [item for item in found.test if id(item) in volumes or not item.get("label")]
    return volumes


def lesion_ml(item: Item) -> float:
    """
    The volume of a case's masks, merged.

    Raises:
        StrokeSegError: if the scan cannot be read, or a mask cannot be used or lies on another grid.
    """
    grid = read_grid(first_path(item["image"]))
    marked = read_merged_mask([str(path) for path in ensure_tuple(item["label"])], grid)
    return float(marked.sum()) * voxel_ml(grid.affine)


def relative_to(item: Item, folder: Path) -> Item:
    """An item whose paths start from a folder; on another drive of Windows they stay as they are."""

    def path(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [path(one) for one in value]
        if not value:
            return None
        try:
            return Path(os.path.relpath(value, folder)).as_posix()
        except ValueError:  # no way leads from one drive to another
            return str(value)

    return {key: path(value) if key in ("image", "label") else value for key, value in item.items()}


def summary(sections: Mapping[str, Sequence[Item]], found: Found, volumes: Mapping[int, float]) -> str:
    """What is in a data list, for people: cases, subjects, sites, folds, volumes, and what is not in it."""
    labelled = [item for name in ("training", "validation", "test") for item in sections.get(name, [])]
    with_label = [item for item in labelled if "label" in item]
    subjects = {item["subject"] for item in with_label}
    lines = [f"{len(with_label)} labelled cases of {len(subjects)} subjects"]
    if unlabelled := len(labelled) - len(with_label):
        lines.append(f"{unlabelled} cases without label, for testing")
    merged = sum(isinstance(item["label"], list) for item in with_label)
    if merged:
        lines.append(f"{merged} cases with several masks, merged when loaded")
    for key in ("site", "fold"):
        counts = Counter(str(item[key]) for item in with_label if key in item)
        if counts:
            lines.append(f"{key}s: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    if not any("fold" in item for item in with_label):
        lines.append(", ".join(f"{name} {len(items)}" for name, items in sections.items() if items))
    elif tests := sum("label" in item for item in sections.get("test", [])):
        lines.append(f"test {tests}")
    if volumes:
        shown = sorted(volume for volume in volumes.values() if volume > 0)
        if shown:
            lines.append(
                f"lesion volumes: median {median(shown):.1f} mL, {shown[0]:.2f} to {shown[-1]:.1f} mL"
            )
        lines.append(f"empty masks: {len(volumes) - len(shown)}")
    lines += found.remarks
    lines += [f"left out: {what}: {why}" for what, why in found.left_out]
    return "\n".join(lines)


def write_data_list(path: Path, sections: Mapping[str, Sequence[Item]], description: str) -> Path:
    """
    Write a MONAI data list, one case a line.

    Args:
        path: the JSON file.
        sections: items by ``training``, ``validation`` and ``test``; paths start from the file's folder.
        description: what the data are.

    Returns:
        ``path``.

    Raises:
        OutputError: if it cannot be written.
    """
    parts = [f'"description": {json.dumps(description, ensure_ascii=False)}']
    for name, items in sections.items():
        lines = ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in items)
        parts.append(f'"{name}": [\n{lines}\n ]')
    write_text(path, "{\n " + ",\n ".join(parts) + "\n}\n")
    return path

"""Lists of cases that somebody wrote: MONAI's and Decathlon's JSON, text files with a path a line."""

from __future__ import annotations

import json
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared_nets.data.left_out import LeftOut, in_words, leave_out
from shared_nets.data.names import RESULTS_FOLDER, Case, case_name, first_path, paired_name, stem_of
from shared_nets.data.splits import Section, read_fold
from shared_nets.errors import ScanNotFoundError, UsageError

# Auto3DSeg's data lists say "testing".
SECTION_KEYS = {"training": ("training",), "validation": ("validation",), "test": ("test", "testing")}


def read_data_list(
    path: Path, modalities: tuple[str, ...], labelled: bool, section: Section, left_out: LeftOut
) -> dict[str, list[Case]]:
    """
    The cases of a MONAI or Decathlon data list; a bare JSON list of items serves every section.

    Args:
        path: the list.
        modalities: see `find_cases`.
        labelled: whether each case must have a label; test cases without one are left out beside others.
        section: which is wanted.
        left_out: gets these.

    Returns:
        Cases by section: ``test``, or ``training`` and ``validation``.

    Raises:
        ScanNotFoundError: if the list is not there, or has no such cases.
        UsageError: if it is malformed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not a JSON data list: it cannot be read as UTF-8 text.") from error
    except FileNotFoundError as error:
        raise ScanNotFoundError(f"{path} is not there: check the path of the data list.") from error
    except OSError as error:
        raise ScanNotFoundError(
            f"{path} cannot be read ({error.strerror}): name a data list file."
        ) from error

    if isinstance(content, list):
        content = {"training": content, "test": content}
    if not isinstance(content, dict):
        raise UsageError(
            f"{path} is no data list: it must hold the lists 'training', 'validation' or 'test'."
        )
    # Validation may also be held out of the training list.
    needed = (*SECTION_KEYS[section], "training") if section == "validation" else SECTION_KEYS[section]
    if not any(content.get(key) for key in needed):
        have = ", ".join(k for k in content if isinstance(content[k], list) and content[k]) or "none"
        raise ScanNotFoundError(
            f"{path} has no cases under '{section}' (lists that it has: {have}): add some."
        )

    cases: dict[str, list[Case]] = {}
    for name in ("test",) if section == "test" else ("training", "validation"):
        for key in SECTION_KEYS[name]:
            if key not in content:
                continue
            if not isinstance(content[key], list):
                raise UsageError(f"{path}: '{key}' must be a list of cases, not {content[key]!r:.40}.")
            items = dict(enumerate(content[key], 1))
            if name == "test" and labelled:
                items = _without_hidden(items, left_out)
            where = f"{path}: item {{}} of '{key}'"
            cases.setdefault(name, []).extend(
                read_item(item, path.parent, where.format(n), modalities, labelled, name == "training")
                for n, item in items.items()
            )
    return cases


def read_folds(data: Path) -> list[int]:
    """
    The folds that a data list names.

    Args:
        data: a JSON data list, or any data set; `find_cases` tells what is wrong with it.

    Returns:
        They, in order; 0 alone where the list has a ``validation`` section instead. An empty list where it
        has neither, or is no data list: `find_cases` then splits by itself.

    Raises:
        UsageError: if an item's fold is no whole number.
    """
    try:
        content = json.loads(data.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return []
    sections = content if isinstance(content, dict) else {"training": content}
    items = sections.get("training")
    folds = {
        read_fold(item, f"{data}: item {number} of 'training'")
        for number, item in enumerate(items if isinstance(items, list) else [], 1)
        if isinstance(item, dict) and "fold" in item
    }
    if not folds and sections.get("validation"):
        return [0]
    return sorted(folds)


def read_path_list(path: Path, modalities: tuple[str, ...], labelled: bool) -> tuple[list[Case], list[Path]]:
    """
    What a text file names: a path a line, or a case's DWI and FLAIR parted by a tab; ``#`` begins a remark.

    Args:
        path: the list; relative paths in it start from its folder.
        modalities: see `find_cases`.
        labelled: whether each case must have a label, which these have not.

    Returns:
        The cases, and the other paths, to scans and folders.

    Raises:
        ScanNotFoundError: if the list cannot be read or is empty.
        UsageError: if it is malformed, or names another list.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
        lines = content.decode(encoding).splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a list of scans in UTF-8: save it as plain text so.") from error
    except OSError as error:
        raise ScanNotFoundError(f"{path} cannot be read ({error.strerror}): name a list of scans.") from error
    cases: list[Case] = []
    named: list[Path] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = [word.strip().strip('"') for word in line.split("\t")]  # as Windows copies a path
        if len(words) > 1:
            item = {"image": [word or None for word in words]}
            cases.append(read_item(item, path.parent, f"{path}: line {number}", modalities, labelled))
            continue
        if not words[0]:  # "" would be the list's own folder
            raise UsageError(f"{path}: line {number} names no path: write one, or remove the line.")
        named.append(absolute(words[0], path.parent))
        if named[-1].suffix.lower() == ".txt":
            raise UsageError(f"{path}: line {number} names another list; give scans and folders of them.")
    if not cases and not named:
        raise ScanNotFoundError(f"{path} names no scan: write a path a line.")
    return cases, named


def read_item(
    item: Any, folder: Path, where: str, modalities: tuple[str, ...], labelled: bool, trains: bool = False
) -> Case:
    """
    The case of a data list's item.

    Args:
        item: a path, or a dictionary with ``image``.
        folder: its paths start from there.
        where: its place, for messages.
        modalities: see `find_cases`.
        labelled: whether it must have a label.
        trains: whether it is of the training section, where ``fold`` must be a number.

    Raises:
        UsageError: if it is malformed.
    """
    item = {"image": item} if isinstance(item, str) else item
    if not isinstance(item, Mapping):
        raise UsageError(f"{where} must be a dictionary with 'image', or a path, not {item!r:.40}.")
    for key in ("image", "label") if labelled else ("image",):
        if not item.get(key):
            raise UsageError(f"{where} has no '{key}': add the path.")
    image = item["image"] if isinstance(item["image"], (list, tuple)) else [item["image"]]
    paths = [str(absolute(p, folder)) if p else None for p in image]
    if len(paths) > len(modalities) or not any(paths):
        raise UsageError(
            f"{where} names {len(paths)} images where {in_words(modalities)} is needed: give "
            + ("one path." if len(modalities) == 1 else "[DWI, FLAIR], with null for one that is missing.")
        )
    # MONAI batches no None; and where results go, no list says.
    case: Case = {key: value for key, value in item.items() if value is not None and key != RESULTS_FOLDER}
    if trains and "fold" in item:
        case["fold"] = read_fold(item, where)
    if len(modalities) > 1 and isinstance(item["image"], (list, tuple)):
        case["image"] = paths + [None] * (len(modalities) - len(paths))
    else:
        case["image"] = _channels_of(str(paths[0]), modalities)
    if item.get("label"):
        label = item["label"]
        masks = [str(absolute(p, folder)) for p in (label if isinstance(label, list) else [label])]
        case["label"] = masks if isinstance(label, list) else masks[0]
    first = first_path(case["image"])
    name = str(
        item.get("name") or (case_name(first) if isinstance(case["image"], str) else paired_name(Path(first)))
    )
    case["name"] = re.sub(r"[/\\\0]", "_", name)
    return case


def _without_hidden(items: dict[int, Any], left_out: LeftOut) -> dict[int, Any]:
    """Test items, by their number, without those whose label is hidden, unless all are: that is an error."""
    hidden = [n for n, item in items.items() if _has_no_label(item)]
    if not hidden or len(hidden) == len(items):
        return items
    leave_out(left_out, "they are test cases without a label", [str(_image_of(items[n])) for n in hidden])
    return {n: item for n, item in items.items() if n not in hidden}


def _image_of(item: Any) -> Any:
    """The image of a data list's item, which may be its path alone."""
    return item.get("image") if isinstance(item, Mapping) else item


def _has_no_label(item: Any) -> bool:
    return bool(_image_of(item)) and not (isinstance(item, Mapping) and item.get("label"))


def _channels_of(path: str, modalities: tuple[str, ...]) -> str | list[str | None]:
    """A data list's ``CASE.nii.gz`` where nnU-Net stores ``CASE_0000.nii.gz``, else the path as it is."""
    if os.path.exists(path):
        return path
    stem = stem_of(Path(path))
    files = [
        str(Path(path).with_name(f"{stem}_{i:04d}{Path(path).name[len(stem) :]}"))
        for i in range(len(modalities))
    ]
    there = [f if os.path.exists(f) else None for f in files]
    if not any(there):
        return path
    return there if len(modalities) > 1 else str(files[0])


def absolute(path: object, folder: Path | str = "") -> Path:
    """A path as it is named, ``~`` included, from the root on."""
    return Path(folder, os.path.expanduser(str(path))).absolute()

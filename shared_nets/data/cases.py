"""From what a user names - a tree, a data list, folders, files - to the list of cases a workflow runs on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_nets.data.bids import is_bids, scans_of_dataset
from shared_nets.data.folders import leave_out_astray, of_modalities, read_tree, scans_of
from shared_nets.data.grouping import group_files, make_names_unique, without_repeats
from shared_nets.data.left_out import LeftOut
from shared_nets.data.lists import SECTION_KEYS, absolute, read_data_list, read_item, read_path_list
from shared_nets.data.names import RESULTS_FOLDER, SCAN_SUFFIXES, Case, first_path
from shared_nets.data.splits import Section, split_cases
from shared_nets.errors import ScanNotFoundError, UsageError


class Cases(list[Case]):
    """
    Cases, and what lay beside them.

    Attributes:
        left_out: by the reason, the files that are in no case.
    """

    def __init__(self, cases: Iterable[Case] = (), left_out: LeftOut | None = None) -> None:
        super().__init__(cases)
        self.left_out = left_out or {}


def find_cases(
    source: Any,
    section: Section = "test",
    modalities: Sequence[str] = ("T1w",),
    fold: int | None = None,
    seed: int = 0,
    labelled: bool | None = None,
    participants: Any = (),
    sessions: Any = (),
) -> Cases:
    """
    List the cases of one section, ready for a MONAI ``Dataset``.

    Args:
        source: a folder with ``imagesTr``, ``labelsTr`` and ``imagesTs`` (Decathlon, nnU-Net), a BIDS
            dataset, a JSON data list with ``training``, ``validation`` and ``test``, a ``.txt`` list with a
            path a line (or DWI, tab, FLAIR), a folder of scans, which is searched with all its subfolders, a
            folder with one DICOM series, a scan, or a list of any of these. A pair ``[DWI, FLAIR]`` or a
            dictionary ``{"image": ...}`` inside the list is one case. Paths follow the working directory;
            those inside a list file follow the file's folder.
        section: ``"training"``, ``"validation"`` or ``"test"``. Folders of scans and single scans are
            ``"test"``.
        modalities: ``("T1w",)``, or ``("DWI", "FLAIR")``, for which the files of one case are grouped by
            name.
        fold: which fifth, or which value of the items' ``fold`` key, is validation; ``None`` is the data
            list's ``validation`` section where it has cases, and fold 0 otherwise. Without ``fold`` keys
            such a list has fold 0 alone: that section.
        seed: of the split made here when the source brings none.
        labelled: whether each case must name a ``label``; by default all but ``"test"`` must.
        participants: labels (one, or a list) of a BIDS dataset's participants; none is all.
        sessions: labels of its sessions; none is all.

    Returns:
        one dictionary a case: ``image`` (a path, or ``[DWI or None, FLAIR or None]``), ``name`` (unique in
        the list), ``label`` where there is one, ``results_folder`` for a scan of a BIDS dataset (where its
        results belong in a derivatives dataset, ``sub-1/anat`` say), and every other key of a data list's
        item that has a value.
        The split is by subject and depends on the subjects' names, ``seed`` and ``fold`` alone. Validation
        of a single subject is empty. An image inside a data list may be missing: its own loading fails, the
        others go on. ``left_out`` of the list tells what was found and is no case.

    Warns:
        ScanWarning: naming what was left out, once for each reason.

    Raises:
        ScanNotFoundError: a folder, data list or label that is not there, or a folder or section without
            scans.
        UsageError: a malformed list, an unknown section or fold, a source without labels for training, or
            participants or sessions asked of something else than a BIDS dataset.
    """
    if section not in SECTION_KEYS:
        raise UsageError(f"There is no section {section!r}: choose one of {', '.join(SECTION_KEYS)}.")
    modalities = tuple(modalities)
    labelled = section != "test" if labelled is None else labelled
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    _check_named(sources)
    wanted: tuple[str, ...] = ("test",) if section == "test" else ("training", "validation")
    pools: dict[str, list[Case]] = {}
    loose: list[Path] = []
    left_out: LeftOut = {}
    results: dict[str, str] = {}  # of the scans of BIDS datasets, by path
    wanted_labels = _labels(participants), _labels(sessions)
    waiting = deque(sources)
    while waiting:
        one = waiting.popleft()
        if isinstance(one, (Mapping, list, tuple)):
            item = one if isinstance(one, Mapping) else {"image": list(one)}
            trains = wanted[0] == "training"
            part = {wanted[0]: [read_item(item, Path.cwd(), "The given case", modalities, labelled, trains)]}
        elif str(one).lower().endswith(".txt"):
            pairs, named = read_path_list(absolute(one), modalities, labelled)
            part = {"test": pairs} if pairs else {}
            waiting.extendleft(reversed(named))
        else:
            path = absolute(one)
            if not labelled and os.path.isdir(path) and is_bids(path):
                part, files = {}, _read_bids(path, modalities, wanted_labels, left_out)
                results |= {str(p): (p.parent.parent.relative_to(path) / "anat").as_posix() for p in files}
            elif any(wanted_labels):
                raise UsageError(
                    f"{path} is no BIDS dataset (a folder with sub-*/anat or sub-*/dwi), so it has no "
                    f"participants or sessions to choose from: leave those options out, or part several "
                    f"labels by commas."
                )
            else:
                part, files = _read_source(path, section, modalities, labelled, left_out)
            loose += files
        for key, cases in part.items():
            pools.setdefault(key, []).extend(cases)
    if loose:
        pools.setdefault("test", []).extend(group_files(loose, modalities, left_out))
    said = ", ".join(str(one) for one in sources)
    if labelled and loose:
        raise UsageError(
            f"{said} holds scans without labels: {section} needs a folder with imagesTr and labelsTr, "
            f"or a JSON data list with 'image' and 'label'."
        )

    for case in pools.get("test", []):
        if (folder := results.get(first_path(case["image"]))) is not None:
            case[RESULTS_FOLDER] = folder
    pool = {key: without_repeats(pools[key]) for key in wanted if key in pools}
    make_names_unique([case for cases in pool.values() for case in cases])
    chosen = pool.get("test", []) if section == "test" else split_cases(pool, section, fold, seed)
    if not chosen and section != "validation":
        raise ScanNotFoundError(f"{said} has no {section} cases: name a source that has some.")
    return Cases(chosen, left_out)


def trained_and_validated(cases: Callable[..., Sequence[Case]]) -> list[Case]:
    """
    All cases that train or validate, whatever the fold.

    Args:
        cases: `find_cases` of a source.
    """
    return [case for section in ("training", "validation") for case in cases(section=section)]


def left_out_of(cases: Sequence[Mapping[str, Any]]) -> LeftOut:
    """By the reason, the files that `find_cases` found and are in no case; none of another list of cases."""
    return cases.left_out if isinstance(cases, Cases) else {}


def _check_named(sources: list[Any]) -> None:
    """Refuse to do nothing, and a table alone, which is meant as a list; beside scans it fails as one."""
    if not sources or any(one is None or one == "" for one in sources):
        raise UsageError("No scan, folder or data list was named: give at least one (--dataset_dir PATH).")
    if len(sources) == 1 and str(sources[0]).lower().endswith((".csv", ".tsv")):
        path = absolute(sources[0])
        raise UsageError(f"{path} is no list of scans: give a .txt with a path a line, or a JSON data list.")


def _read_source(
    path: Path, section: Section, modalities: tuple[str, ...], labelled: bool, left_out: LeftOut
) -> tuple[dict[str, list[Case]], list[Path]]:
    """Cases by section from a tree or data list, or the loose scans of a folder or file."""
    if path.suffix.lower() == ".json":
        return read_data_list(path, modalities, labelled, section, left_out), []
    if path.name.lower().endswith(SCAN_SUFFIXES) or os.path.isfile(path):
        return {}, [path]  # even if it is missing or a folder: then this one scan fails, the others go on
    if not os.path.isdir(path):
        raise ScanNotFoundError(f"{path} is not there: check the path, which follows the working directory.")
    if any(os.path.isdir(path / name) for name in ("imagesTr", "imagesTs")):
        return read_tree(path, section, modalities, labelled, left_out), []
    return {}, scans_of(path, modalities, left_out)


def _read_bids(
    root: Path, modalities: tuple[str, ...], labels: tuple[list[str], list[str]], left_out: LeftOut
) -> list[Path]:
    """A BIDS dataset's scans, all or of participants and sessions; what lies astray is told of all."""
    files = scans_of_dataset(root, SCAN_SUFFIXES, *labels)
    if not any(labels):
        leave_out_astray(root, files, modalities, left_out)
    return of_modalities(root, files, modalities, left_out, by_suffix=True)


def _labels(labels: Any) -> list[str]:
    """Labels as a command line gives them: none, one, or several, with commas between them or not."""
    given = labels if isinstance(labels, (list, tuple)) else [labels]
    parts = [part.strip() for label in given if label is not None for part in str(label).split(",")]
    return [part for part in parts if part]

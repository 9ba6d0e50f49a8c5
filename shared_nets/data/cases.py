"""From what a user names - a tree, a data list, folders, files - to the list of cases a workflow runs on."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_nets.data.bids import is_bids, list_folder, scans_of_dataset
from shared_nets.data.formats import UNREAD_SUFFIXES, is_dicom_series
from shared_nets.data.names import (
    CHANNEL,
    MAPS,
    NIFTI_SUFFIXES,
    SCAN_SUFFIXES,
    Case,
    before_contrast,
    case_name,
    contrast_of,
    first_path,
    flair_of,
    modality_of,
    modality_of_folder,
    paired_name,
    parse_name,
    patient_key,
    stem_of,
    without_contrasts,
)
from shared_nets.data.splits import Section, read_fold, split_cases
from shared_nets.errors import ScanNotFoundError, UsageError, few, warn_of_scan

RESULTS_FOLDER = "results_folder"
_OTHER_PARTS_OF_BIDS = ("code", "derivatives", "sourcedata", "stimuli")
# Auto3DSeg's data lists say "testing".
_SECTION_KEYS = {"training": ("training",), "validation": ("validation",), "test": ("test", "testing")}

LeftOut = dict[str, list[str]]  # by the reason, files


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
    if section not in _SECTION_KEYS:
        raise UsageError(f"There is no section {section!r}: choose one of {', '.join(_SECTION_KEYS)}.")
    modalities = tuple(modalities)
    labelled = section != "test" if labelled is None else labelled
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources or any(one is None or one == "" for one in sources):
        raise UsageError("No scan, folder or data list was named: give at least one (--dataset_dir PATH).")

    wanted: tuple[str, ...] = ("test",) if section == "test" else ("training", "validation")
    pools: dict[str, list[Case]] = {}
    loose: list[Path] = []
    left_out: LeftOut = {}
    results: dict[str, str] = {}  # of the scans of BIDS datasets, by path
    waiting = deque(sources)
    while waiting:
        one = waiting.popleft()
        if isinstance(one, (Mapping, list, tuple)):
            item = one if isinstance(one, Mapping) else {"image": list(one)}
            trains = wanted[0] == "training"
            part = {wanted[0]: [_read_item(item, Path.cwd(), "The given case", modalities, labelled, trains)]}
        elif str(one).lower().endswith(".txt"):
            pairs, named = _read_path_list(_absolute(one), modalities, labelled)
            part = {"test": pairs} if pairs else {}
            waiting.extendleft(reversed(named))
        else:
            path = _absolute(one)
            if not labelled and _is_dataset(path):
                part = {}
                files = scans_of_dataset(path, SCAN_SUFFIXES, _labels(participants), _labels(sessions))
                if not _labels(participants) and not _labels(sessions):
                    _leave_out_astray(path, files, modalities, left_out)
                files = _of_modalities(path, files, modalities, left_out, by_suffix=True)
                results |= {str(p): (p.parent.parent.relative_to(path) / "anat").as_posix() for p in files}
            elif _labels(participants) or _labels(sessions):
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
        pools.setdefault("test", []).extend(_group(loose, modalities, left_out))
    said = ", ".join(str(one) for one in sources)
    if labelled and loose:
        raise UsageError(
            f"{said} holds scans without labels: {section} needs a folder with imagesTr and labelsTr, "
            f"or a JSON data list with 'image' and 'label'."
        )

    for case in pools.get("test", []):
        if (folder := results.get(first_path(case["image"]))) is not None:
            case[RESULTS_FOLDER] = folder
    pool = {key: _without_repeats(pools[key]) for key in wanted if key in pools}
    _make_names_unique([case for cases in pool.values() for case in cases])
    chosen = pool.get("test", []) if section == "test" else split_cases(pool, section, fold, seed)
    if not chosen and section != "validation":
        raise ScanNotFoundError(f"{said} has no {section} cases: name a source that has some.")
    return Cases(chosen, left_out)


def left_out_of(cases: Sequence[Mapping[str, Any]]) -> LeftOut:
    """By the reason, the files that `find_cases` found and are in no case; none of another list of cases."""
    return cases.left_out if isinstance(cases, Cases) else {}


# ---- sources ----


def _read_source(
    path: Path, section: Section, modalities: tuple[str, ...], labelled: bool, left_out: LeftOut
) -> tuple[dict[str, list[Case]], list[Path]]:
    """Cases by section from a tree or data list, or the loose scans of a folder or file."""
    if path.suffix.lower() == ".json":
        return _read_data_list(path, modalities, labelled, section, left_out), []
    if path.name.lower().endswith(SCAN_SUFFIXES) or os.path.isfile(path):
        return {}, [path]  # even if it is missing or a folder: then this one scan fails, the others go on
    if not os.path.isdir(path):
        raise ScanNotFoundError(f"{path} is not there: check the path, which follows the working directory.")
    if any(os.path.isdir(path / name) for name in ("imagesTr", "imagesTs")):
        return _read_tree(path, section, modalities, labelled, left_out), []
    return {}, _scans_of(path, modalities, left_out)


def _absolute(path: object, folder: Path | str = "") -> Path:
    """A path as it is named, ``~`` included, from the root on."""
    return Path(folder, os.path.expanduser(str(path))).absolute()


def _is_dataset(path: Path) -> bool:
    return os.path.isdir(path) and is_bids(path)


def _labels(labels: Any) -> list[str]:
    """Labels as a command line gives them: none, one, or several."""
    if labels is None or labels == "":
        return []
    return [str(label) for label in labels] if isinstance(labels, (list, tuple)) else [str(labels)]


def _scans_in(folder: Path, suffixes: tuple[str, ...] = SCAN_SUFFIXES) -> list[Path]:
    """What lies directly in a folder and is named as a scan file is."""
    found = list_folder(folder)
    return [p for p in found if not p.name.startswith(".") and p.name.lower().endswith(suffixes)]


def _search(folder: Path, seen: frozenset[str] = frozenset()) -> list[Path]:
    """The scans in a folder and all its subfolders, readable or not; a DICOM series is its folder."""
    seen |= {os.path.realpath(folder)}  # a link to a folder above would go round for ever
    scans = _scans_in(folder)
    if is_dicom_series(folder):
        scans.append(folder)
    else:
        scans += [p for p in _scans_in(folder, UNREAD_SUFFIXES) if p.is_file()]
    for part in list_folder(folder):
        # A folder named like a scan is a scan that fails, as it is when named alone.
        if part in scans or part.name.startswith(".") or not os.path.isdir(part):
            continue
        if os.path.realpath(part) not in seen:
            scans += _search(part, seen)
    return scans


def _leave_out_astray(root: Path, files: list[Path], modalities: tuple[str, ...], left_out: LeftOut) -> None:
    """Scans in a BIDS dataset whose names say what is wanted, and that do not lie where BIDS has scans."""
    scans, known = _scans_in(root), set(files)
    for part in list_folder(root):
        is_other = part.name.startswith(".") or part.name in _OTHER_PARTS_OF_BIDS
        if os.path.isdir(part) and not is_other:
            scans += _search(part)
    if astray := [p for p in scans if modality_of(p) in modalities and p not in known]:
        why = "they do not lie in sub-*/[ses-*/]anat or dwi, or are of a format that is not read"
        _leave_out(left_out, why, astray, root, "name a file itself to have it segmented")


def _scans_of(folder: Path, modalities: tuple[str, ...], left_out: LeftOut) -> list[Path]:
    """The scans in a folder and its subfolders that are read and may show what is wanted."""
    files = _search(folder)
    unread = {p for p in files if p.name.lower().endswith(UNREAD_SUFFIXES)}
    if unread:
        why = "they are neither NIfTI, MHA, NRRD nor DICOM"
        _leave_out(left_out, why, sorted(unread), folder, "convert them to NIfTI")
    return _of_modalities(folder, [p for p in files if p not in unread], modalities, left_out)


def _of_modalities(
    folder: Path,
    files: list[Path],
    modalities: tuple[str, ...],
    left_out: LeftOut,
    by_suffix: bool = False,
) -> list[Path]:
    """
    Those of a folder's scans that may show what is wanted; warns of others, but for masks and ADC maps.

    Where a file's name says nothing, that of its subfolder may. With ``by_suffix``, as in BIDS, files' names
    must say what they show; only those that do not are odd there.
    """
    shown = {p: modality_of(p) for p in files}
    if not by_suffix:
        shown |= {p: modality_of_folder(p) for p in files if shown[p] is None and p.parent != folder}
        shown |= {p: contrast_of(p) for p in files if shown[p] is None}
    silent = [p for p in files if shown[p] is None]
    others = [p for p in files if shown[p] not in (None, *MAPS, *modalities)]
    # Those beside their scans are expected, so no warning; results of an earlier run are none of the data.
    if maps := [p for p in files if shown[p] in MAPS and "_label-lesion_" not in p.name]:
        left_out.setdefault("the names say mask or ADC", []).extend(map(str, maps))
    scans = [p for p in files if shown[p] in modalities or (shown[p] is None and not by_suffix)]
    if not scans:
        say = "do not say so" if by_suffix else "say that they show something else"
        why = (
            f"the names of its {len(files)} scan(s) {say}"
            if files
            else "no .nii, .nii.gz, .mha or .nrrd file, DICOM series, imagesTr or imagesTs lies in it"
        )
        raise ScanNotFoundError(
            f"{folder} has no {_words(modalities)} scans: {why}; name the scans' own folder."
        )
    if odd := silent if by_suffix else others:
        say = "do not say" if by_suffix else "say something else than"
        why = f"the names {say} {_words(modalities)}"
        _leave_out(left_out, why, odd, folder, "name a file itself to have it segmented")
    return scans


def _leave_out(
    left_out: LeftOut, why: str, files: Sequence[str | Path], folder: Path | None = None, advice: str = ""
) -> None:
    """Keep in mind, and warn, that files are in no case; they are named from ``folder`` on."""
    left_out.setdefault(why, []).extend(map(str, files))
    names = [str(Path(file).relative_to(folder)) if folder else str(file) for file in files]
    where = f"{folder}: left out" if folder else "Left out"
    warn_of_scan(f"{where}, as {why}: {few(names)}{advice and '; '}{advice}.")


def _read_path_list(path: Path, modalities: tuple[str, ...], labelled: bool) -> tuple[list[Case], list[Path]]:
    """A text file: a path a line, or a case's DWI and FLAIR parted by a tab; ``#`` begins a remark's line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a list of scans: it cannot be read as UTF-8 text.") from error
    except OSError as error:
        raise ScanNotFoundError(f"{path} cannot be read ({error.strerror}): name a list of scans.") from error
    cases: list[Case] = []
    named: list[Path] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = [word.strip() for word in line.split("\t")]
        if len(words) > 1:
            item = {"image": [word or None for word in words]}
            cases.append(_read_item(item, path.parent, f"{path}: line {number}", modalities, labelled))
            continue
        named.append(_absolute(words[0], path.parent))
        if named[-1].suffix.lower() == ".txt":
            raise UsageError(f"{path}: line {number} names another list; give scans and folders of them.")
    if not cases and not named:
        raise ScanNotFoundError(f"{path} names no scan: write a path a line.")
    return cases, named


def _read_tree(
    tree: Path, section: Section, modalities: tuple[str, ...], labelled: bool, left_out: LeftOut
) -> dict[str, list[Case]]:
    """A Decathlon or nnU-Net tree: ``imagesTr`` with ``labelsTr``, or ``imagesTs``."""
    part, key = ("Ts", "test") if section == "test" else ("Tr", "training")
    images, labels = tree / f"images{part}", tree / f"labels{part}"
    if not os.path.isdir(images):
        raise ScanNotFoundError(
            f"{tree} has no folder {images.name}, where its {section} scans are looked for."
        )
    cases = _group(_scans_of(images, modalities, left_out), modalities, left_out)
    if not os.path.isdir(labels):
        if labelled:
            raise ScanNotFoundError(
                f"{tree} has no folder {labels.name}, where the labels of its {section} scans are looked for."
            )
        return {key: cases}

    masks = {stem_of(p): str(p) for p in _scans_in(labels) if p.name.lower().endswith(NIFTI_SUFFIXES)}
    for case in cases:
        # CASE.nii.gz, or the very name of the image.
        stem = stem_of(Path(first_path(case["image"])))
        label = masks.get(case["name"]) or masks.get(stem)
        if label:
            case["label"] = label
    if labelled:
        missing = [case["name"] for case in cases if "label" not in case]
        unused = sorted(set(masks.values()) - {case.get("label") for case in cases})
        if missing:
            raise ScanNotFoundError(
                f"{labels} has {len(masks)} labels for the {len(cases)} cases of {images.name}; no label for "
                f"{few(missing)}: add {missing[0]}.nii.gz or take the scan out."
            )
        if unused:
            raise ScanNotFoundError(
                f"{labels} has {len(masks)} labels for the {len(cases)} cases of {images.name}; no scan for "
                f"{few([Path(p).name for p in unused])}: add the scan or take the label out."
            )
    return {key: cases}


def _read_data_list(
    path: Path, modalities: tuple[str, ...], labelled: bool, section: Section, left_out: LeftOut
) -> dict[str, list[Case]]:
    """A MONAI or Decathlon data list; a bare JSON list of items serves every section."""
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
    needed = (*_SECTION_KEYS[section], "training") if section == "validation" else _SECTION_KEYS[section]
    if not any(content.get(key) for key in needed):
        have = ", ".join(k for k in content if isinstance(content[k], list) and content[k]) or "none"
        raise ScanNotFoundError(
            f"{path} has no cases under '{section}' (lists that it has: {have}): add some."
        )

    cases: dict[str, list[Case]] = {}
    for name in ("test",) if section == "test" else ("training", "validation"):
        for key in _SECTION_KEYS[name]:
            if key not in content:
                continue
            if not isinstance(content[key], list):
                raise UsageError(f"{path}: '{key}' must be a list of cases, not {content[key]!r:.40}.")
            where = f"{path}: item {{}} of '{key}'"
            items = dict(enumerate(content[key], 1))
            unlabelled = {
                i for i, item in items.items() if name == "test" and labelled and _has_no_label(item)
            }
            if len(unlabelled) < len(items):  # hidden test cases beside labelled ones
                images = [str(_image_of(items.pop(i))) for i in sorted(unlabelled)]
                if images:
                    _leave_out(left_out, "they are test cases without a label", images)
            cases.setdefault(name, []).extend(
                _read_item(item, path.parent, where.format(i), modalities, labelled, name == "training")
                for i, item in items.items()
            )
    return cases


def _image_of(item: Any) -> Any:
    """The image of a data list's item, which may be its path alone."""
    return item.get("image") if isinstance(item, Mapping) else item


def _has_no_label(item: Any) -> bool:
    return bool(_image_of(item)) and not (isinstance(item, Mapping) and item.get("label"))


def _read_item(
    item: Any, folder: Path, where: str, modalities: tuple[str, ...], labelled: bool, trains: bool = False
) -> Case:
    """One item of a data list, with its paths made absolute, and its fold a number where that is used."""
    item = {"image": item} if isinstance(item, str) else item
    if not isinstance(item, Mapping):
        raise UsageError(f"{where} must be a dictionary with 'image', or a path, not {item!r:.40}.")
    for key in ("image", "label") if labelled else ("image",):
        if not item.get(key):
            raise UsageError(f"{where} has no '{key}': add the path.")
    image = item["image"] if isinstance(item["image"], (list, tuple)) else [item["image"]]
    paths = [str(_absolute(p, folder)) if p else None for p in image]
    if len(paths) > len(modalities) or not any(paths):
        raise UsageError(
            f"{where} names {len(paths)} images where {_words(modalities)} is needed: give "
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
        masks = [str(_absolute(p, folder)) for p in (label if isinstance(label, list) else [label])]
        case["label"] = masks if isinstance(label, list) else masks[0]
    first = first_path(case["image"])
    name = str(
        item.get("name") or (case_name(first) if isinstance(case["image"], str) else paired_name(Path(first)))
    )
    case["name"] = re.sub(r"[/\\\0]", "_", name)
    return case


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


# ---- files to cases ----


def _group(files: Iterable[Path], modalities: tuple[str, ...], left_out: LeftOut) -> list[Case]:
    """Cases of loose files: one a file for one modality, DWI with FLAIR by name for two."""
    shown = {p: modality_of(p) for p in files}
    scans = [p for p in shown if shown[p] not in MAPS]
    if not scans:
        raise ScanNotFoundError(
            f"{few([str(p) for p in shown])}: named as a mask or ADC map, give a {_words(modalities)} scan."
        )
    if others := [p for p in shown if shown[p] in MAPS]:
        _leave_out(left_out, "the names say mask or ADC", others)
    # As LoadScand finds them: what is called a FLAIR itself has none beside it.
    dwis = [p for p in scans if shown[p] not in modalities[1:]] if len(modalities) > 1 else []
    pairs = {p: flair_of(p) for p in dwis if flair_of(p).is_file()}
    paired = {*pairs, *pairs.values()}

    numbers: dict[tuple[Path, str], set[int]] = defaultdict(set)
    for p in scans:
        if match := CHANNEL.fullmatch(stem_of(p)):
            numbers[p.parent, match[1]].add(int(match[2]))

    cases: list[Case] = [{"image": [str(p), str(pairs[p])], "name": paired_name(p)} for p in pairs]
    further: list[Path] = []
    groups: dict[tuple[Path, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for p in scans:
        if p in paired:
            continue
        parsed = parse_name(p)
        match = CHANNEL.fullmatch(parsed.stem)
        name, modality, key = case_name(p), parsed.modality or modality_of_folder(p), patient_key(p, parsed)
        if match and _are_channels(numbers[p.parent, match[1]], len(modalities)):
            if int(match[2]) >= len(modalities):
                further.append(p)
                continue
            name, modality, key = match[1], modalities[int(match[2])], (p.parent, match[1])
        elif match:
            name = parsed.stem
        modality = modality or contrast_of(p)
        if len(modalities) > 1 and modality in modalities:
            groups[key][str(modality)].append(p)
        else:
            cases.append({"image": str(p), "name": name})
    if len(modalities) > 1:
        _join_by_shorter_names(groups, modalities)
    if further:
        _leave_out(left_out, f"the numbers say further channels than {_words(modalities)}", further)
    return cases + [case for group in groups.values() for case in _pairs(group, modalities, left_out)]


def _join_by_shorter_names(
    groups: dict[tuple[Path, str], dict[str, list[Path]]], modalities: tuple[str, ...]
) -> None:
    """
    Pair a DWI and a FLAIR that are alone by what their names begin with: p1_DWI_b1000 with p1_FLAIR, and then
    p1_DWI with p1_FLAIR_brain, where one has nothing behind that could be another patient's.

    Only now: T1 and T2 may be points in time, by which p1_T2_FLAIR goes with p1_T2_DWI.
    """

    def join(start: Callable[[tuple[Path, str], Path], str]) -> None:
        alone: dict[tuple[Path, str], list[tuple[Path, str]]] = defaultdict(list)
        for key, group in groups.items():
            if len(group) == 1 and all(len(paths) == 1 for paths in group.values()):
                (path,) = next(iter(group.values()))
                alone[key[0], start(key, path)].append(key)
        for (_, begin), keys in alone.items():
            is_pair = sorted(m for key in keys for m in groups[key]) == sorted(modalities)
            if is_pair and any(without_contrasts(key[1]) == begin for key in keys):
                first, second = sorted(keys, key=lambda key: modalities.index(next(iter(groups[key]))))
                groups[first] |= groups.pop(second)

    join(lambda key, path: without_contrasts(key[1]))
    join(lambda key, path: before_contrast(stem_of(path)))


def _are_channels(numbers: set[int], channels: int) -> bool:
    """
    Whether ``CASE_0000``, ``CASE_0001``... are one case's channels rather than numbered scans.

    They are when they start at 0 and are at most four (nnU-Net's own data sets have no more),
    or when ``_0001`` stands alone and a second modality is known.
    """
    return (0 in numbers and max(numbers) < 4) or (numbers == {1} and channels > 1)


def _pairs(group: dict[str, list[Path]], modalities: tuple[str, ...], left_out: LeftOut) -> list[Case]:
    """The cases of one patient's session: each DWI with its FLAIR, or each FLAIR alone."""
    first, second = group.get(modalities[0], []), group.get(modalities[1], [])
    if not first:
        return [{"image": [None, str(p)], "name": paired_name(p)} for p in second]
    cases: list[Case] = []
    for p in first:
        # Of several FLAIRs of a session, the one whose run-, acq-... agree most.
        entities = set(parse_name(p).entities)
        other = max(second, key=lambda q: len(entities & set(parse_name(q).entities)), default=None)
        cases.append({"image": [str(p), str(other) if other else None], "name": paired_name(p)})
    used = {case["image"][1] for case in cases}
    if unused := [str(p) for p in second if str(p) not in used]:
        _leave_out(left_out, f"another {modalities[1]} goes with the same {modalities[0]}", unused)
    return cases


def _without_repeats(cases: list[Case]) -> list[Case]:
    """A scan that was named twice (itself and its folder, say) is one case."""
    return list({str((case["image"], case.get("label"))): case for case in reversed(cases)}.values())[::-1]


def _make_names_unique(cases: list[Case]) -> None:
    """Tell scans of one name apart: in one folder by full name and number, else by folders before it."""
    folder = {id(case): Path(first_path(case["image"])).parent for case in cases}

    def clashing(*, within_folder: bool = False) -> list[Case]:
        def key(case: Case) -> tuple[Path | None, str]:
            return folder[id(case)] if within_folder else None, case["name"].casefold()

        count = Counter(map(key, cases))
        return [case for case in cases if count[key(case)] > 1]

    for case in clashing(within_folder=True):
        case["name"] = stem_of(Path(first_path(case["image"])))
    taken = {case["name"].casefold() for case in cases}
    again: set[tuple[Path, str]] = set()
    for case in clashing(within_folder=True):
        first, number = (folder[id(case)], case["name"].casefold()), 2
        if first not in again:
            again.add(first)
            continue
        while f"{case['name']}-{number}".casefold() in taken:
            number += 1
        case["name"] = f"{case['name']}-{number}"
        taken.add(case["name"].casefold())

    base = {id(case): case["name"] for case in cases}
    for depth in range(1, max((len(f.parts) for f in folder.values()), default=0)):
        for case in clashing():
            case["name"] = "_".join((*folder[id(case)].parts[1:][-depth:], base[id(case)]))


def _words(modalities: Sequence[str]) -> str:
    return " or ".join(modalities)

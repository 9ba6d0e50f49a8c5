"""Readers of the public stroke datasets, BIDS and plain folders: which files are a case's scan and masks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from shared_nets.data.bids import read_sidecar, scans_of_dataset
from shared_nets.data.cases import find_cases, trained_and_validated
from shared_nets.data.folders import scans_below
from shared_nets.data.names import (
    MAPS,
    SCAN_SUFFIXES,
    case_name,
    first_path,
    modality_of,
    stem_of,
    subject_of,
)
from shared_nets.errors import ScanNotFoundError, UsageError
from shared_nets.files import read_json

Item = dict[str, Any]

SPES_CHANNELS = ("T1c", "T2", "DWI", "CBF", "CBV", "TTP", "Tmax")
SPES_LABELS = ("penumbra", "core")
ATLAS_R11_CASES = 229
"""Scans in ATLAS R1.1's normalised set."""
LESION_WORDS = ("lesion", "stroke", "infarct", "msk")
"""What a BIDS mask's name must have one of, so that brain masks and the like are not taken for lesions."""


@dataclass
class Found:
    """
    What a reader found.

    Attributes:
        training: items with ``image``, ``label``, ``name``, ``subject`` and, where known, ``site`` and
            ``session``; absolute paths.
        test: the same without ``label``.
        left_out: a path or case, and why it is in neither.
        remarks: sentences for the summary.
    """

    training: list[Item] = field(default_factory=list)
    test: list[Item] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read_atlas(folder: Path) -> Found:
    """
    ATLAS R1.1 (normalised) or R2.0, whichever the folder holds; T1-weighted scans on the MNI grid.

    R1.1: ``SiteN/SUBJECT/tNN/SUBJECT_t1w_deface_stx.nii.gz`` with one or several
    ``SUBJECT_LesionSmooth[_N]_stx.nii.gz``, which are merged when loaded.
    R2.0: ``…/sub-rNNNsNNN/ses-N/anat/*_space-MNI152NLin2009aSym_T1w.nii.gz`` with
    ``*_label-L_desc-T1lesion_mask.nii.gz``; scans without mask are its test set.

    Args:
        folder: the unpacked release, or a folder above it.

    Raises:
        ScanNotFoundError: if there is no scan of either release.
    """
    files = files_of(folder)
    if any("_t1w_deface_stx" in path.name for path in files):
        return _atlas_r11(files)
    scans = [p for p in files if "MNI152NLin2009aSym" in p.name and modality_of(p) == "T1w"]
    if not scans:
        raise ScanNotFoundError(
            f"{folder} holds neither ATLAS R1.1 (…_t1w_deface_stx.nii.gz) nor R2.0 "
            f"(…_space-MNI152NLin2009aSym_T1w.nii.gz): name the folder of the unpacked release."
        )
    found = Found()
    masks = by_folder(
        drawn_by_readers((p for p in files if p.name.rsplit("_", 1)[-1].startswith("mask.")), found)
    )
    for scan in scans:
        name = case_name(scan)
        subject = entity(scan, "sub") or name
        item = {
            "image": str(scan), "name": name, "subject": subject, "site": subject[4:8],
            "session": entity(scan, "ses") or "ses-1",
        }  # fmt: skip
        if labels := masks.get(scan.parent):
            found.training.append(item | {"label": one_or_list(labels)})
        else:
            found.test.append(item)
    return found


def _atlas_r11(files: Sequence[Path]) -> Found:
    found = Found()
    masks = by_folder(p for p in files if "_LesionSmooth" in p.name and "_stx" in p.name)
    for scan in files:
        if "_t1w" in scan.name and "_stx" not in scan.name:
            found.left_out.append((str(scan), "native space; the normalised scan (_stx) is taken"))
        if "_t1w_deface_stx" not in scan.name:
            continue
        subject, session, site = scan.parent.parent.name, scan.parent.name, scan.parent.parent.parent.name
        if not masks.get(scan.parent):
            found.left_out.append((str(scan), "no lesion mask (_LesionSmooth_stx) beside it"))
            continue
        found.training.append(
            {
                "image": str(scan),
                "label": one_or_list(masks[scan.parent]),
                "name": f"{subject}_{session}",
                "subject": subject,
                "site": site,
                "session": session,
            }
        )
    if len(found.training) != ATLAS_R11_CASES:
        found.remarks.append(
            f"R1.1's normalised set has {ATLAS_R11_CASES} scans, {len(found.training)} are here."
        )
    return found


def read_isles2022(folder: Path) -> Found:
    """
    ISLES 2022: DWI with its mask, and FLAIR, which lies on a grid of its own and is resampled when loaded.

    ``[rawdata/]sub-strokecaseNNNN/ses-NNNN/[dwi/|anat/]*_dwi, *_FLAIR`` and
    ``derivatives/sub-strokecaseNNNN/ses-NNNN/*_msk.nii.gz``. ADC is not used.

    Args:
        folder: the unpacked data set.

    Raises:
        ScanNotFoundError: if there is no such case.
    """
    files = [p for p in files_of(folder) if p.name.startswith("sub-strokecase")]
    cases: dict[tuple[str, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in files:
        kind = "mask" if stem_of(path).endswith("_msk") else modality_of(path)
        cases[entity(path, "sub") or "", entity(path, "ses") or "ses-0001"][str(kind)].append(path)
    if not any(kinds.get("DWI") for kinds in cases.values()):
        raise ScanNotFoundError(
            f"{folder} holds no ISLES 2022 case (sub-strokecase0001/ses-0001/…_dwi.nii.gz): name the "
            f"folder of the unpacked data set."
        )
    found = Found()
    for (subject, session), kinds in sorted(cases.items()):
        if not kinds.get("DWI"):
            found.left_out.append((f"{subject}_{session}", "no DWI"))
            continue
        flair = str(kinds["FLAIR"][0]) if kinds.get("FLAIR") else None
        if flair is None:
            found.remarks.append(f"{subject}: no FLAIR; its DWI is used alone.")
        item = {
            "image": [str(kinds["DWI"][0]), flair],
            "name": f"{subject}_{session}",
            "subject": subject,
            "session": session,
        }
        if kinds.get("mask"):
            found.training.append(item | {"label": one_or_list(kinds["mask"])})
        else:
            found.test.append(item)
    return found


def read_spes(folder: Path, channels: Sequence[str] = ("DWI", "T2"), label: str = "penumbra") -> Found:
    """
    SPES of ISLES 2015: a folder a case with T1c, T2, DWI, CBF, CBV, TTP, Tmax on one grid, and two labels.

    A channel is told by a word of the file's name (``T2.nii``, ``VSD.Brain.XX.O.MR_Tmax_reg.127014.nii``),
    a label by ``penumbralabel`` or ``corelabel``. There is no FLAIR: the channels are chosen.

    Args:
        folder: the unpacked training set.
        channels: one or two of T1c, T2, DWI, CBF, CBV, TTP, Tmax, in the network's order.
        label: ``"penumbra"`` or ``"core"``.

    Raises:
        UsageError: if a channel or the label is unknown.
        ScanNotFoundError: if there is no such case.
    """
    known = {name.lower(): name for name in SPES_CHANNELS}
    wrong = [name for name in channels if name.lower() not in known]
    if wrong or not 1 <= len(channels) <= 2 or label not in SPES_LABELS:
        raise UsageError(
            f"SPES has the channels {', '.join(SPES_CHANNELS)} (choose one or two) and the labels "
            f"{' and '.join(SPES_LABELS)}, not {', '.join(wrong) or ', '.join(channels)} with {label}."
        )
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in files_of(folder):
        words = {word.lower() for word in re.split(r"[^A-Za-z0-9]+", stem_of(path))}
        kind = next((known[word] for word in words if word in known), None)
        kind = next((name for name in SPES_LABELS if f"{name}label" in words), kind)
        inside = path.relative_to(folder).parts
        if kind and len(inside) > 1:
            cases[inside[-3] if len(inside) > 2 and "." in inside[-2] else inside[-2]][kind] = path
    found = Found()
    for name, kinds in sorted(cases.items()):
        missing = [known[c.lower()] for c in channels if known[c.lower()] not in kinds]
        if missing:
            found.left_out.append((name, f"no {' and no '.join(missing)}"))
            continue
        image = [str(kinds[known[c.lower()]]) for c in channels]
        item = {"image": image if len(image) > 1 else image[0], "name": f"spes_{name}", "subject": name}
        if label in kinds:
            found.training.append(item | {"label": str(kinds[label])})
        else:
            found.test.append(item)
    if not found.training and not found.test:
        raise ScanNotFoundError(
            f"{folder} holds no SPES case with {' and '.join(channels)} (a folder a case, files named by "
            f"their channel): name the folder of the unpacked training set."
        )
    return found


def read_bids(folder: Path, modalities: Sequence[str] = ("T1w",)) -> Found:
    """
    A BIDS dataset: raw scans, and lesion masks in its ``derivatives`` (or beside the scans).

    A mask goes with a scan of the same subject and session whose run, acquisition and space do not
    contradict it, those of its own space before others. Several such masks are merged when loaded.

    Args:
        folder: the dataset's root.
        modalities: ``("T1w",)``, or ``("DWI", "FLAIR")``.

    Raises:
        ScanNotFoundError: if there is no such scan.
    """
    files = files_of(folder)
    scans = [p for p in scans_of_dataset(folder, SCAN_SUFFIXES) if modality_of(p) in modalities]
    if not scans:
        raise ScanNotFoundError(
            f"{folder} has no {' or '.join(modalities)} scans in sub-*/[ses-*/]anat or dwi: name the root of "
            f"the BIDS dataset."
        )
    found = Found()
    masks = drawn_by_readers(filter(is_lesion_mask, files), found)
    used: set[Path] = set()
    for case in find_cases([str(p) for p in scans], "test", modalities, labelled=False):
        first = Path(first_path(case["image"]))
        labels = [mask for mask in masks if goes_with(mask, first)]
        used |= set(labels)
        # One brought to another space as well lies on that space's grid.
        labels = [mask for mask in labels if entity(mask, "space") == entity(first, "space")] or labels
        item = {
            "image": case["image"], "name": case["name"], "subject": entity(first, "sub"),
            "session": entity(first, "ses"),
        }  # fmt: skip
        item = {key: value for key, value in item.items() if value is not None}
        if labels:
            found.training.append(item | {"label": one_or_list(labels)})
        else:
            found.test.append(item)
    found.left_out += [(str(mask), "no scan that it goes with") for mask in masks if mask not in used]
    return found


def read_folder(folder: Path, modalities: Sequence[str] = ("T1w",)) -> Found:
    """
    A Decathlon or nnU-Net folder, a ``dataset.json``, or scans with their masks beside them.

    Loose files go together by the start of their names: ``p1_T1w.nii.gz`` and ``p1_mask.nii.gz``.

    Args:
        folder: the folder, or the JSON file.
        modalities: ``("T1w",)``, or ``("DWI", "FLAIR")``.

    Raises:
        ScanNotFoundError: if there is no labelled scan.
    """
    decathlon = folder / "dataset.json"
    if read_json(decathlon).get("training"):
        folder = decathlon
    if folder.suffix == ".json" or (folder / "imagesTr").is_dir():
        return _tree(folder, modalities)
    found = Found()
    files = files_of(folder)
    masks: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in drawn_by_readers((p for p in files if modality_of(p) == "mask"), found):
        masks[path.parent, re.split(r"(?i)[_\-. ]?(label|lesion|mask|msk|seg)", stem_of(path))[0]].append(
            path
        )
    scans = [str(p) for p in files if modality_of(p) not in MAPS]
    if not scans:
        raise ScanNotFoundError(f"{folder} has no scans: name a folder of scans with their masks.")
    used: set[tuple[Path, str]] = set()
    for case in find_cases(scans, "test", modalities, labelled=False):
        first = Path(first_path(case["image"]))
        starts = {case["name"], stem_of(first), re.sub(r"[_\-. ][A-Za-z0-9]+$", "", stem_of(first))}
        keys = [key for key in masks if key[0] == first.parent and key[1] in starts]
        used |= set(keys)
        item = {"image": case["image"], "name": case["name"], "subject": subject_of(case)}
        if labels := [mask for key in keys for mask in masks[key]]:
            found.training.append(item | {"label": one_or_list(labels)})
        else:
            found.test.append(item)
    found.left_out += [
        (str(path), "no scan whose name begins alike")
        for key, paths in masks.items() if key not in used for path in paths
    ]  # fmt: skip
    return found


def _tree(source: Path, modalities: Sequence[str]) -> Found:
    """All labelled cases of a tree or data list, whatever its sections, and its unlabelled test scans."""
    found = Found()
    cases = trained_and_validated(partial(find_cases, str(source), modalities=modalities))
    found.training = [{**case, "subject": subject_of(case)} for case in cases]
    for item in found.training:
        item.pop("fold", None)
    with suppress(ScanNotFoundError):
        tests = find_cases(str(source), "test", modalities)
        found.test = [{**case, "subject": subject_of(case)} for case in tests]
    return found


def files_of(folder: Path) -> list[Path]:
    """
    All scan files in a folder and its subfolders, in order.

    Raises:
        ScanNotFoundError: if the folder is not there.
    """
    if not folder.is_dir():
        raise ScanNotFoundError(
            f"{folder} is not there: check the path, which follows the working directory."
        )
    found = scans_below(folder, left_out={})
    return sorted(p.absolute() for p in found if p.name.lower().endswith(SCAN_SUFFIXES) and p.is_file())


def drawn_by_readers(masks: Iterable[Path], found: Found) -> list[Path]:
    """The masks without strokeseg's own, which a network must not be trained on or tested against."""
    kept = []
    for mask in masks:
        # What `Records` writes beside each; other programs name no weights.
        made_by = read_sidecar(mask).get("GeneratedBy")
        if isinstance(made_by, dict) and "WeightsSHA256" in made_by:
            why = "drawn by strokeseg, not by a reader: give one that a reader has corrected another name"
            found.left_out.append((str(mask), why))
        else:
            kept.append(mask)
    return kept


def is_lesion_mask(path: Path) -> bool:
    """Whether a BIDS file is a lesion mask: its suffix is mask, msk or dseg, and its name says lesion."""
    suffix = stem_of(path).rsplit("_", 1)[-1].lower()
    label = (entity(path, "label") or "").removeprefix("label-").lower()
    words = stem_of(path).lower()
    return suffix in ("mask", "msk", "dseg") and (label == "l" or any(word in words for word in LESION_WORDS))


def goes_with(mask: Path, scan: Path) -> bool:
    """Whether a mask is of a scan: same subject and session, no run, acquisition or space that differs."""
    if any(entity(mask, key) != entity(scan, key) for key in ("sub", "ses")):
        return False
    pairs = [(entity(mask, key), entity(scan, key)) for key in ("run", "acq", "space")]
    return all(one == other for one, other in pairs if one and other)


def entity(path: Path, key: str) -> str | None:
    """An entity of a BIDS name, such as ``ses-2``."""
    found = re.search(rf"(?:^|_)({key}-[A-Za-z0-9+]+)(?=_|$)", stem_of(path))
    return found[1] if found else None


def by_folder(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """Paths by the folder they lie in."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        folders[path.parent].append(path)
    return folders


def one_or_list(paths: Sequence[Path]) -> str | list[str]:
    """One mask's path, or the list of those to be merged."""
    return str(paths[0]) if len(paths) == 1 else [str(path) for path in paths]

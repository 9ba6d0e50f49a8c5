"""Scans in folders: a search through all subfolders, and the trees of Decathlon and nnU-Net."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from shared_nets.data.bids import list_folder
from shared_nets.data.formats import UNREAD_SUFFIXES, is_dicom_series
from shared_nets.data.grouping import group_files
from shared_nets.data.left_out import LeftOut, in_words, leave_out
from shared_nets.data.names import (
    MAPS,
    NIFTI_SUFFIXES,
    SCAN_SUFFIXES,
    Case,
    contrast_of,
    first_path,
    modality_of,
    modality_of_folder,
    stem_of,
)
from shared_nets.data.splits import Section
from shared_nets.errors import ScanNotFoundError, few

_OTHER_PARTS_OF_BIDS = ("code", "derivatives", "sourcedata", "stimuli")


def read_tree(
    tree: Path, section: Section, modalities: tuple[str, ...], labelled: bool, left_out: LeftOut
) -> dict[str, list[Case]]:
    """
    The cases of a Decathlon or nnU-Net tree: of ``imagesTr`` with ``labelsTr``, or of ``imagesTs``.

    Args:
        tree: its folder.
        section: which are wanted: the test's are in ``imagesTs``.
        modalities: see `find_cases`.
        labelled: whether each must have a label.
        left_out: gets the files that are in no case.

    Returns:
        Cases by section, ``training`` or ``test``.

    Raises:
        ScanNotFoundError: if a folder is not there, or scans and labels do not go together.
    """
    part, key = ("Ts", "test") if section == "test" else ("Tr", "training")
    images, labels = tree / f"images{part}", tree / f"labels{part}"
    if not os.path.isdir(images):
        raise ScanNotFoundError(
            f"{tree} has no folder {images.name}, where its {section} scans are looked for."
        )
    cases = group_files(scans_of(images, modalities, left_out), modalities, left_out)
    if not os.path.isdir(labels):
        if labelled:
            raise ScanNotFoundError(
                f"{tree} has no folder {labels.name}, where the labels of its {section} scans are looked for."
            )
        return {key: cases}

    masks = {stem_of(p): str(p) for p in scans_in(labels) if p.name.lower().endswith(NIFTI_SUFFIXES)}
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


def scans_of(folder: Path, modalities: tuple[str, ...], left_out: LeftOut) -> list[Path]:
    """
    The scans in a folder and its subfolders that are read and may show what is wanted.

    Args:
        folder: where to search.
        modalities: what is wanted.
        left_out: gets what is of another format or shows something else.

    Raises:
        ScanNotFoundError: if there are none.
    """
    files = scans_below(folder, left_out)
    unread = {p for p in files if p.name.lower().endswith(UNREAD_SUFFIXES)}
    if unread:
        why = "they are neither NIfTI, MHA, NRRD nor DICOM"
        leave_out(left_out, why, sorted(unread), folder, "convert them to NIfTI")
    return of_modalities(folder, [p for p in files if p not in unread], modalities, left_out)


def leave_out_astray(root: Path, files: list[Path], modalities: tuple[str, ...], left_out: LeftOut) -> None:
    """
    Tell of scans in a BIDS dataset whose names say what is wanted, and that do not lie where BIDS has scans.

    Args:
        root: the dataset's folder.
        files: the scans that were found.
        modalities: what is wanted.
        left_out: gets the others.
    """
    scans, known = scans_in(root), set(files)
    for part in list_folder(root):
        is_other = part.name.startswith(".") or part.name in _OTHER_PARTS_OF_BIDS
        if os.path.isdir(part) and not is_other:
            scans += scans_below(part, left_out)
    if astray := [p for p in scans if modality_of(p) in modalities and p not in known]:
        why = "they do not lie in sub-*/[ses-*/]anat or dwi, or are of a format that is not read"
        leave_out(left_out, why, astray, root, "name a file itself to have it segmented")


def of_modalities(
    folder: Path,
    files: list[Path],
    modalities: tuple[str, ...],
    left_out: LeftOut,
    by_suffix: bool = False,
) -> list[Path]:
    """
    Those of a folder's scans that may show what is wanted; warns of others, but for masks and ADC maps.

    Where a file's name says nothing, that of its subfolder may.

    Args:
        folder: the folder.
        files: its scans.
        modalities: what is wanted.
        left_out: gets the others.
        by_suffix: as in BIDS, files' names must say what they show; only those that do not are odd there.

    Raises:
        ScanNotFoundError: if none may.
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
            f"{folder} has no {in_words(modalities)} scans: {why}; name the scans' own folder."
        )
    if odd := silent if by_suffix else others:
        say = "do not say" if by_suffix else "say something else than"
        why = f"the names {say} {in_words(modalities)}"
        leave_out(left_out, why, odd, folder, "name a file itself to have it segmented")
    return scans


def scans_below(folder: Path, left_out: LeftOut) -> list[Path]:
    """
    The scans in a folder and all its subfolders, readable or not; a DICOM series is its folder.

    Each folder is searched once, whatever links lead to it; what is hidden (``.git``, ``.Trash``) is not.

    Args:
        folder: where to search.
        left_out: gets the subfolders that cannot be listed.

    Raises:
        ScanNotFoundError: if the folder itself cannot be listed.
    """
    # All folders before links to any: cases are named by the folders they lie in.
    seen: set[str] = set()
    links: deque[Path] = deque()
    scans = _search(folder, left_out, seen, links)
    while links:
        scans += _search_part(links.popleft(), left_out, seen, links)
    return scans


def _search(folder: Path, left_out: LeftOut, seen: set[str], links: deque[Path]) -> list[Path]:
    """Scans of a folder and its real subfolders; ``seen`` gets them all, ``links`` what links to others."""
    seen.add(os.path.realpath(folder))
    scans = [p for p in scans_in(folder) if not _holds_scans(p)]
    if is_dicom_series(folder):
        scans.append(folder)
    else:
        scans += [p for p in scans_in(folder, UNREAD_SUFFIXES) if p.is_file()]
    parts = [p for p in list_folder(folder) if p not in scans and not p.name.startswith(".")]
    for part in filter(os.path.isdir, parts):
        if os.path.islink(part):
            links.append(part)
        else:
            scans += _search_part(part, left_out, seen, links)
    return scans


def _search_part(part: Path, left_out: LeftOut, seen: set[str], links: deque[Path]) -> list[Path]:
    """As `_search`, of a subfolder, which may have been searched already or not be listed."""
    if os.path.realpath(part) in seen:
        return []
    try:
        return _search(part, left_out, seen, links)
    except ScanNotFoundError:
        leave_out(left_out, "they cannot be listed", [part], part.parent, "check their permissions")
        return []


def _holds_scans(path: Path) -> bool:
    """Of what is named like a scan: whether it is a folder of scans; another one is a scan that fails."""
    try:
        return os.path.isdir(path) and bool(scans_in(path))
    except ScanNotFoundError:  # it cannot be listed
        return False


def scans_in(folder: Path, suffixes: tuple[str, ...] = SCAN_SUFFIXES) -> list[Path]:
    """What lies directly in a folder and is named as a scan file is."""
    found = list_folder(folder)
    return [p for p in found if not p.name.startswith(".") and p.name.lower().endswith(suffixes)]

"""What the names of scans say: what each shows, and which case and subject it belongs to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shared_nets.data.formats import OTHER_SUFFIXES

Case = dict[str, Any]
"""``image``, a path or one a modality, ``name``, and what else is known, such as ``label``."""

RESULTS_FOLDER = "results_folder"
"""Key of a case of a BIDS dataset: where its results belong in a derivatives dataset, ``sub-1/anat`` say."""
NIFTI_SUFFIXES = (".nii.gz", ".nii")
SCAN_SUFFIXES = NIFTI_SUFFIXES + OTHER_SUFFIXES
CHANNEL = re.compile(r"(.+)_(\d{4})")
"""nnU-Net's ``CASE_0000``: a case and the number of a channel."""
TIME_POINTS = {"T1w", "T2"}
"""Contrasts whose short names, T1 and T2, are those of points in time, too."""

# The last word of a file name, or an entity's value, that tells what a file shows.
_WORDS = {
    "T1w": "T1w T1 MPRAGE",
    "DWI": "dwi trace b1000",
    "FLAIR": "FLAIR",
    "ADC": "adc",
    "mask": "mask brainmask msk roi probseg dseg seg lesion lesions lesionSmooth",
    "other": "T2w T2 T2star T2starw PD PDw T1map T2map PDmap bold sbref swi asl cbf cbv tmax ttp T1c T1ce CT "
    "TOF",
}
MAPS = ("mask", "ADC")
"""What files beside a scan show that are no scans themselves."""
_MODALITY = {word.lower(): modality for modality, words in _WORDS.items() for word in words.split()}
# Those of the words that are nothing else in the middle of a name (PD may be a patient).
_CONTRAST = {word: said for word, said in _MODALITY.items() if said not in ("mask", "other")} | {"t2": "T2"}
# BIDS's parts of a complex measurement that show no anatomy as magnitudes do.
_PARTS_OF_NO_USE = {"part-phase", "part-real", "part-imag"}
_ENTITY = re.compile(r"[a-zA-Z]+-[a-zA-Z0-9+]+")


_SESSION = re.compile(r"(?i)[_-](ses|session|visit|timepoint|tp)[_-]?[a-z0-9]+$")


class ScanName(NamedTuple):
    """A file name's parts: ``before`` is the stem without its modality word, entities are BIDS's."""

    stem: str
    before: str
    entities: tuple[str, ...]
    modality: str | None


def stem_of(path: Path) -> str:
    """The file name without the ending of a scan; ``a_T1w`` for ``a_T1w.nii.gz``."""
    for suffix in SCAN_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return re.sub(r"\.[A-Za-z]\w*$", "", path.name)  # a folder of DICOM may be called 1.2.840.10


def parse_name(path: Path) -> ScanName:
    """The parts of a scan's file name; the file need not exist."""
    stem = stem_of(path)
    parts = stem.split("_")
    is_bids = stem.startswith("sub-") and len(parts) > 1
    entities = tuple(p for p in parts[:-1] if _ENTITY.fullmatch(p)) if is_bids else ()
    words = re.fullmatch(r"(.*?)[_\-. ]?([A-Za-z0-9]+)", stem)
    before, last = (words[1], words[2]) if words else (stem, "")
    modality = _MODALITY.get(last.lower())
    values = {e.split("-")[1].lower() for e in entities}
    if any(e.startswith("label-") for e in stem.split("_")):
        modality = "mask"
    elif modality == "DWI" and "adc" in values:
        modality = "ADC"
    elif not _PARTS_OF_NO_USE.isdisjoint(entities):
        modality = "other"
    return ScanName(stem, before if modality else stem, entities, modality)


def modality_of(path: str | os.PathLike[str]) -> str | None:
    """
    What a file's name says it shows.

    Args:
        path: a scan, e.g. ``sub-1_rec-TRACE_dwi.nii.gz`` or ``patient_FLAIR.nii``; it need not exist.

    Returns:
        ``"T1w"``, ``"DWI"``, ``"FLAIR"``, ``"ADC"``, ``"mask"``, ``"other"``, or ``None`` where the name says
        nothing. The nnU-Net endings ``_0000`` and ``_0001`` say nothing here.
    """
    return parse_name(Path(path)).modality


def modality_of_folder(path: Path) -> str | None:
    """What a scan's folder is called, if by a contrast alone: ``"FLAIR"`` for ``flair/p1.nii.gz``."""
    holds = parse_name(path.parent)
    return None if holds.before else holds.modality


def flair_of(path: Path) -> Path:
    """Where MONAI Label, which knows one file an image, has the FLAIR of a DWI: ``flair/ID.nii.gz``."""
    return path.parent / "flair" / path.name


def said_by_words(path: str | os.PathLike[str]) -> list[str]:
    """
    Which contrasts any words of a file's name say, digits behind them left aside.

    Several are too vague to choose or pair scans by, but enough to ask for a second look.

    Args:
        path: a scan, e.g. ``p3_t2_flair_tra.nii.gz`` or ``FLAIR1.nii``.

    Returns:
        ``["T2", "FLAIR"]`` say, in the order of the words; of ``"T1w"``, ``"DWI"``, ``"FLAIR"``, ``"ADC"``
        and ``"T2"``.
    """
    words = re.split(r"[^a-z0-9]+", stem_of(Path(path)).lower())
    said = [_CONTRAST.get(word) or _CONTRAST.get(word.rstrip("0123456789")) for word in words]
    return [contrast for contrast in said if contrast]


def _sure_contrasts(name: str | os.PathLike[str]) -> set[str]:
    """Which of DWI, FLAIR and ADC a name's words say."""
    return {*said_by_words(name)} - TIME_POINTS


def contrast_of(path: str | os.PathLike[str]) -> str | None:
    """
    What a file's name says it shows: by its end, see `modality_of`, else by all its words, if they say one.

    T1 and T2 in the middle of a name may be points in time, and nnU-Net's names are told by their channel.

    Args:
        path: a scan, e.g. ``DWI_001.nii.gz`` or ``FLAIR_brain.nii.gz``; it need not exist.
    """
    said = _sure_contrasts(path)
    by_words = said.pop() if len(said) == 1 and not CHANNEL.fullmatch(stem_of(Path(path))) else None
    return modality_of(path) or by_words


def before_contrast(stem: str) -> str:
    """A name's start up to the first word that says DWI, FLAIR or ADC: ``p1`` of ``p1_DWI_left``."""
    for word in re.finditer(r"[A-Za-z0-9]+", stem):
        if _sure_contrasts(word[0]):
            return stem[: word.start()].rstrip("_-. ")
    return stem


def cut_contrasts(stem: str) -> str:
    """A name without its words for DWI, FLAIR or ADC, but their digits: ``p1_2_left`` of ``p1_DWI2_left``."""
    words = re.split(r"[_\-. ]+", stem)
    kept = [re.sub("[^0-9]", "", w) if _sure_contrasts(w) else w for w in words]
    return "_".join(filter(None, kept))


def case_name(path: str | os.PathLike[str]) -> str:
    """
    The name of a scan's outputs: the file name without extension, channel ending and modality suffix.

    Args:
        path: a scan; it need not exist.

    Returns:
        ``sub-1_ses-2`` for ``sub-1_ses-2_T1w.nii.gz``, ``sub-1`` for ``sub-1_rec-TRACE_dwi.nii.gz``,
        ``case7`` for ``case7_0000.nii.gz``. Other names lose their extension only.
    """
    parsed = parse_name(Path(path))
    if parsed.entities and parsed.modality:
        # rec-TRACE and the like repeat the modality; acq-, run-, space- tell scans apart and stay.
        # A subject or session may be called T1, and still is one.
        kept = [
            e for e in parsed.entities
            if e.startswith(("sub-", "ses-", "label-")) or e.split("-")[1].lower() not in _MODALITY
        ]  # fmt: skip
        return "_".join(kept)
    channel = CHANNEL.fullmatch(parsed.stem)
    return channel[1] if channel and channel[2] in ("0000", "0001") else parsed.stem


def subject_of(case: Case) -> str:
    """
    The subject a case belongs to, so that a subject's sessions stay together.

    Args:
        case: one of :func:`~shared_nets.data.find_cases`.

    Returns:
        its ``subject`` key, else the ``sub-`` entity of its file name or of a BIDS dataset's folder that it
        lies in, else its name, without a session or visit at its end (``p1`` for ``p1_ses2``).
    """
    if case.get("subject") is not None:
        return str(case["subject"])
    path = Path(first_path(case["image"]))
    # sub-1/ses-1/anat/T1w.nii.gz at most.
    for name in (path.name, *(folder.name for folder in list(path.parents)[:3])):
        if named := re.match(r"sub-[a-zA-Z0-9+]+", name):
            return named[0]
    return _SESSION.sub("", str(case["name"])) or str(case["name"])


def without_contrasts(start: str) -> str:
    """A name's start without the words at its end that say a contrast; as it is if nothing else is in it."""
    left = start
    while (
        left
        and (words := re.fullmatch(r"(.*?)[_\-. ]?([A-Za-z0-9]+)", left))
        and words[2].lower() in _MODALITY
    ):
        left = words[1]
    return left or start


def paired_name(path: Path) -> str:
    """The name of the outputs of a case of two modalities, from one of its scans: without the modality."""
    parsed = parse_name(path)
    return case_name(path) if parsed.entities or not parsed.modality else parsed.before or parsed.stem


def paths_of(case: Mapping[str, Any]) -> list[str]:
    """A case's files, those that are missing left out."""
    images: Sequence[Any] = case["image"] if isinstance(case["image"], (list, tuple)) else [case["image"]]
    return [str(path) for path in images if path]


def first_path(image: str | Sequence[str | None]) -> str:
    """A case's ``image``, or of several the first that is not missing."""
    return image if isinstance(image, str) else next(p for p in image if p)


def patient_key(path: Path, parsed: ScanName) -> tuple[Path, str]:
    """
    What DWI and FLAIR of a case share: subject and session in BIDS names, else the start of the name.

    Each may lie in a folder named by what it holds: ``p1/dwi/dwi.nii.gz`` and ``p1/flair/flair.nii.gz``.
    """
    if parsed.entities:
        folder = path.parent.parent if path.parent.name in ("anat", "dwi") else path.parent
        return folder, "_".join(e for e in parsed.entities if e.startswith(("sub-", "ses-")))
    by_contrast = modality_of_folder(path) in ("DWI", "FLAIR")
    contrast = contrast_of(path)
    start = parsed.before if parsed.modality or not contrast else cut_contrasts(parsed.stem)
    if contrast and all(
        _MODALITY.get(word.lower()) == contrast for word in re.findall(r"[A-Za-z0-9]+", start)
    ):
        start = ""  # DWI_b1000 says twice what it shows
    return path.parent.parent if by_contrast else path.parent, start

"""BIDS datasets: which scans they hold, and what is written beside a scan."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shared_nets.data.names import stem_of
from shared_nets.errors import ScanNotFoundError
from shared_nets.files import read_json


def is_bids(folder: Path) -> bool:
    """
    Whether a folder is the root of a BIDS dataset: it has ``sub-*/[ses-*/]anat`` or ``…/dwi``.

    Args:
        folder: a folder that is there.

    Raises:
        ScanNotFoundError: if it cannot be listed.
    """
    return any(_kind_folders(folder / subject) for subject in _entity_folders(folder, "sub"))


def scans_of_dataset(
    root: Path, suffixes: Sequence[str], participants: Iterable[object] = (), sessions: Iterable[object] = ()
) -> list[Path]:
    """
    The files in a dataset's ``sub-*/[ses-*/]anat`` and ``…/dwi``; its ``derivatives`` are left alone.

    Args:
        root: the dataset's folder.
        suffixes: what file names may end in, ``(".nii", ".nii.gz")``.
        participants: labels, with or without ``sub-``; none is all.
        sessions: labels, with or without ``ses-``; none is all.

    Returns:
        the files, in order.

    Raises:
        ScanNotFoundError: if a participant or session that was asked for is not there, or a folder cannot be
            listed.
    """
    subjects = [root / name for name in _wanted(root, "sub", participants, [root])]
    chosen = _wanted(root, "ses", sessions, subjects) if (sessions := list(sessions)) else None
    return [
        path
        for subject in subjects
        for folder in _kind_folders(subject, chosen)
        for path in list_folder(folder)
        if path.name.lower().endswith(tuple(suffixes)) and not path.name.startswith(".")
    ]


def dataset_root(path: str | os.PathLike[str]) -> Path | None:
    """
    The BIDS dataset that a file lies in, by its ``sub-*`` folder.

    Args:
        path: a scan.
    """
    for parent in Path(path).parents:
        if parent.name.startswith("sub-"):
            return parent.parent
    return None


def read_sidecar(path: Path) -> dict[str, Any]:
    """
    What the JSON file beside a scan or mask says; nothing where there is none, or one that is broken.

    Args:
        path: the scan or mask.
    """
    return read_json(path.with_name(f"{stem_of(path)}.json"))


def has_bval(path: Path) -> bool:
    """
    Whether b-values lie beside a scan (``NAME.bval``), as they do beside a diffusion series.

    Args:
        path: the scan.
    """
    return path.with_name(f"{stem_of(path)}.bval").is_file()


def list_folder(folder: Path) -> list[Path]:
    """
    What lies directly in a folder, in order.

    Args:
        folder: any path.

    Raises:
        ScanNotFoundError: if it cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ScanNotFoundError(
            f"{folder} cannot be listed ({error.strerror}): check its name and its permissions."
        ) from error


def _kind_folders(subject: Path, sessions: Sequence[str] | None = None) -> list[Path]:
    """A subject's folders ``anat`` and ``dwi``: its own and its sessions', or only those of some sessions."""
    own = [subject] if sessions is None else []
    places = own + [subject / s for s in _entity_folders(subject, "ses") if sessions is None or s in sessions]
    return [place / kind for place in places for kind in ("anat", "dwi") if os.path.isdir(place / kind)]


def _entity_folders(folder: Path, entity: str) -> list[str]:
    named = [p for p in list_folder(folder) if re.fullmatch(rf"{entity}-[a-zA-Z0-9+]+", p.name)]
    return [p.name for p in named if os.path.isdir(p)]


def _wanted(root: Path, entity: str, labels: Iterable[object], places: Sequence[Path]) -> list[str]:
    """Names of the subjects' or sessions' folders that the labels ask for; all without labels."""
    there = sorted({name for place in places for name in _entity_folders(place, entity)})
    asked = [_with_entity(str(label), entity) for label in labels]
    for name in asked:
        if name not in there:
            have = ", ".join(there[:5]) + (", …" if len(there) > 5 else "") if there else "none"
            raise ScanNotFoundError(f"{root} has no {name}: choose from those that it has ({have}).")
    return [name for name in there if name in asked] if asked else there


def _with_entity(label: str, entity: str) -> str:
    return label if label.startswith(f"{entity}-") else f"{entity}-{label}"

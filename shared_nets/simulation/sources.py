"""What simulation draws from: folders of stroke masks, a fifth kept for testing, and of healthy heads."""

from __future__ import annotations

import json
from pathlib import Path

from shared_nets.data.datasets import files_of
from shared_nets.data.names import NIFTI_SUFFIXES
from shared_nets.errors import ScanNotFoundError, UsageError
from shared_nets.simulation.anatomy import Anatomy, icbm_anatomy, scan_anatomy
from shared_nets.simulation.lesions import LesionShape, read_masks

HELD_OUT = 5
"""Every so many-th mask, in order of their names, is kept for testing."""


def training_masks(folder: Path) -> list[LesionShape]:
    """
    The lesion shapes to train on: four masks in five, in order of their names.

    Args:
        folder: stroke masks in MNI space, ``.nii`` or ``.nii.gz``, in subfolders too.

    Raises:
        ScanNotFoundError: if there is no such folder, or no usable mask for training in it.
        StrokeSegError: if a mask cannot be read or is not in MNI space.
    """
    paths = nifti_masks(folder)
    kept = set(held_out_masks(folder))
    shapes = read_masks(path for path in paths if path not in kept)
    if not shapes:
        raise ScanNotFoundError(
            f"{folder} holds no stroke masks to train on ({len(paths)} NIfTI files, of which every fifth is "
            f"kept for testing): add masks of 0.05 to 400 mL."
        )
    return shapes


def held_out_masks(folder: Path) -> list[Path]:
    """
    The masks that pretraining never sees: every fifth, in order of their names.

    Raises:
        ScanNotFoundError: if there is no such folder.
    """
    return nifti_masks(folder)[::HELD_OUT]


def nifti_masks(folder: Path) -> list[Path]:
    """
    The NIfTI files of a folder and its subfolders, in order of their names; hidden ones, as macOS leaves
    beside each, are none.

    Raises:
        ScanNotFoundError: if there is no such folder.
    """
    return [path for path in files_of(folder) if path.name.lower().endswith(NIFTI_SUFFIXES)]


def anatomies_of(folder: Path | None) -> list[Anatomy]:
    """
    The ICBM template, and the T1-weighted scans that ``anatomies.json`` lists.

    Args:
        folder: holds the scans and ``anatomies.json``: a list of ``{"scan": FILE, "has_head": BOOL}``, see
            `scan_anatomy`. None for the template alone.

    Raises:
        ScanNotFoundError: if ``anatomies.json`` or a scan is missing.
        UsageError: if ``anatomies.json`` is not as told above, or a package of the extra is missing.
        StrokeSegError: if a scan cannot be used.
    """
    entries = [] if folder is None else _read_list(folder / "anatomies.json")
    return [icbm_anatomy(), *(scan_anatomy(path, has_head) for path, has_head in entries)]


def _read_list(path: Path) -> list[tuple[Path, bool]]:
    """The scans that an anatomies.json lists, and whether each shows the head."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ScanNotFoundError(
            f"{path} is not there: write one, or train on the template without --anatomies."
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not readable JSON ({error}): correct it.") from error
    well_formed = isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("scan"), str)
        and isinstance(entry.get("has_head"), bool)
        for entry in entries
    )
    if not well_formed:
        raise UsageError(f'{path} must hold a list such as [{{"scan": "T1.nii.gz", "has_head": false}}].')
    return [(path.parent / entry["scan"], entry["has_head"]) for entry in entries]

"""Simulated cases as files: a tree of NIfTI volumes with a data list, to train and be judged on."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from math import inf
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from shared_nets.affine import voxel_ml
from shared_nets.data.datalist import write_data_list
from shared_nets.errors import UsageError, times
from shared_nets.files import new_folder, write_bytes
from shared_nets.simulation.anatomy import Anatomy
from shared_nets.simulation.lesions import VOLUME_ML, read_masks
from shared_nets.simulation.slices import Paint, SimulatedSlices

IMAGES, LABELS = TREE = ("imagesTr", "labelsTr")

LEAST_PIXELS = 16
"""Rows and columns of the smallest slice: what the networks take."""

TRIES = 50
"""Draws in which a case must come to show a lesion of the wanted size."""


def simulate_dataset(
    folder: Path,
    masks: Sequence[Path],
    anatomies: Sequence[Anatomy],
    paint: Paint,
    cases: int,
    shape: tuple[int, int, int],
    spacing: tuple[float, float],
    folds: int = 5,
    smallest_ml: float = 1.0,
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """
    Write simulated cases as a Decathlon / nnU-Net tree with folds that share no lesion mask.

    The masks are dealt to the folds in order of their names; every case of a fold is painted with masks of
    that fold alone. Anatomies are shared by all folds.

    Args:
        folder: gets ``imagesTr`` and ``labelsTr``, which must not hold files yet and are there only when
            all cases are, and ``datalist.json``.
        masks: stroke masks in MNI space; see `read_masks` for those left out.
        anatomies: heads to draw from.
        paint: the contrast: `t1_contrast` or `acute_contrast`.
        cases: how many.
        shape: rows and columns, at least 16, and slices, at least 1.
        spacing: pixel size and slice distance in mm, above 0.
        folds: number of folds.
        smallest_ml: every case shows at least this much lesion, in mL.
        seed: the same seed gives the same cases.
        quiet: no progress bar.

    Returns:
        The data list's path.

    Raises:
        UsageError: if there are fewer masks or cases than folds, no case shows a lesion of that size, the
            shape or spacing is none, or the folder holds cases already.
        StrokeSegError: if a mask cannot be used or a file not be written.
    """
    _check(folder, shape, spacing)
    # Before they are dealt, so that no fold is left with masks of which none can be shown.
    lesions = np.array(read_masks(masks), dtype=object)
    if min(len(lesions), cases) < folds:
        raise UsageError(
            f"{cases} cases from {len(lesions)} masks do not make {folds} folds: take more cases, more masks "
            f"of {VOLUME_ML[0]:g} to {VOLUME_ML[1]:g} mL, or fewer folds."
        )
    items = []
    with ExitStack() as stack, tqdm(total=cases, unit="case", disable=quiet) as bar:
        parts = {name: stack.enter_context(_empty(folder / name)) for name in TREE}
        for fold in range(folds):
            numbers = range(fold, cases, folds)
            rng = np.random.default_rng([seed, fold])
            chosen = rng.permutation(lesions[fold::folds])[: len(numbers)]
            source = SimulatedSlices(anatomies, list(chosen), paint, shape[:2], spacing[0], lesion_free=0.0)
            for number in numbers:
                name = f"sim{number:04d}"
                volumes = _visible(source, [seed, fold, number], shape[2], spacing[1], smallest_ml)
                items.append({"name": name, **_write_case(parts, name, *volumes), "fold": fold})
                bar.update()
        items.sort(key=lambda item: str(item["name"]))
        return write_data_list(folder / "datalist.json", {"training": items}, "simulated lesions")


def _check(folder: Path, shape: tuple[int, int, int], spacing: tuple[float, float]) -> None:
    """Refuse a grid that is none, and a folder with files that would be taken for cases of this run."""
    if min(shape[:2]) < LEAST_PIXELS or shape[2] < 1:
        raise UsageError(
            f"A volume of {times(shape)} voxels cannot be simulated: give at least {LEAST_PIXELS} rows and "
            f"columns, and a slice."
        )
    if not all(0 < mm < inf for mm in spacing):
        raise UsageError(f"A spacing of {times(spacing)} mm is none: give numbers above 0.")
    for part in (folder / name for name in TREE):
        if part.is_dir() and any(part.iterdir()):
            raise UsageError(
                f"{part} holds files already, which would be taken for cases of this run: remove them, or "
                f"choose another folder."
            )


def _visible(
    source: SimulatedSlices, seed: list[int], slices: int, thickness: float, smallest_ml: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """The first draw that shows enough lesion."""
    for attempt in range(TRIES):
        image, label, affine = source.draw_volume(np.random.default_rng([*seed, attempt]), slices, thickness)
        if float(label.sum()) * voxel_ml(affine) >= smallest_ml:
            return image.cpu().numpy(), label.cpu().numpy(), affine
    raise UsageError(
        f"{TRIES} simulated cases in a row show less than {smallest_ml:g} mL of lesion: ask for less, or "
        f"give larger masks."
    )


def _empty(folder: Path) -> AbstractContextManager[Path]:
    """As `new_folder`, in place of an empty one: a run broken off leaves nothing in a repetition's way."""
    with suppress(OSError):  # mostly it is not there
        folder.rmdir()
    return new_folder(folder)


def _write_case(
    parts: Mapping[str, Path],
    name: str,
    image: NDArray[np.float32],
    label: NDArray[np.float32],
    affine: NDArray[np.float64],
) -> dict[str, Any]:
    """Write a case's files to where the tree is made; returns where they will lie in it."""
    # A missing channel is no file, as with real cases.
    channels = [f"{name}_{i:04d}.nii.gz" if channel.any() else None for i, channel in enumerate(image)]
    for file, channel in zip(channels, image, strict=True):
        if file:
            _write(parts[IMAGES] / file, np.round(channel * 4095).astype(np.int16), affine)
    _write(parts[LABELS] / f"{name}.nii.gz", label.astype(np.uint8), affine)
    paths = [file and f"{IMAGES}/{file}" for file in channels]
    return {"image": paths if len(paths) > 1 else paths[0], "label": f"{LABELS}/{name}.nii.gz"}


def _write(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    # No time in the gzip header: the same case gives the same bytes.
    write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))

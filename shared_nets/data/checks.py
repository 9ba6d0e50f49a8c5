"""What a scan must be before a network sees it: each function says one thing in words when it is not."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from shared_nets.affine import voxel_ml
from shared_nets.data.bids import has_bval, read_sidecar
from shared_nets.data.names import modality_of, said_by_words, stem_of
from shared_nets.data.preprocessing import head_mask
from shared_nets.errors import (
    MaskError,
    ScanGeometryError,
    ScanIntensityError,
    ScanMismatchError,
    ScanNotFoundError,
    UnreadableScanError,
    few,
    times,
    warn_of_scan,
)

# Wider than head MRI in use: 0.25 mm to 10 mm thick slices; a slab of 60 mm to a head with shoulders.
VOXEL_MM = (0.2, 12.0)
FIELD_OF_VIEW_MM = (60.0, 600.0)
# Sums of a few thousand such voxels, and differences, are still numbers in float32.
LARGEST = 1e30
# A billion voxels: 0.25 mm over 256 mm; as float32 4 GiB.
MOST_VOXELS = 2**30
# Deflate cannot compress further than 1032 to 1 (https://zlib.net/zlib_tech.html).
DEFLATE_LIMIT = 1032
# Two grids are one if no corner moves further than this.
GRID_TOLERANCE_MM = 0.1
# From a newborn's brain to a large adult head with ears, nose and neck: left-right, front-back, foot-head.
HEAD_MM = ((75.0, 230.0), (85.0, 270.0), (0.0, 330.0))
# What the middle four fifths of a head's intensities span, relative to their median: 0.76 and more in T1,
# FLAIR and DWI, 0.26 and more when a gamma of 0.3 bends them. A uniform phantom's span is that of its noise
# and of the coil: 0.22 with 3 % and 20 %.
LEAST_CONTRAST = 0.25
# One patient's head in two scans: measured within 10 %; skull-stripped against not, within 30 %.
HEADS_APART = 4 / 3
# The territories of one side's middle and anterior cerebral arteries take some 400 mL of a large brain.
LARGEST_LESION_ML = 800.0
# Echo times in seconds: longer than any T1w's, shorter than any DWI's or FLAIR's. Inversion of a FLAIR.
T1_LONGEST_ECHO = 0.04
FLAIR_SHORTEST_INVERSION = 1.2
# Less than this part of the DWI inside the FLAIR is no overlap, less than half is suspicious.
LEAST_OVERLAP = 0.1


def check_file(path: str) -> None:
    """
    Refuse what cannot be a NIfTI file, from its name, size and first bytes.

    Args:
        path: the file.

    Raises:
        ScanNotFoundError: if it is not there.
        UnreadableScanError: if it is a folder, empty, unreadable, not NIfTI, or compressed otherwise than its
            name says.
    """
    if not os.path.lexists(path):
        raise ScanNotFoundError(f"{path} is not there: check the path.")
    if not os.path.exists(path):
        raise ScanNotFoundError(
            f"{path} is a link to a file that is not there: restore the file it points to."
        )
    if os.path.isdir(path):
        raise UnreadableScanError(f"{path} is a folder, not a file: name the NIfTI file.")
    if not os.path.isfile(path):
        raise UnreadableScanError(f"{path} is a pipe or device, not a regular file: name the NIfTI file.")
    try:
        with open(path, "rb") as stream:
            start = stream.read(352)
    except OSError as error:
        raise UnreadableScanError(
            f"{path} cannot be opened ({error.strerror}): check its permissions."
        ) from error
    if not start:
        raise UnreadableScanError(f"{path} is empty (0 bytes): copy or convert the scan again.")
    if start[128:132] == b"DICM":
        raise UnreadableScanError(f"{path} is a single DICOM file: name the folder of its series.")
    name, zipped = path.lower(), start.startswith(b"\x1f\x8b")
    if not name.endswith((".nii", ".nii.gz")):
        raise UnreadableScanError(
            f"{path} does not end in .nii, .nii.gz, .mha, .mhd or .nrrd: convert the scan to NIfTI."
        )
    if zipped and name.endswith(".nii"):
        raise UnreadableScanError(
            f"{path} is gzip-compressed although it ends in .nii: rename it to .nii.gz."
        )
    if not zipped and name.endswith(".gz"):
        remedy = "rename it to .nii" if is_nifti(start) else "copy or convert the scan again"
        raise UnreadableScanError(f"{path} ends in .gz but is not gzip-compressed: {remedy}.")


def is_nifti(start: bytes) -> bool:
    """
    Whether a file's first bytes are the header of a single-file NIfTI-1 or NIfTI-2.

    Args:
        start: at least the first 348 bytes, uncompressed.

    Returns:
        whether the standard's magic string is in place.
    """
    return start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0"


def check_dimension(header: Any, path: str, volumes: Sequence[int] = (1,)) -> tuple[int, int, int, int]:
    """
    Refuse anything that is not one real-valued 3-D volume (or one of the numbers of volumes allowed).

    Args:
        header: nibabel's NIfTI header.
        path: the file, for the message.
        volumes: how many volumes the file may hold, along the last axis.

    Returns:
        the shape as (X, Y, Z, volumes); axes of length 1 after the third do not count.

    Raises:
        ScanGeometryError: if it is 2-D, a series, RGB or complex, or has more voxels than any head scan.
    """
    shape = tuple(int(n) for n in header.get_data_shape())
    dtype = header.get_data_dtype()
    said = "×".join(map(str, shape))
    if dtype.fields is not None:
        raise ScanGeometryError(
            f"{path} is a colour (RGB) picture: give the scan itself, with one number a voxel."
        )
    if dtype.kind not in "iuf":
        raise ScanGeometryError(f"{path} has complex voxels: give the magnitude image.")
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise ScanGeometryError(f"{path} is a single slice or line ({said}): give the whole 3-D volume.")
    extra = [n for n in shape[3:] if n != 1]
    count = extra[0] if len(extra) == 1 else int(np.prod(extra, dtype=object))
    if count not in volumes or len(extra) > 1:
        allowed = " or ".join(map(str, volumes))
        raise ScanGeometryError(
            f"{path} holds {count} volumes ({said}) where {allowed} is expected: extract the one to segment "
            f"(for a DWI series the trace or high b-value image)."
        )
    if int(np.prod(shape, dtype=object)) > MOST_VOXELS:
        raise ScanGeometryError(
            f"{path} claims {said} voxels, more than any head scan has: check its header."
        )
    return shape[0], shape[1], shape[2], count


def check_claimed_size(header: Any, offset: int, path: str, zipped: bool) -> None:
    """
    Refuse a header that claims more voxels than the file can hold, before memory is taken for them.

    Args:
        header: nibabel's NIfTI header.
        offset: where in the file the voxels begin, in bytes.
        path: the file.
        zipped: whether it is gzip-compressed.

    Raises:
        UnreadableScanError: if the file is too short.
    """
    voxels = int(np.prod(header.get_data_shape(), dtype=object))
    needed = voxels * header.get_data_dtype().itemsize + offset
    size = os.path.getsize(path)
    if needed > (size * DEFLATE_LIMIT if zipped else size):
        raise UnreadableScanError(
            f"{path} is truncated: its header claims {needed:,} bytes and the file has {size:,}"
            f"{' compressed' if zipped else ''}; copy or convert the scan again."
        )


def check_affine(header: Any, affine: NDArray[Any], path: str) -> None:
    """
    Refuse an affine that does not place voxels in space; warn when the file leaves it open.

    Args:
        header: nibabel's NIfTI header.
        affine: (4, 4), voxel to RAS mm, as nibabel gives it.
        path: the file, for the message.

    Raises:
        ScanGeometryError: if there is none, or it is not finite or is singular.

    Warns:
        ScanWarning: if neither sform nor qform is set, so that axes are taken as nibabel does (x to the left,
            centred), or if the two disagree by more than 1 mm or the qform is none, in which cases the sform
            counts.
    """
    if affine is None:  # of nibabel's image of an array alone
        raise ScanGeometryError(f"{path} has no affine: give the image one that leads to mm.")
    if not np.isfinite(affine).all():
        raise ScanGeometryError(f"{path} has NaN or infinity in its affine: write the scan's geometry again.")
    # Relative to the voxel size, so that small voxels are not taken for a singular affine.
    sizes = voxel_sizes(affine)
    if not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise ScanGeometryError(
            f"{path} has a singular affine (axes collapse): write the scan's geometry again."
        )
    sform = header.get_sform(coded=True)[0]
    try:
        qform = header.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError):  # with it alone, there were no affine
        warn_of_scan(f"{path} has a qform that is no rotation: the sform is used; check it.")
        return
    if sform is None and qform is None:
        warn_of_scan(
            f"{path} does not say how it lies in space (sform and qform codes are 0): its axes are taken "
            f"to run left, anterior, superior; check left and right."
        )
    elif sform is not None and qform is not None:
        moved = corner_distance(sform, qform, header.get_data_shape()[:3])
        if moved > 1:
            warn_of_scan(
                f"{path} has an sform and a qform {moved:.0f} mm apart: the sform is used; check it."
            )


def check_head_size(affine: NDArray[Any], shape: Sequence[int], path: str) -> None:
    """
    Refuse voxels or a field of view that no head scan has.

    Args:
        affine: (4, 4), voxel to RAS mm.
        shape: voxels along the three axes.
        path: the file, for the message.

    Raises:
        ScanGeometryError: if a voxel side is outside 0.2-12 mm or the field of view outside 60-600 mm.
    """
    sizes = voxel_sizes(affine)
    extent = sizes * np.asarray(shape[:3])

    def plausible(scale: float) -> bool:
        return _within(sizes * scale, VOXEL_MM) and _within(extent * scale, FIELD_OF_VIEW_MM)

    if plausible(1):
        return
    said = "×".join(f"{s:.3g}" for s in sizes)
    for unit, scale in (("metres", 1e3), ("microns", 1e-3), ("centimetres", 10)):
        if plausible(scale):
            raise ScanGeometryError(
                f"{path} has voxels of {said} mm, which look like {unit}: write its affine in millimetres."
            )
    if not _within(sizes, VOXEL_MM):
        raise ScanGeometryError(
            f"{path} has voxels of {said} mm, outside the {VOXEL_MM[0]:g}-{VOXEL_MM[1]:g} mm of head scans: "
            f"check its header."
        )
    raise ScanGeometryError(
        f"{path} covers {'×'.join(f'{e:.0f}' for e in extent)} mm, outside the {FIELD_OF_VIEW_MM[0]:g}-"
        f"{FIELD_OF_VIEW_MM[1]:g} mm of a head scan: give a whole scan of a head."
    )


def _within(values: NDArray[Any], limits: tuple[float, float]) -> bool:
    """Whether all values lie between the limits, but for what headers round off."""
    return bool((values >= limits[0] * 0.999).all() and (values <= limits[1] * 1.001).all())


def check_finite(array: NDArray[Any], path: str) -> None:
    """
    Refuse NaN and infinite voxels.

    Args:
        array: the voxels.
        path: the file, for the message.

    Raises:
        ScanIntensityError: naming how many there are.
    """
    # One pass without a boolean volume: a sum is finite unless a voxel is not (or float64 overflows).
    if np.isfinite(array.sum(dtype=np.float64)):
        return
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ScanIntensityError(f"{path} has {bad:,} NaN or infinite voxels: replace them, e.g. with 0.")


def check_intensities(array: NDArray[Any], path: str) -> None:
    """
    Refuse voxels a network cannot use.

    Args:
        array: (X, Y, Z), one volume.
        path: the file, for the message.

    Raises:
        ScanIntensityError: if the voxels have one value, or two as a mask has, or one is NaN, infinite or
            beyond 1e30.

    Warns:
        ScanWarning: if the values look like a CT's Hounsfield units.
    """
    check_finite(array, path)
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise ScanIntensityError(f"{path} is constant (every voxel is {low:g}): export the scan again.")
    if max(-low, high) > LARGEST:
        raise ScanIntensityError(
            f"{path} reaches from {low:g} to {high:g}, which no scanner measures: export the scan again."
        )
    marked = array == high
    if 0.001 < marked.mean() < 0.999 and (marked | (array == low)).all():  # more than a few hot voxels
        raise ScanIntensityError(
            f"{path} holds two values only ({low:g} and {high:g}), like a mask: give the scan itself."
        )
    if -4000 < low <= -900 and high > 300:
        warn_of_scan(
            f"{path} reaches from {low:g} to {high:g} like a CT in Hounsfield units: only MRI is known."
        )


def check_head(array: NDArray[Any], affine: NDArray[Any], path: str) -> None:
    """
    Warn when what a scan shows has not the size or the contrast of a head.

    Args:
        array: (X, Y, Z), one volume that is not constant.
        affine: (4, 4), voxel to RAS mm.
        path: the file, for the message.

    Warns:
        ScanWarning: if the largest object is too small or large for a head (another organ, the spine), or all
            of one brightness (a phantom).
    """
    coarse, head, extent = _find_head(array, affine)
    if any(not low <= size <= high for size, (low, high) in zip(extent, HEAD_MM, strict=True)):
        warn_of_scan(
            f"{path} shows an object of {'×'.join(f'{e:.0f}' for e in extent)} mm (left-right, front-back, "
            f"foot-head), not the size of a head: check that it is a scan of the brain."
        )
        return
    low, middle, high = np.percentile(coarse[head], [10, 50, 90])
    if high - low < LEAST_CONTRAST * abs(middle):
        warn_of_scan(
            f"{path} shows an object of nearly one brightness, like a phantom: check that it is a scan of "
            f"the brain."
        )


def _find_head(
    array: NDArray[Any], affine: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
    """Every few voxels of a scan (they suffice to see a head), which are head, and its extent in mm (RAS)."""
    steps = [max(1, round(4.0 / size)) for size in voxel_sizes(affine)]
    coarse = np.ascontiguousarray(array[tuple(slice(None, None, step) for step in steps)])
    to_mm = affine @ np.diag([*steps, 1])
    image = MetaTensor(torch.from_numpy(coarse[None]), affine=torch.from_numpy(to_mm))
    head = head_mask(image)[0].numpy()
    places = apply_affine(to_mm, np.argwhere(head))
    # Every few voxels may be all of one value, where others are not.
    return coarse, head, np.ptp(places, axis=0) if len(places) else np.zeros(3)


def check_same_head(
    array: NDArray[Any],
    affine: NDArray[Any],
    path: str,
    other: NDArray[Any],
    other_affine: NDArray[Any],
    name: str,
) -> None:
    """
    Warn when two scans show heads of two sizes.

    Args:
        array: (X, Y, Z), the reference (DWI).
        affine: (4, 4), voxel to RAS mm.
        path: its file.
        other: (X, Y, Z), the scan to bring there (FLAIR).
        other_affine: (4, 4), voxel to RAS mm.
        name: its file.

    Warns:
        ScanWarning: if one is a third wider or longer than the other. From foot to head coverage differs.
    """
    ours, theirs = (_find_head(*scan)[2] for scan in ((array, affine), (other, other_affine)))
    if (np.maximum(ours, theirs)[:2] > HEADS_APART * np.minimum(ours, theirs)[:2]).any():
        sizes = [f"{size[0]:.0f}×{size[1]:.0f}" for size in (ours, theirs)]
        warn_of_scan(
            f"{path} and {name} show heads of {sizes[0]} and {sizes[1]} mm: check that both are of one "
            f"patient."
        )


def check_contrast(path: str, modality: str) -> None:
    """
    Warn when a file's name, or what the scanner wrote beside it, says that it shows another contrast.

    Intensities do not tell: grey and white matter of a skull-stripped DWI look like a T1w's.

    Args:
        path: the scan; ``NAME.bval`` and the BIDS sidecar ``NAME.json`` beside it are read if there.
        modality: what it is taken for: ``"T1w"``, ``"DWI"`` or ``"FLAIR"``.

    Warns:
        ScanWarning: naming what speaks against it.
    """
    named, said = modality_of(path), said_by_words(path)
    numbers = _sidecar_numbers(path)
    echo, inversion = numbers.get("EchoTime"), numbers.get("InversionTime")
    if named not in (None, modality):
        why = f"its name says {'another contrast' if named == 'other' else named}"
    elif named is None and said and modality not in said:
        why = f"its name says {' and '.join(said)}"
    elif modality != "DWI" and has_bval(Path(path)):
        why = f"{stem_of(Path(path))}.bval beside it says DWI"
    elif echo is not None and (echo > T1_LONGEST_ECHO) == (modality == "T1w"):
        why = f"its sidecar says an echo time of {1000 * echo:.0f} ms"
    elif modality == "DWI" and inversion is not None and inversion > FLAIR_SHORTEST_INVERSION:
        why = f"its sidecar says an inversion time of {1000 * inversion:.0f} ms"
    else:
        return
    warn_of_scan(f"{path} is taken for a {modality} scan although {why}: check that it is the right file.")


def _sidecar_numbers(path: str) -> dict[str, float]:
    """The numbers at the top of a scan's BIDS sidecar."""
    items = read_sidecar(Path(path)).items()
    return {key: float(value) for key, value in items if isinstance(value, (int, float))}


class Grid(NamedTuple):
    """Where the voxels of a scan or mask lie: its affine (4, 4) to RAS mm, its shape, and its file."""

    affine: NDArray[Any]
    shape: tuple[int, ...]
    path: str


def check_overlap(fixed: Grid, moving: Grid) -> None:
    """
    Refuse two scans that do not show the same place.

    Args:
        fixed: the reference's (DWI's).
        moving: that of the scan to bring there (FLAIR).

    Raises:
        ScanMismatchError: if less than a tenth of the reference's volume lies inside the other's.

    Warns:
        ScanWarning: if less than half does.
    """
    axes = [np.linspace(0, n - 1, 16) for n in fixed.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    to_other = np.linalg.solve(moving.affine, fixed.affine)
    there = to_other[:3, :3] @ points + to_other[:3, 3:]
    # A voxel reaches half its side beyond its centre.
    inside = ((there >= -0.5) & (there <= np.asarray(moving.shape)[:, None] - 0.5)).all(0).mean()
    if inside < LEAST_OVERLAP:
        raise ScanMismatchError(
            f"{fixed.path} and {moving.path} do not overlap in space ({inside:.0%} of the first lies in the "
            f"second): check that both are of one patient and session, and their affines."
        )
    if inside < 0.5:
        warn_of_scan(
            f"{moving.path} covers only {inside:.0%} of {fixed.path}: where it ends, the DWI stands alone."
        )


def check_same_grid(mask: Grid, scan: Grid) -> None:
    """
    Refuse a mask that is not on its scan's grid.

    Args:
        mask: the mask's.
        scan: the scan's.

    Raises:
        ScanMismatchError: if the shapes differ or a corner lies more than 0.1 mm elsewhere.
    """
    if mask.shape != scan.shape:
        what = f"{times(mask.shape)} against {times(scan.shape)} voxels"
    elif not (moved := corner_distance(mask.affine, scan.affine, mask.shape)) <= GRID_TOLERANCE_MM:
        what = f"corners up to {moved:.1f} mm apart"
    else:
        return
    raise ScanMismatchError(
        f"{mask.path} is not on the grid of {scan.path} ({what}): resample the mask onto its scan's grid."
    )


def corner_distance(affine: NDArray[Any], other: NDArray[Any], shape: Sequence[int]) -> float:
    """
    How far two affines place the same voxels apart.

    Args:
        affine: (4, 4), voxel to mm.
        other: (4, 4), voxel to mm.
        shape: voxels along the three axes.

    Returns:
        the largest distance over the eight corner voxels in mm, which bounds that of every voxel.
    """
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in shape[:3]))], dtype=float)
    return float(np.linalg.norm(corners @ (np.asarray(affine) - np.asarray(other))[:3].T, axis=1).max())


def warn_of_large_mask(array: NDArray[Any], affine: NDArray[Any], path: str) -> None:
    """
    Warn of a mask that marks more than any stroke, as a brain mask or an inverted one does.

    Args:
        array: the mask's values, of which those that are not 0 are lesion.
        affine: (4, 4), voxel to mm.
        path: the file, for the message.

    Warns:
        ScanWarning: if it marks more than 800 mL.
    """
    marked = np.count_nonzero(array) * voxel_ml(affine)
    if marked > LARGEST_LESION_ML:
        warn_of_scan(
            f"{path} marks {marked:.0f} mL, more than a stroke takes: check that it is no brain mask and not "
            f"inverted."
        )


def check_binary(array: NDArray[Any], path: str) -> None:
    """
    Refuse a mask with more than one kind of lesion, or with probabilities.

    Args:
        array: the mask's values; 0 and one positive whole number (1, 255) make it binary, as does 0 alone.
        path: the file, for the message.

    Raises:
        MaskError: naming the values found.
    """
    marked = array[array != 0]
    if marked.size == 0:
        return
    value = float(marked[0])
    # Scaled integers (255 / 255) come back within rounding.
    if value > 0 and round(value) > 0 and np.allclose(marked, round(value), rtol=0, atol=1e-3):
        return
    values = [f"{value:.3g}" for value in np.unique(np.append(marked, 0))]
    raise MaskError(
        f"{path} is not binary (values {few(values, at_most=6)}): save a mask with 0 and 1, one value for "
        "all lesions."
    )

"""
Scans that are not NIfTI files - MHA, NRRD, a DICOM series, images in memory - as NIfTI images in memory.

Files are read by MONAI's readers; their libraries are the optional extra ``formats``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import OptionalImportError
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from shared_nets.errors import (
    ScanGeometryError,
    ScanNotFoundError,
    StrokeSegError,
    UnreadableScanError,
    warn_of_scan,
)
from shared_nets.files import sha256

Scan: TypeAlias = "str | os.PathLike[str] | SpatialImage | MetaTensor"

META_SUFFIXES = (".mha", ".mhd")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
OTHER_SUFFIXES = META_SUFFIXES + NRRD_SUFFIXES
UNREAD_SUFFIXES = (".mgz", ".mgh", ".img", ".img.gz")
"""Scans that no reader here takes: FreeSurfer's, and pairs of ``.img`` and ``.hdr``."""

_VOXELS_BESIDE = (".mhd", ".nhdr")  # headers whose voxels lie in another file

# World axes of a NRRD file's "space" that point away from RAS.
_NRRD_FLIPS = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
# Types of tensors that NIfTI has not, or numpy neither.
_NO_NIFTI_TYPES = (torch.float16, torch.bfloat16, torch.bool)
# What tells where a DICOM slice lies, and how large it is.
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
# Slices of a series lie evenly if no gap differs by more than this part of it.
_GAP_TOLERANCE = 0.05


def is_dicom_series(folder: str | os.PathLike[str]) -> bool:
    """
    Whether a folder holds DICOM files directly, by the mark at byte 128 of one of its first files.

    Args:
        folder: any path.
    """
    if not os.path.isdir(folder):
        return False
    with os.scandir(folder) as entries:
        files = sorted(e.path for e in entries if not e.name.startswith(".") and e.is_file())
    return any(_is_dicom(path) for path in files[:8])


def is_other_format(scan: Scan) -> bool:
    """
    Whether a scan is read by :func:`as_nifti` rather than as a NIfTI file.

    Args:
        scan: a path, or an image in memory.
    """
    if isinstance(scan, (SpatialImage, MetaTensor)):
        return True
    return os.fspath(scan).lower().endswith(OTHER_SUFFIXES) or is_dicom_series(scan)


def scan_name(scan: Scan) -> str:
    """
    What to call a scan in messages: its path, or what stands for it.

    Args:
        scan: a path, or an image in memory.
    """
    if isinstance(scan, MetaTensor):
        return str(scan.meta.get("filename_or_obj") or "The given image")
    if isinstance(scan, SpatialImage):
        return scan.get_filename() or "The given image"
    return os.fspath(scan)


def as_nifti(scan: Scan) -> nib.Nifti1Image | nib.Nifti2Image:
    """
    A scan as a NIfTI image in memory: voxels in the order of the file, the affine to RAS mm.

    Args:
        scan: a ``.mha``, ``.mhd``, ``.nrrd`` or ``.nhdr`` file, a folder with one DICOM series, a nibabel
            image, or a MetaTensor (X, Y, Z) or (channels, X, Y, Z) whose affine leads to RAS mm.

    Returns:
        the image, unchecked: (X, Y, Z) or (X, Y, Z, volumes).

    Raises:
        ScanNotFoundError: if the file is not there.
        UnreadableScanError: if it cannot be read, or the library that reads it is not installed.
        ScanGeometryError: if its header or series does not make one volume.
    """
    if isinstance(scan, (nib.Nifti1Image, nib.Nifti2Image)):
        return scan
    if isinstance(scan, SpatialImage):
        return nib.Nifti1Image.from_image(scan)
    if isinstance(scan, MetaTensor):
        tensor = scan.detach().cpu()
        array = (tensor.float() if tensor.dtype in _NO_NIFTI_TYPES else tensor).numpy()
        return _in_mm(np.moveaxis(array, 0, -1) if array.ndim == 4 else array, scan.affine.cpu().numpy())
    path = os.fspath(scan)
    if not os.path.exists(path):
        raise ScanNotFoundError(f"{path} is not there: check the path.")
    read, kind, library = (
        (_read_series, "a DICOM series", "pydicom")
        if os.path.isdir(path)
        else (_read_nrrd, "NRRD", "pynrrd")
        if path.lower().endswith(NRRD_SUFFIXES)
        else (_read_meta_image, "MetaImage", "itk-io")
    )
    try:
        return read(path)
    except StrokeSegError:
        raise
    except (OptionalImportError, ImportError) as error:
        raise UnreadableScanError(
            f"{path} is {kind}, which takes a library that is not installed: pip install {library}, "
            f"or convert the scan to NIfTI."
        ) from error
    except Exception as error:  # whatever a broken file makes another library stumble over
        what = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UnreadableScanError(
            f"{path} cannot be read as {kind} ({' '.join(what.split()).rstrip('.')}): copy or convert the "
            f"scan again."
        ) from error


def _in_mm(array: NDArray[Any], affine: NDArray[Any]) -> nib.Nifti1Image:
    if array.dtype.kind in "iu" and array.dtype.itemsize > 4:
        array = array.astype(np.float64)  # nibabel wants to be asked for 64-bit integers
    image = nib.Nifti1Image(array, np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm")
    return image


def _read_meta_image(path: str) -> nib.Nifti1Image:
    from monai.data import ITKReader

    reader = ITKReader()
    array, meta = reader.get_data(reader.read(path))
    return _in_mm(array, meta["affine"])


def _read_nrrd(path: str) -> nib.Nifti1Image:
    """NRRD's own space names are turned here: MONAI's reader turns one spelling of LPS only."""
    from monai.data import NrrdReader

    reader = NrrdReader(affine_lps_to_ras=False, dtype=None)
    image: Any = reader.read(path)
    header = image.header
    space = str(header.get("space", "left-posterior-superior")).lower()
    if space not in _NRRD_FLIPS or header.get("space directions") is None:
        raise ScanGeometryError(
            f"{path} does not say where its voxels lie (space {header.get('space', 'missing')!r}): "
            f"save it again with its directions in LPS or RAS."
        )
    if "space" not in header:
        warn_of_scan(
            f"{path} does not say which way its axes lead (it has no space): they are taken for LPS; check "
            f"left and right."
        )
    directions = np.asarray(header["space directions"], dtype=float)
    is_space = np.isfinite(directions).all(axis=1)
    if is_space.sum() != 3:
        raise ScanGeometryError(f"{path} has {is_space.sum()} axes in space, not 3: give a 3-D volume.")
    # Axes that are not of space, a list of volumes say, go last, as in NIfTI.
    order = [*np.flatnonzero(is_space), *np.flatnonzero(~is_space)]
    affine = np.eye(4)
    affine[:3, :3] = directions[is_space].T
    affine[:3, 3] = header.get("space origin", (0, 0, 0))
    return _in_mm(np.transpose(image.array, order), np.diag([*_NRRD_FLIPS[space], 1]) @ affine)


def _read_series(folder: str) -> nib.Nifti1Image:
    from monai.data import PydicomReader

    files = [p for p in sorted(Path(folder).iterdir()) if _is_dicom(p)]
    if len(files) < 2:
        raise ScanGeometryError(
            f"{folder} holds one DICOM file: give a folder with a slice a file, or convert a file with all "
            f"slices in it (enhanced DICOM) with dcm2niix."
        )
    # File by file: given the folder, it stumbles over folders in it and over brackets in its name.
    reader = PydicomReader()
    slices = reader.read(files)
    reader.has_series, reader.filenames = True, [files]  # type: ignore[list-item]
    _number_slices(slices, folder)
    array, meta = reader.get_data(slices)
    return _in_mm(array, meta["affine"])


def _number_slices(slices: list[Any], folder: str) -> None:
    """
    Number the slices by their position along their normal, as MONAI's reader stacks them by number alone.

    Scanners number slices otherwise than by position at times, and a folder may hold more than one volume.
    """
    series = {str(s.get("SeriesInstanceUID")) for s in slices}
    if len(series) > 1:
        raise ScanGeometryError(f"{folder} holds {len(series)} DICOM series: give each a folder of its own.")
    if any(tag not in s for s in slices for tag in _PLACE):
        raise ScanGeometryError(
            f"{folder} has DICOM slices that do not say where they lie: convert the series with dcm2niix."
        )
    kinds = {
        (
            s.Rows,
            s.Columns,
            *np.round([*map(float, s.PixelSpacing), *map(float, s.ImageOrientationPatient)], 4),
        )
        for s in slices
    }
    if len(kinds) > 1:
        raise ScanGeometryError(
            f"{folder} has DICOM slices of {len(kinds)} sizes or orientations: give those of one volume."
        )
    first = np.asarray(slices[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(first[:3], first[3:])
    positions = [float(normal @ np.asarray(s.ImagePositionPatient, dtype=float)) for s in slices]
    gaps = np.diff(sorted(positions))
    step = float(np.median(gaps))
    if (gaps < 1e-3).any():
        raise ScanGeometryError(
            f"{folder} has several DICOM slices at one position, as of a series of volumes: give one volume."
        )
    if np.abs(gaps - step).max() > _GAP_TOLERANCE * step:
        raise ScanGeometryError(
            f"{folder} has uneven gaps between its DICOM slices ({gaps.min():.2f} to {gaps.max():.2f} mm): "
            f"a slice may be missing; export the series again."
        )
    for number, index in enumerate(np.argsort(positions), start=1):
        slices[index].InstanceNumber = number


def _is_dicom(path: str | Path) -> bool:
    """Whether a file has DICOM's mark and is no DICOMDIR, the table of contents of a disc."""
    if Path(path).name.upper() == "DICOMDIR":
        return False
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def hash_scan(path: Path) -> str:
    """
    The SHA-256 of a scan's content, in hexadecimal: of its file, or of all its files in order.

    Args:
        path: a file, or the folder of a DICOM series.

    Raises:
        ScanNotFoundError: if it is not there or cannot be read.
    """
    try:
        if path.is_dir():
            parts = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        elif path.suffix.lower() in _VOXELS_BESIDE:
            parts = sorted(p for p in path.parent.iterdir() if p.name.startswith(f"{path.stem}."))
        else:
            parts = [path]
        digests = [sha256(p) for p in parts]
    except OSError as error:
        raise ScanNotFoundError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

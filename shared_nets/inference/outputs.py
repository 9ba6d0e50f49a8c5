"""What a run writes: masks and probabilities on the scan's own grid, pictures, tables."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

from shared_nets.data.formats import as_nifti, is_other_format
from shared_nets.data.loading import open_nifti
from shared_nets.data.names import RESULTS_FOLDER
from shared_nets.errors import StrokeSegError
from shared_nets.files import write_bytes, write_text
from shared_nets.inference.lesions import label_lesions
from shared_nets.inference.picture import lesion_sheet

MASK_SUFFIX = "_label-lesion_mask.nii.gz"
PROBABILITY_SUFFIX = "_label-lesion_probseg.nii.gz"
LABELS_SUFFIX = "_label-lesion_dseg.nii.gz"
PICTURE_SUFFIX = "_label-lesion.png"
MASK_DESCRIPTION = b"lesion mask"
SUFFIXES = (MASK_SUFFIX, PROBABILITY_SUFFIX, LABELS_SUFFIX, PICTURE_SUFFIX)


def result_path(output_dir: str | Path, case: Mapping[str, Any], suffix: str) -> Path:
    """
    Where a scan's result goes.

    Args:
        output_dir: the run's folder.
        case: one of :func:`shared_nets.data.find_cases`.
        suffix: what the result is, :data:`MASK_SUFFIX` say.

    Returns:
        ``NAME`` and the suffix, for a scan of a BIDS dataset in the folder that BIDS wants.
    """
    return Path(output_dir, str(case.get(RESULTS_FOLDER, "")), f"{case['name']}{suffix}")


def write_nifti(path: str | Path, array: ArrayLike, scan: str | Path | SpatialImage) -> None:
    """
    Write a mask, label map or probability map as NIfTI on a scan's own grid.

    The scan's header is kept (sform, qform and their codes, units, voxel size); type, scaling, display
    range and description are set anew, and header extensions, which describe the scan, are left out.
    The same array gives the same bytes.

    Args:
        path: the file, ``.nii.gz`` or ``.nii``.
        array: see :func:`on_grid_of`.
        scan: the scan's NIfTI file, or an image.

    Raises:
        ValueError: if the array has not the scan's shape.
        OutputError: if the file cannot be written.
    """
    content = on_grid_of(scan, array).to_bytes()
    # Level 1: masks shrink to nothing at any level, probabilities hardly at all. No time stamp.
    write_bytes(path, gzip.compress(content, 1, mtime=0) if str(path).endswith(".gz") else content)


def on_grid_of(scan: str | Path | SpatialImage, array: ArrayLike) -> Any:
    """
    A result as a NIfTI image on a scan's own grid, with the scan's header where it has a NIfTI one.

    Args:
        scan: the scan's NIfTI file, which is only read, or an image; of a 4-D one the first three axes count.
        array: (X, Y, Z) or (1, X, Y, Z), uint8 or bool for a mask, whole numbers for a label map (kept as
            uint16 or, if large, int32), otherwise float32.

    Returns:
        nibabel's image.

    Raises:
        ValueError: if the array has not the scan's shape.
    """
    volume = np.asarray(array)
    volume = volume[0] if volume.ndim == 4 and volume.shape[0] == 1 else volume
    dtype = _stored_type(volume)
    reference: Any = scan if isinstance(scan, SpatialImage) else nib.load(scan)
    if volume.shape != reference.shape[:3]:
        raise ValueError(
            f"{reference.get_filename() or 'The scan'}: the result {volume.shape} is not on the scan's grid "
            f"{reference.shape[:3]}; the postprocessing must end on it (Invertd)."
        )
    # From the header's bytes: also a .hdr/.img pair becomes a single file, without its extensions.
    given = reference.header if isinstance(reference.header, nib.Nifti1Header) else as_nifti(reference).header
    image_class: Any = nib.Nifti2Image if isinstance(given, nib.Nifti2Header) else nib.Nifti1Image
    header = image_class.header_class(given.binaryblock, given.endianness, check=False)
    header.set_data_offset(0)  # nibabel puts the data right behind the header
    header.set_data_shape(volume.shape)
    header.set_data_dtype(dtype)
    header.set_intent("none")
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, max(1, int(volume.max()))
    words = {np.uint8: MASK_DESCRIPTION, np.float32: b"lesion probability"}
    header["descrip"] = words.get(dtype, b"lesions, numbered")
    header["aux_file"] = b""
    # The header's own affine: with any other nibabel would rewrite its sform, qform and codes.
    return image_class(np.ascontiguousarray(volume, dtype), header.get_best_affine(), header)


def is_a_mask_of_ours(path: Path) -> bool:
    """
    Whether a mask's header says what :func:`on_grid_of` writes there.

    Args:
        path: any file that is there.
    """
    try:
        with open_nifti(str(path)) as (image, _):
            return bytes(image.header["descrip"].item()) == MASK_DESCRIPTION
    except StrokeSegError:
        return False


def _stored_type(volume: NDArray[Any]) -> type[np.generic]:
    if volume.dtype in (np.uint8, np.bool_):
        return np.uint8
    if volume.dtype.kind not in "iu":
        return np.float32
    return np.uint16 if volume.max() < 2**16 else np.int32


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """
    Write rows as CSV (UTF-8, comma, a header line); what a row lacks stays empty.

    Args:
        path: the file.
        rows: one mapping from column to value each.
        columns: the columns, in order.

    Raises:
        OutputError: if the file cannot be written.
    """
    text = io.StringIO()
    # As objects: a count beside an empty place must not turn into 2.0.
    pd.DataFrame(list(rows), columns=list(columns), dtype=object).to_csv(
        text, index=False, lineterminator="\n"
    )
    write_text(path, text.getvalue())


class LesionWriter:
    """
    Writes each scan's results into one folder, named by the case's ``name``.

    ``NAME_label-lesion_mask.nii.gz`` (uint8) and ``NAME_label-lesion.png``; if asked for,
    ``NAME_label-lesion_probseg.nii.gz`` (float32) and ``NAME_label-lesion_dseg.nii.gz`` (the lesions
    numbered, the largest 1). All volumes are on the grid of the file in the image's ``filename_or_obj``.

    Args:
        output_dir: the folder; created if need be.
        save_probability: write the probabilities too.
        save_labels: write the lesions numbered too.
        save_picture: write the picture.
        channels: names of the image's channels, for the picture.
    """

    def __init__(
        self,
        output_dir: str | Path,
        save_probability: bool = False,
        save_labels: bool = False,
        save_picture: bool = True,
        channels: Sequence[str] = (),
    ) -> None:
        self.output_dir = Path(output_dir)
        self.save_probability = save_probability
        self.save_labels = save_labels
        self.save_picture = save_picture
        self.channels = tuple(channels)

    @property
    def suffixes(self) -> list[str]:
        """What is written for each scan."""
        wanted = {
            MASK_SUFFIX: True,
            PROBABILITY_SUFFIX: self.save_probability,
            LABELS_SUFFIX: self.save_labels,
            PICTURE_SUFFIX: self.save_picture,
        }
        return [suffix for suffix, is_wanted in wanted.items() if is_wanted]

    def write(self, case: Mapping[str, Any]) -> None:
        """
        Write one case.

        Args:
            case: ``name``, ``image`` (preprocessed), ``pred`` and ``probability`` (native grid).

        Raises:
            OutputError: if a file cannot be written.
        """
        path = partial(result_path, self.output_dir, case)
        reference = scan_grid(case["image"])
        mask = _as_uint8(case["pred"])
        write_nifti(path(MASK_SUFFIX), mask, reference)
        if self.save_probability:
            write_nifti(path(PROBABILITY_SUFFIX), case["probability"].cpu().numpy(), reference)
        if self.save_labels:
            write_nifti(path(LABELS_SUFFIX), label_lesions(mask), reference)
        if self.save_picture:
            sheet = lesion_sheet(case["image"], case["pred"], name=str(case["name"]), channels=self.channels)
            write_bytes(path(PICTURE_SUFFIX), sheet)


def scan_grid(image: MetaTensor) -> SpatialImage:
    """
    What a scan's results are written on the grid of: its NIfTI file's header, or an empty image's.

    Args:
        image: a scan of :class:`~shared_nets.data.LoadScand`, preprocessed or not.

    Raises:
        StrokeSegError: if the file cannot be read any more.
    """
    path = str(image.meta["filename_or_obj"])
    if os.path.isfile(path) and not is_other_format(path):
        with open_nifti(path) as (grid, _):
            return cast(SpatialImage, grid)
    shape = [int(n) for n in image.meta["spatial_shape"]]
    return as_nifti(MetaTensor(torch.zeros(1).expand(shape), affine=image.meta["original_affine"]))


def _as_uint8(mask: Any) -> np.ndarray:
    return mask.cpu().numpy().astype(np.uint8)

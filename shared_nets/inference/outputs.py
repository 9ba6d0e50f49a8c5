"""What a run writes: masks and probabilities on the scan's own grid, pictures, tables."""

from __future__ import annotations

import gzip
import io
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from numpy.typing import ArrayLike

from shared_nets.errors import OutputError
from shared_nets.files import reason, write_bytes
from shared_nets.inference.picture import lesion_sheet

MASK_SUFFIX = "_label-lesion_mask.nii.gz"
PROBABILITY_SUFFIX = "_label-lesion_probseg.nii.gz"
PICTURE_SUFFIX = "_label-lesion.png"


def make_output_folder(folder: str | Path) -> Path:
    """
    Create the folder if need be, and make sure that files can be written into it.

    Args:
        folder: where results go.

    Returns:
        The folder.

    Raises:
        OutputError: if it cannot be created or written into.
    """
    folder = Path(folder)
    probe = folder / f".{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {reason(error)}") from error
    return folder


def write_nifti(path: str | Path, array: ArrayLike, reference_path: str | Path) -> None:
    """
    Write a mask or probability map as NIfTI on a scan's own grid.

    The scan's header is kept (sform, qform and their codes, units, voxel size); type, scaling, display
    range and description are set anew, and header extensions, which describe the scan, are left out.
    The same array gives the same bytes.

    Args:
        path: the file, ``.nii.gz`` or ``.nii``.
        array: (X, Y, Z) or (1, X, Y, Z), uint8 or bool for a mask, otherwise written as float32.
        reference_path: the scan; only read. Of a 4-D scan the first three axes count.

    Raises:
        ValueError: if the array has not the scan's shape.
        OutputError: if the file cannot be written.
    """
    volume = np.asarray(array)
    volume = volume[0] if volume.ndim == 4 and volume.shape[0] == 1 else volume
    dtype = np.uint8 if volume.dtype in (np.uint8, np.bool_) else np.float32
    reference: Any = nib.load(reference_path)
    if volume.shape != reference.shape[:3]:
        raise ValueError(
            f"{reference_path}: the result {volume.shape} is not on the scan's grid {reference.shape[:3]}; "
            f"the postprocessing must end on it (Invertd)."
        )
    # From the header's bytes: also a .hdr/.img pair becomes a single file, without its extensions.
    scan = reference.header
    image_class: Any = nib.Nifti2Image if isinstance(scan, nib.Nifti2Header) else nib.Nifti1Image
    header = image_class.header_class(scan.binaryblock, scan.endianness, check=False)
    header.set_data_offset(0)  # nibabel puts the data right behind the header
    header.set_data_shape(volume.shape)
    header.set_data_dtype(dtype)
    header.set_intent("none")
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 1
    header["descrip"] = b"lesion mask" if dtype is np.uint8 else b"lesion probability"
    header["aux_file"] = b""
    # Without an affine nibabel keeps the header's sform, qform and codes as they are.
    content = image_class(np.ascontiguousarray(volume, dtype), None, header).to_bytes()
    # Level 1: masks shrink to nothing at any level, probabilities hardly at all. No time stamp.
    write_bytes(path, gzip.compress(content, 1, mtime=0) if str(path).endswith(".gz") else content)


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
    write_bytes(path, text.getvalue().encode())


class LesionWriter:
    """
    Handler that writes each scan's results into one folder, named by the case's ``name``.

    ``NAME_label-lesion_mask.nii.gz`` (uint8), ``NAME_label-lesion_probseg.nii.gz`` (float32, if asked
    for) and ``NAME_label-lesion.png``, the mask and probabilities on the grid of the file in the image's
    ``filename_or_obj``.

    Args:
        output_dir: the folder; created if need be.
        save_probability: write the probabilities too.
        save_picture: write the picture.
        channels: names of the image's channels, for the picture.
    """

    def __init__(
        self,
        output_dir: str | Path,
        save_probability: bool = False,
        save_picture: bool = True,
        channels: Sequence[str] = (),
    ) -> None:
        self.output_dir = Path(output_dir)
        self.save_probability = save_probability
        self.save_picture = save_picture
        self.channels = tuple(channels)

    def attach(self, engine: Engine) -> None:
        """Write after every iteration of ``engine``, whose output is a list of decollated cases."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """
        Write the results of the cases in ``engine.state``.

        Raises:
            OutputError: if a file cannot be written.
        """
        for case in engine_cases(engine):
            self.write(case)

    def write(self, case: Mapping[str, Any]) -> None:
        """Write one case: ``name``, ``image`` (preprocessed), ``pred`` and ``probability`` (native grid)."""
        make_output_folder(self.output_dir)
        start = str(self.output_dir / str(case["name"]))
        reference = case["image"].meta["filename_or_obj"]
        write_nifti(start + MASK_SUFFIX, _as_uint8(case["pred"]), reference)
        if self.save_probability:
            write_nifti(start + PROBABILITY_SUFFIX, case["probability"].cpu().numpy(), reference)
        if self.save_picture:
            sheet = lesion_sheet(case["image"], case["pred"], name=str(case["name"]), channels=self.channels)
            write_bytes(start + PICTURE_SUFFIX, sheet)


def engine_cases(engine: Engine) -> list[dict[str, Any]]:
    """
    The cases of the last iteration, each with what was loaded and what came out.

    MONAI's engines leave in ``state.output`` what the network and postprocessing made, and in
    ``state.batch`` all other keys, such as ``name``.
    """
    batch: Any = engine.state.batch
    output: Any = engine.state.output
    return [{**loaded, **made} for loaded, made in zip(batch, output, strict=True)]


def _as_uint8(mask: Any) -> np.ndarray:
    return mask.cpu().numpy().astype(np.uint8)

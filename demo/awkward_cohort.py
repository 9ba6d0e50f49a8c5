"""
A BIDS cohort of twelve scans, made of the demo's: each is awkward as real ones are, and three are broken.

    python demo/awkward_cohort.py cohort/
    strokeseg predict --model xnet cohort/ cohort/sourcedata/sub-08 --output lesions/

All show the same head in the same place, so that the same lesion must come out of all that are sound. DICOM
lies in ``sourcedata``, as BIDS wants it. Writing MHA, NRRD and DICOM takes the extra ``formats``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import typer
from monai.data import ITKWriter, MetaTensor
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from scipy import ndimage
from scipy.spatial.transform import Rotation

from shared_nets.data import head_mask

DEMO_SCAN = Path(__file__).parent / "chronic" / "sub-M2299_T1w.nii.gz"
HEAD_CENTRE_MM = (-10.0, 10.0, 0.0)  # of the demo's head, in its world
SERIES = "2.25.20240725"


def main(output: Annotated[Path, typer.Argument(help="Folder for the cohort.")]) -> None:
    """Make the cohort."""
    scan: Any = nib.load(DEMO_SCAN)
    description = {"Name": "Awkward scans of one head", "BIDSVersion": "1.10.0", "License": "CC0"}
    output.mkdir(parents=True, exist_ok=True)
    (output / "dataset_description.json").write_text(json.dumps(description, indent=2))

    # NIfTI-2 of 64-bit floats, much air around the head.
    image = on_grid(scan, mm=(2, 2, 2), size_mm=(300, 300, 260))
    save(nib.Nifti2Image(image.get_fdata(), image.affine), output / "sub-01/anat/sub-01_T1w.nii.gz")

    # Two sessions: big-endian, not compressed, the first axis to the left; integers with slope and intercept.
    image = on_grid(scan, mm=(2, 2, 2), axes="LAS")
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">u2")
    image = nib.Nifti1Image(image.get_fdata().astype(">u2"), image.affine, header)
    save(image, output / "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii")
    image = on_grid(scan, mm=(2, 2, 2))
    image = nib.Nifti1Image(((image.get_fdata() + 100) / 0.03).astype(np.int16), image.affine)
    image.header.set_slope_inter(0.03, -100)
    save(image, output / "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz")

    # A fourth axis of one volume, sagittal slices.
    image = on_grid(scan, mm=(2, 2, 2.5), axes="PSR")
    image = nib.Nifti1Image(image.get_fdata(dtype=np.float32)[..., None], image.affine)
    save(image, output / "sub-03/anat/sub-03_T1w.nii.gz")

    # MHA, oblique; NRRD, coronal slices of the middle of the head only.
    image = on_grid(scan, mm=(2, 2, 2), tilt=(25, 10, -20))
    path = output / "sub-04/anat/sub-04_T1w.mha"
    path.parent.mkdir(parents=True)
    writer = ITKWriter(output_dtype=np.float32)
    writer.set_data_array(image.get_fdata(dtype=np.float32), channel_dim=None)
    writer.set_metadata({"affine": image.affine})
    writer.write(path)
    image = on_grid(scan, mm=(2, 2, 4), axes="LIP", size_mm=(190, 110, 230), centre_mm=(-10, 10, 20))
    save_nrrd(image, output / "sub-05/anat/sub-05_T1w.nrrd")

    # Voxels of 0.4 × 0.4 × 8 mm, tilted as scanners are set up; a brain without its skull.
    image = on_grid(scan, mm=(0.4, 0.4, 8), tilt=(15, 0, 0), size_mm=(190, 220, 200))
    save(image, output / "sub-06/anat/sub-06_T1w.nii.gz")
    image = on_grid(scan, mm=(1.5, 1.5, 2))
    image = nib.Nifti1Image(image.get_fdata(dtype=np.float32) * brain(image), image.affine)
    save(image, output / "sub-07/anat/sub-07_rec-brain_T1w.nii.gz")

    save_dicom(on_grid(scan, mm=(2, 2, 2), axes="PIR"), output / "sourcedata/sub-08")

    # Broken: cut short; several volumes; not a number.
    whole = (output / "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz").read_bytes()
    path = output / "sub-09/anat/sub-09_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(whole[: len(whole) // 3])
    image = on_grid(scan, mm=(4, 4, 4))
    voxels, affine = image.get_fdata(dtype=np.float32), image.affine
    save(nib.Nifti1Image(np.stack([voxels] * 5, -1), affine), output / "sub-10/anat/sub-10_T1w.nii.gz")
    voxels[10:20] = np.nan
    save(nib.Nifti1Image(voxels, affine), output / "sub-11/anat/sub-11_T1w.nii.gz")
    print(f"12 scans: {output} (11, BIDS) and {output / 'sourcedata/sub-08'} (DICOM)")


def on_grid(
    scan: Any,
    mm: Sequence[float],
    axes: str = "RAS",
    tilt: Sequence[float] = (0, 0, 0),
    size_mm: Sequence[float] = (200, 240, 240),
    centre_mm: Sequence[float] = HEAD_CENTRE_MM,
) -> nib.Nifti1Image:
    """
    The scan on another grid, which lies elsewhere in the same space.

    Args:
        scan: a nibabel image.
        mm: voxel size along the grid's axes.
        axes: where the grid's axes run to.
        tilt: turns about world x, y and z, degrees.
        size_mm: field of view along world x, y and z before the tilt.
        centre_mm: its centre in the world.
    """
    order = nib.orientations.axcodes2ornt(tuple(axes))
    matrix = np.zeros((3, 3))
    for axis, (world, direction) in enumerate(order):
        matrix[int(world), axis] = direction * mm[axis]
    shape = [round(size_mm[int(world)] / mm[axis]) for axis, (world, _) in enumerate(order)]
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() @ matrix
    affine[:3, 3] = np.array(centre_mm) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    made = resample_from_to(scan, (shape, affine), order=1)
    return nib.Nifti1Image(np.clip(made.get_fdata(), 0, None), affine)


def brain(image: nib.Nifti1Image) -> NDArray[np.bool_]:
    """A rough mask of the brain: what lies 14 mm under the head's surface."""
    head = head_mask(MetaTensor(image.get_fdata()[None], affine=image.affine))[0]
    return np.asarray(ndimage.distance_transform_edt(head, sampling=image.header.get_zooms()) > 14)


def save(image: Any, path: Path) -> None:
    """Write NIfTI with millimetres as its unit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def save_nrrd(image: nib.Nifti1Image, path: Path) -> None:
    """Write NRRD, whose world runs to left, posterior and superior."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1, -1, 1, 1]) @ image.affine
    place = {"space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    header = {"space": "left-posterior-superior", "kinds": ["domain"] * 3, **place}
    nrrd.write(str(path), image.get_fdata(dtype=np.float32), header)


def save_dicom(image: nib.Nifti1Image, folder: Path) -> None:
    """Write a DICOM series, a file a slice, whose world runs to left, posterior and superior."""
    folder.mkdir(parents=True)
    voxels = image.get_fdata().astype(np.uint16)
    affine = np.diag([-1, -1, 1, 1]) @ image.affine
    mm = np.linalg.norm(affine[:3, :3], axis=0)
    for number in range(voxels.shape[2]):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = MRImageStorage
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number + 1}"
        one.StudyInstanceUID, one.SeriesInstanceUID = f"{SERIES}.0", SERIES
        one.PatientID, one.Modality, one.InstanceNumber = "sub-08", "MR", number + 1
        # Columns run along the first axis, rows along the second.
        one.ImageOrientationPatient = [*(affine[:3, 0] / mm[0]), *(affine[:3, 1] / mm[1])]
        one.ImagePositionPatient = list((affine @ [0, 0, number, 1])[:3])
        one.PixelSpacing, one.SliceThickness = [mm[1], mm[0]], mm[2]
        one.Columns, one.Rows = voxels.shape[:2]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.PixelData = voxels[:, :, number].T.tobytes()
        one.save_as(folder / f"{number + 1:03d}.dcm", enforce_file_format=True)


if __name__ == "__main__":
    typer.run(main)

"""Scans that are no NIfTI files: the same voxels in the same places as the NIfTI file they were made from."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from shared_nets.data import LoadScand, ScanWarning
from shared_nets.data.cases import find_cases
from shared_nets.data.datalist import make_data_list
from shared_nets.data.datasets import read_folder
from shared_nets.data.formats import is_dicom_series
from shared_nets.errors import ScanGeometryError, ScanNotFoundError, UnreadableScanError
from tests.data.conftest import asymmetric

pydicom = pytest.importorskip("pydicom")
nrrd = pytest.importorskip("nrrd")
TURN = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([4.0, 5.0, 6.0]), [-40, -60, -50]
)
LPS = np.diag([-1.0, -1, 1, 1])


def volume() -> np.ndarray:
    return asymmetric((20, 22, 18)).astype(np.int16)


def write_series(
    folder: Path, array: np.ndarray, affine: np.ndarray, numbers: list[int] | None = None
) -> Path:
    """One file a slice, by the standard's equation C.7.6.2.1-1, from an affine to RAS."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True)
    lps = LPS @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    uid = generate_uid()
    for k in range(array.shape[2]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        ds: Dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = (
            MRImageStorage,
            meta.MediaStorageSOPInstanceUID,
            uid,
        )
        ds.Modality, ds.InstanceNumber = "MR", (numbers or range(1, 10**4))[k]
        # Columns run along the first axis, rows along the second.
        ds.ImageOrientationPatient = [*(lps[:3, 0] / sizes[0]), *(lps[:3, 1] / sizes[1])]
        ds.ImagePositionPatient = list((lps @ [0, 0, k, 1])[:3])
        ds.PixelSpacing, ds.SliceThickness = [sizes[1], sizes[0]], sizes[2]
        ds.Columns, ds.Rows = array.shape[:2]
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 1, 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.RescaleSlope, ds.RescaleIntercept = 2, -10
        ds.PixelData = np.ascontiguousarray(((array[:, :, k] + 10) // 2).T.astype("<i2")).tobytes()
        ds.save_as(folder / f"{k:03d}.dcm", enforce_file_format=True)
    return folder


def write_nrrd(
    path: Path, array: np.ndarray, affine: np.ndarray, space: str = "left-posterior-superior"
) -> Path:
    header = {"space": space, "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    nrrd.write(str(path), array, header)
    return path


def write_mha(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """By the format's text header, with no library: TransformMatrix has an axis a row."""
    lps = LPS @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    path.write_bytes(
        "\n".join(
            [
                "ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False",
                "TransformMatrix = " + " ".join(map(repr, (lps[:3, :3] / sizes).T.ravel().tolist())),
                "Offset = " + " ".join(map(repr, lps[:3, 3].tolist())),
                "ElementSpacing = " + " ".join(map(repr, sizes.tolist())),
                "DimSize = " + " ".join(map(str, array.shape)),
                "ElementType = MET_SHORT", "ElementDataFile = LOCAL\n",
            ]
        ).encode() + array.astype("<i2").tobytes(order="F")
    )  # fmt: skip
    return path


def load(scan: object) -> MetaTensor:
    return LoadScand()({"image": scan})["image"]


def check(scan: object, array: np.ndarray, affine: np.ndarray = TURN) -> None:
    loaded = load(scan)
    np.testing.assert_allclose(loaded.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(loaded[0], array)


@pytest.mark.parametrize("flip", [1, -1])
def test_mha(tmp_path: Path, flip: int) -> None:
    pytest.importorskip("itk")
    affine = TURN @ np.diag([flip, 1, 1, 1.0])  # left- and right-handed axes
    check(write_mha(tmp_path / "a.mha", volume(), affine), volume(), affine)


def test_mha_with_a_mask_goes_into_a_data_list(tmp_path: Path) -> None:
    pytest.importorskip("itk")
    for name in ("a", "b"):
        write_mha(tmp_path / f"{name}.mha", volume(), TURN)
        nib.save(nib.Nifti1Image(np.ones(volume().shape, np.uint8), TURN), tmp_path / f"{name}_mask.nii.gz")
    found = read_folder(tmp_path)
    assert make_data_list(found, tmp_path / "list.json", folds=2, quiet=True).startswith("2 labelled cases")


@pytest.mark.parametrize(
    ("space", "flips"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("LAS", (-1, 1, 1)),
    ],
)
def test_nrrd_in_every_space(tmp_path: Path, space: str, flips: tuple[int, ...]) -> None:
    check(write_nrrd(tmp_path / "a.nrrd", volume(), np.diag([*flips, 1]) @ TURN, space), volume())


def test_nrrd_with_one_volume_in_a_list(tmp_path: Path) -> None:
    lps = LPS @ TURN
    directions = np.vstack([[np.nan] * 3, lps[:3, :3].T])
    header = {
        "space": "left-posterior-superior", "space directions": directions, "space origin": lps[:3, 3],
        "kinds": ["list", "domain", "domain", "domain"],
    }  # fmt: skip
    nrrd.write(str(tmp_path / "one.nrrd"), volume()[None], header)
    check(tmp_path / "one.nrrd", volume())
    nrrd.write(str(tmp_path / "two.nrrd"), np.stack([volume()] * 2), header)
    with pytest.raises(ScanGeometryError, match=r"two\.nrrd holds 2 volumes"):
        load(str(tmp_path / "two.nrrd"))


@pytest.mark.parametrize("order", ["up", "down", "mixed"])
def test_dicom_whatever_the_slices_numbers(tmp_path: Path, order: str) -> None:
    array = volume()
    n = array.shape[2]
    up = list(range(1, n + 1))
    numbers = {"up": up, "down": up[::-1], "mixed": [7 * i % n + 1 for i in range(n)]}[order]
    folder = write_series(tmp_path / "1.2.840.10", array, TURN, numbers)
    (folder / "notes.txt").write_text("not a slice")
    assert is_dicom_series(folder)
    loaded = load(folder)
    # The stack may run along the slices' normal or against it: the same voxels at the same places.
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(loaded[0]), np.asarray(loaded.affine)))
    expected = nib.as_closest_canonical(nib.Nifti1Image(array // 2 * 2, TURN))
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-3)
    np.testing.assert_array_equal(image.get_fdata(), expected.get_fdata())


def test_dicom_as_it_lies_on_a_hospitals_disc(tmp_path: Path) -> None:
    """A table of contents at the root, one beside the slices, another folder there, brackets in a name."""
    disc = tmp_path / "disc"
    folder = write_series(disc / "T1 [MPRAGE]", volume(), TURN)
    contents = write_series(tmp_path / "other", volume()[:, :, :1], TURN) / "000.dcm"
    for place in (disc, folder):
        (place / "DICOMDIR").write_bytes(contents.read_bytes())
    (folder / "reports").mkdir()
    assert [case["image"] for case in find_cases(disc)] == [str(folder)]
    assert load(folder).shape[1:] == volume().shape


def test_images_in_memory() -> None:
    array = volume()
    check(nib.Nifti1Image(array, TURN), array)
    check(nib.Nifti2Image(array[..., None], TURN), array)
    check(nib.MGHImage(array, TURN.astype(np.float32)), array)
    check(MetaTensor(torch.from_numpy(array), affine=TURN), array)
    check(MetaTensor(torch.from_numpy(array)[None], affine=TURN), array)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_tensors_of_types_that_nifti_has_not(kind: torch.dtype) -> None:
    tensor = torch.from_numpy(volume()).to(kind)
    check(MetaTensor(tensor, affine=TURN), tensor.float().numpy())


# ---- what is not right ----


def test_a_second_series_in_the_folder(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "both", volume(), TURN)
    other = write_series(tmp_path / "other", volume(), TURN)
    for path in other.iterdir():
        path.rename(folder / f"x{path.name}")
    with pytest.raises(ScanGeometryError, match=r"both holds 2 DICOM series"):
        load(folder)


def test_a_missing_slice(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "gap", volume(), TURN)
    (folder / "005.dcm").unlink()
    with pytest.raises(ScanGeometryError, match=r"gap has uneven gaps .*6\.00 to 12\.00 mm"):
        load(folder)


def test_two_volumes_in_one_series(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "dwi", np.concatenate([volume()] * 2, axis=2), TURN)
    ds = sorted(folder.iterdir())
    for first, second in zip(ds[:18], ds[18:], strict=True):
        one, two = pydicom.dcmread(first), pydicom.dcmread(second)
        two.ImagePositionPatient = one.ImagePositionPatient
        two.save_as(second)
    with pytest.raises(ScanGeometryError, match="several DICOM slices at one position"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mha", b"", "MetaImage"),
        ("a.mha", b"ObjectType = Image\nNDims = 3\n", "MetaImage"),
        ("a.nrrd", b"", "NRRD"),
        ("a.nrrd", b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9 9 9\nencoding: raw\n\nshort", "NRRD"),
        ("a.nhdr", b"no header at all", "NRRD"),
    ],
)  # fmt: skip
def test_broken_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    if name.endswith("mha"):
        pytest.importorskip("itk")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableScanError, match=f"cannot be read as {words}") as error:
        load(str(tmp_path / name))
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_truncated_mha(tmp_path: Path) -> None:
    pytest.importorskip("itk")
    path = write_mha(tmp_path / "a.mha", volume(), TURN)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UnreadableScanError, match="cannot be read as MetaImage"):
        load(path)


def test_a_truncated_slice(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "cut", volume(), TURN)
    path = folder / "003.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnreadableScanError, match="cannot be read as a DICOM series"):
        load(folder)


def test_slices_that_do_not_say_how_large_their_pixels_are(tmp_path: Path) -> None:
    """They would count as of 1 mm."""
    folder = write_series(tmp_path / "series", volume(), TURN)
    first, *others = sorted(folder.iterdir())
    one = pydicom.dcmread(first)
    one.PixelSpacing = [2 * float(mm) for mm in one.PixelSpacing]
    one.save_as(first)
    with pytest.raises(ScanGeometryError, match="DICOM slices of 2 sizes or orientations"):
        load(folder)
    del one.PixelSpacing
    one.save_as(first)
    with pytest.raises(ScanGeometryError, match=r"do not say where they lie: convert .* dcm2niix"):
        load(folder)
    for path in others:
        path.unlink()
    with pytest.raises(ScanGeometryError, match=r"one DICOM file: .* \(enhanced DICOM\) with dcm2niix"):
        load(folder)


def test_nrrd_without_its_space_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "a.nrrd")
    directions = {"space dimension": 3, "space directions": 4 * np.eye(3), "space origin": np.zeros(3)}
    nrrd.write(path, volume(), directions)
    with pytest.warns(ScanWarning, match=r"a\.nrrd does not say which way its axes lead .* taken for LPS"):
        load(path)


def test_nrrd_that_does_not_say_where_it_lies(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), volume())
    with pytest.raises(ScanGeometryError, match="does not say where its voxels lie"):
        load(tmp_path / "a.nrrd")


@pytest.mark.parametrize("name", ["gone.mha", "gone.nrrd"])
def test_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScanNotFoundError, match=re.escape(name)):
        load(tmp_path / name)


def test_a_library_that_is_not_installed_is_named(tmp_path: Path) -> None:
    scans = [
        write_series(tmp_path / "series", volume(), TURN),
        write_nrrd(tmp_path / "a.nrrd", volume(), TURN),
        write_mha(tmp_path / "a.mha", volume(), TURN),
    ]
    code = (
        "import sys\n"
        "for name in ('pydicom', 'nrrd', 'itk'): sys.modules[name] = None\n"
        "from shared_nets.data import LoadScand\n"
        "from shared_nets.errors import UnreadableScanError\n"
        "for scan in sys.argv[1:]:\n"
        "    try: LoadScand()({'image': scan})\n"
        "    except UnreadableScanError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, scans)], capture_output=True, text=True)
    told = done.stdout.splitlines()
    assert len(told) == 3, done.stderr
    for line, scan, library in zip(told, scans, ("pydicom", "pynrrd", "itk-io"), strict=True):
        assert line.startswith(f"{scan} is ")
        assert f"a library that is not installed: pip install {library}, or convert" in line

"""Outputs: the scan's header, whole files only, and words when the disk says no."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from shared_nets.errors import OutputError
from shared_nets.inference import write_nifti, write_table
from tests.traps import full_disk

SHAPE = (6, 7, 5)
OBLIQUE = np.array([[0.0, -0.9, 0.5, 30], [1.1, 0.1, 0, -20], [0, 0.6, 2.5, 7], [0, 0, 0, 1]])


def scan(path: Path, kind: str = "oblique") -> Path:
    """A scaled int16 scan with everything in its header that a result must keep or must not."""
    shape = (*SHAPE, 1) if kind == "4d" else SHAPE
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if kind == "nifti2":
        image = nib.Nifti2Image(data, OBLIQUE)
    elif kind == "pair":
        image = nib.Nifti1Pair(data, OBLIQUE)
    elif kind == "big endian":
        image = nib.Nifti1Image(data, OBLIQUE, nib.Nifti1Header(endianness=">"))
    else:
        image = nib.Nifti1Image(data, OBLIQUE)
    image.set_data_dtype(np.int16)
    if kind == "qform only":
        straight = np.diag([-2.0, 2.0, 3.0, 1.0])
        image.set_sform(None, 0)
        image.set_qform(straight, 1)
    elif kind == "differing codes":
        image.set_sform(OBLIQUE, 4)
        image.set_qform(np.diag([1.0, 1.0, 2.5, 1.0]), 1)
    else:
        image.set_sform(OBLIQUE, 2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Patient Name"
    image.header["cal_max"] = 4000
    image.header.set_dim_info(1, 0, 2)
    if kind != "pair":
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"about the scan"))
    nib.save(image, path)
    return path


KINDS = ["oblique", "4d", "qform only", "differing codes", "nifti2", "pair", "big endian"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_scans_grid_and_nothing_else_of_it(tmp_path: Path, kind: str, dtype: type) -> None:
    reference = scan(tmp_path / ("scan.img" if kind == "pair" else "scan.nii.gz"), kind)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    array = (np.random.default_rng(1).random((1, *SHAPE)) > 0.5).astype(dtype) * dtype(1)
    write_nifti(tmp_path / "out.nii.gz", array, reference)

    assert {path: path.read_bytes() for path in before} == before
    scan_, result = nib.load(reference), nib.load(tmp_path / "out.nii.gz")
    assert result.shape == SHAPE
    assert result.get_data_dtype().newbyteorder("=") == dtype
    np.testing.assert_array_equal(np.asarray(result.dataobj), array[0])
    np.testing.assert_array_equal(result.affine, scan_.affine)
    for form in ("get_sform", "get_qform"):
        expected, code = getattr(scan_.header, form)(coded=True)
        found, found_code = getattr(result.header, form)(coded=True)
        assert found_code == code
        if expected is None:
            assert found is None
        else:
            np.testing.assert_array_equal(found, expected)
    assert result.header.get_zooms() == scan_.header.get_zooms()[:3]
    assert result.header.get_xyzt_units() == scan_.header.get_xyzt_units()
    assert result.header.get_dim_info() == scan_.header.get_dim_info()
    assert not result.header.extensions
    assert result.header.get_slope_inter() in ((1, 0), (None, None))
    assert (float(result.header["cal_min"]), float(result.header["cal_max"])) == (0, 1)
    assert b"Patient" not in result.header["descrip"].tobytes()


def test_types(tmp_path: Path) -> None:
    reference = scan(tmp_path / "scan.nii")
    for given, written in ((bool, np.uint8), (np.uint8, np.uint8), (np.float64, np.float32)):
        write_nifti(tmp_path / "out.nii", np.ones(SHAPE, given), reference)
        assert nib.load(tmp_path / "out.nii").get_data_dtype() == written


@pytest.mark.parametrize(("lesions", "written"), [(3, np.uint16), (65535, np.uint16), (65536, np.int32)])
def test_numbers_of_lesions_are_kept_however_many(tmp_path: Path, lesions: int, written: type) -> None:
    labels = np.zeros(SHAPE, np.int32)
    labels[0, 0, 0] = lesions
    write_nifti(tmp_path / "out.nii", labels, scan(tmp_path / "scan.nii"))
    result = nib.load(tmp_path / "out.nii")
    assert result.get_data_dtype() == written
    np.testing.assert_array_equal(np.asarray(result.dataobj), labels)
    assert float(result.header["cal_max"]) == lesions  # viewers show all of them


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    reference = scan(tmp_path / "scan.nii.gz")
    array = np.random.default_rng(2).random(SHAPE).astype(np.float32)
    for name in ("one.nii.gz", "two.nii.gz"):
        write_nifti(tmp_path / name, array, reference)
    one = (tmp_path / "one.nii.gz").read_bytes()
    assert one == (tmp_path / "two.nii.gz").read_bytes()
    assert one[4:8] == bytes(4)  # gzip's time stamp


def test_the_reference_may_be_replaced_only_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not on the scan's grid"):
        write_nifti(tmp_path / "out.nii.gz", np.zeros((5, 5, 5), np.uint8), scan(tmp_path / "scan.nii.gz"))
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_a_table(tmp_path: Path) -> None:
    rows = [{"scan": "a, b", "volume_ml": 1.5}, {"scan": "ç", "message": 'he said "no"'}]
    write_table(tmp_path / "t.csv", rows, ["scan", "volume_ml", "message"])
    expected = 'scan,volume_ml,message\n"a, b",1.5,\nç,,"he said ""no"""\n'
    assert (tmp_path / "t.csv").read_bytes() == expected.encode()
    write_table(tmp_path / "counts.csv", [{"n": 2}, {"x": 0.1}], ["n", "x"])
    assert (tmp_path / "counts.csv").read_text() == "n,x\n2,\n,0.1\n"
    write_table(tmp_path / "t.csv", rows[:1], ["scan"])
    assert pd.read_csv(tmp_path / "t.csv").to_dict("list") == {"scan": ["a, b"]}
    write_table(tmp_path / "empty.csv", [], ["scan", "message"])
    assert (tmp_path / "empty.csv").read_text() == "scan,message\n"


@pytest.mark.parametrize("existing", [None, b"the earlier result"])
def test_a_full_disk_leaves_no_half_file(tmp_path: Path, existing: bytes | None) -> None:
    reference = scan(tmp_path / "scan.nii.gz")
    target = tmp_path / "out" / "probseg.nii"
    target.parent.mkdir()
    if existing is not None:
        target.write_bytes(existing)
    with full_disk(), pytest.raises(OutputError) as raised:
        write_nifti(target, np.zeros(SHAPE, np.float32), reference)
    reason = "there is no space left; free some, or choose another output folder."
    assert str(raised.value) == f"{target} cannot be written: {reason}"
    left = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    assert left == ({} if existing is None else {target.name: existing})

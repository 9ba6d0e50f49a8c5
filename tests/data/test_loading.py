"""LoadScand and LoadMaskd: what they give for good files, and what they say about every kind of bad one."""

from __future__ import annotations

import gzip
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd, Spacingd
from scipy.ndimage import map_coordinates

from shared_nets.data import (
    LoadMaskd,
    LoadOneChanneld,
    LoadScand,
    ScanWarning,
    head_mask,
    pooled_cases,
    read_scan,
)
from shared_nets.errors import (
    MaskError,
    ScanGeometryError,
    ScanIntensityError,
    ScanMismatchError,
    ScanNotFoundError,
    StrokeSegError,
    UnreadableScanError,
    UsageError,
)

PAIR = ("DWI", "FLAIR")


def head_affine(mm: float = 5.0) -> np.ndarray:
    affine = np.diag([mm, mm, mm, 1.0])
    affine[:3, 3] = -60
    return affine


def voxels(shape: tuple[int, ...] = (24, 26, 22)) -> np.ndarray:
    """Every voxel its own value: 1, 2, 3..."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def load(path: Any, modalities: tuple[str, ...] = ("T1w",)) -> MetaTensor:
    return LoadScand(modalities=modalities)({"image": path})["image"]


@pytest.fixture(autouse=True)
def _no_surprising_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScanWarning)
        # The ramps of these tests are no heads.
        warnings.filterwarnings("ignore", ".* shows? (an object|heads) of ", ScanWarning)
        yield


def one_sentence(error: BaseException, *files: Any) -> None:
    said = str(error)
    assert "\n" not in said
    assert said.endswith(".")
    assert all(str(f) in said for f in files)


# ---- good scans ----


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64", ">i2", ">f4"]
)
def test_voxels_and_affine_arrive_as_stored(tmp_path: Path, suffix: str, dtype: str) -> None:
    array = (voxels() % 200).astype(dtype)
    path = tmp_path / f"a{suffix}"
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(np.dtype(dtype))
    nib.save(nib.Nifti1Image(array, head_affine(), header, dtype=np.dtype(dtype)), path)
    image = load(str(path))
    assert image.shape == (1, 24, 26, 22)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.numpy()[0], array.astype(np.float32))
    np.testing.assert_allclose(image.affine.numpy(), head_affine())
    np.testing.assert_allclose(image.meta["original_affine"], head_affine())
    assert image.meta["filename_or_obj"] == str(path)
    assert list(image.meta["spatial_shape"]) == [24, 26, 22]


def test_scaled_integers(tmp_path: Path) -> None:
    image = nib.Nifti1Image((voxels() % 100).astype(np.int16), head_affine())
    image.header.set_slope_inter(0.5, 7)
    path = tmp_path / "a.nii.gz"
    nib.save(image, path)
    stored = nib.load(path).get_fdata()
    np.testing.assert_allclose(load(path).numpy()[0], stored, rtol=1e-6)


def test_nifti2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(voxels(), head_affine()), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(load(tmp_path / "a.nii.gz").numpy()[0], voxels())


def test_a_list_of_one_path_and_a_trailing_axis(write_scan: Any) -> None:
    path = write_scan("a.nii.gz", voxels()[..., None])
    np.testing.assert_array_equal(load([str(path)]).numpy()[0], voxels())


def test_names_with_spaces_and_umlauts(write_scan: Any) -> None:
    path = write_scan("Straße von Müller/scan 1 é.nii.gz", voxels())
    assert load(path).shape == (1, 24, 26, 22)


def test_other_keys_pass_untouched(write_scan: Any) -> None:
    path = str(write_scan("a.nii.gz"))
    case = {"image": path, "image_path": path, "name": "a", "fold": 3, "label": ["m"]}
    loaded = LoadScand()(case)
    assert {k: loaded[k] for k in loaded if k != "image"} == {k: case[k] for k in case if k != "image"}
    assert case["image"] == path


def test_a_missing_key_is_an_error_unless_allowed() -> None:
    with pytest.raises(KeyError):
        LoadScand()({"name": "a"})
    assert LoadScand(allow_missing_keys=True)({"name": "a"}) == {"name": "a"}


def test_transforms_and_results_survive_pickling(write_scan: Any) -> None:
    path = str(write_scan("a.nii.gz", voxels()))
    transform, case = pickle.loads(pickle.dumps((LoadScand(), {"image": path})))
    image = pickle.loads(pickle.dumps(transform(case)["image"]))
    np.testing.assert_array_equal(image.numpy()[0], voxels())
    assert image.meta["filename_or_obj"] == path


def test_the_result_does_not_write_to_the_file(write_scan: Any) -> None:
    path = write_scan("a.nii", voxels())
    before = path.read_bytes()
    load(path)[:] = 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ARS", "SLP", "PIR", "IAR", "RSA", "LAS"])
def test_every_axis_order_gives_the_same_oriented_array(write_scan: Any, axes: str) -> None:
    native = nib.Nifti1Image(voxels(), head_affine())
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    )
    turned = native.as_reoriented(turn)
    path = write_scan("a.nii.gz", np.asarray(turned.dataobj), turned.affine)
    oriented = Compose([LoadScand(), Orientationd("image", "ARS")])({"image": str(path)})["image"]
    np.testing.assert_array_equal(oriented.numpy()[0], voxels().transpose(1, 0, 2))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SLP"])
def test_invertd_returns_to_the_native_grid(write_scan: Any, axes: str) -> None:
    # An oblique affine in another axis order, and a box of lesion off the middle.
    array = np.zeros((24, 26, 22), dtype=np.float32)
    array[4:20, 4:22, 3:19] = 100
    array[7:12, 14:19, 6:14] = 300
    turn = np.eye(4)
    turn[:3, :3] = [[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]
    image = nib.Nifti1Image(array, turn @ head_affine())
    codes = nib.orientations.axcodes2ornt
    image = image.as_reoriented(nib.orientations.ornt_transform(codes("RAS"), codes(axes)))
    path = write_scan("a.nii.gz", np.asarray(image.dataobj), image.affine)
    forward = Compose(
        [
            LoadScand(),
            Orientationd("image", "ARS"),
            Spacingd("image", (2.5, 2.5, -1)),
            CropForegroundd("image", source_key="image", select_fn=head_mask, margin=1),
        ]
    )
    data = forward({"image": str(path)})
    data["pred"] = (data["image"] > 200).float()
    back = Invertd("pred", transform=forward, orig_keys="image", nearest_interp=False)(data)["pred"]
    truth = np.asarray(image.dataobj) > 200
    assert back.shape == (1, *truth.shape)
    np.testing.assert_allclose(back.affine.numpy(), image.affine, atol=1e-6)
    np.testing.assert_array_equal(back.numpy()[0] > 0.5, truth)


# ---- DWI and FLAIR ----


def test_flair_on_the_dwi_grid(write_scan: Any) -> None:
    dwi = write_scan("d.nii.gz", voxels())
    flair = write_scan("f.nii.gz", voxels() * 2)
    image = load([str(dwi), str(flair)], PAIR)
    np.testing.assert_allclose(image.numpy(), np.stack([voxels(), voxels() * 2]))
    assert image.meta["filename_or_obj"] == str(dwi)


def test_flair_on_another_grid_is_resampled_linearly(write_scan: Any) -> None:
    # FLAIR: other voxel size, axes and origin; a linear ramp in space, so there is one right answer.
    def ramp(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
        ijk = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        xyz = nib.affines.apply_affine(affine, ijk)
        return (500 + xyz @ [1.0, 2.0, 3.0]).astype(np.float32)

    flair_affine = np.array([[0, 0, -4.0, 60], [6.0, 0, 0, -63], [0, 7.0, 0, -50], [0, 0, 0, 1]])
    dwi = write_scan("d.nii.gz", ramp((24, 26, 22), head_affine()))
    flair_array = ramp((20, 15, 30), flair_affine)
    flair = write_scan("f.nii.gz", flair_array, flair_affine)
    image = load([str(dwi), str(flair)], PAIR).numpy()
    ijk = np.stack(np.meshgrid(*map(np.arange, (24, 26, 22)), indexing="ij"))
    there = nib.affines.apply_affine(np.linalg.inv(flair_affine) @ head_affine(), np.moveaxis(ijk, 0, -1))
    inside = ((there >= 0) & (there <= np.array([19, 14, 29]))).all(-1)
    assert 0.3 < inside.mean() < 1
    np.testing.assert_allclose(image[1][inside], image[0][inside], rtol=1e-3)
    expected = map_coordinates(flair_array, np.moveaxis(there, -1, 0), order=1, mode="grid-constant")
    np.testing.assert_allclose(image[1], expected, atol=0.1)
    outside = ((there < -1) | (there > np.array([20, 15, 30]))).any(-1)
    assert outside.any()
    assert not image[1][outside].any()


def test_where_a_z_scored_flair_does_not_reach_it_is_as_dark_as_its_background(write_scan: Any) -> None:
    """Its air is below 0: zeros would be grey there."""
    head = voxels() / 1000
    head[:3], head[-3:], head[:, :3], head[:, -3:], head[..., :3] = [-0.74] * 5
    dwi = write_scan("d.nii.gz", voxels())
    flair = write_scan("f.nii.gz", head[..., :15].astype(np.float32))
    image = load([str(dwi), str(flair)], PAIR).numpy()
    np.testing.assert_allclose(image[1][..., :14], head[..., :14], atol=1e-4)
    assert (image[1][..., 16:] == np.float32(-0.74)).all()


def test_missing_modalities_are_zeros(write_scan: Any) -> None:
    dwi, flair = str(write_scan("d.nii.gz", voxels())), str(write_scan("f.nii.gz", voxels()[:, :20]))
    for files in ([dwi, None], [dwi], dwi):
        image = load(files, PAIR)
        np.testing.assert_array_equal(image.numpy(), np.stack([voxels(), 0 * voxels()]))
    image = load([None, flair], PAIR)
    np.testing.assert_array_equal(image.numpy(), np.stack([0 * voxels()[:, :20], voxels()[:, :20]]))
    assert image.meta["filename_or_obj"] == flair
    assert list(image.meta["spatial_shape"]) == [24, 20, 22]


def test_a_flair_alone_is_told_where_that_is_asked_for(write_scan: Any) -> None:
    flair = str(write_scan("sub-1_FLAIR.nii.gz", voxels()))
    loader = LoadScand(modalities=PAIR, tell_lone_second=True)
    for image in (flair, [None, flair]):
        with pytest.warns(ScanWarning, match=r"sub-1_FLAIR\.nii\.gz is a FLAIR without its DWI"):
            loader({"image": image, "label": "mask.nii.gz"})
    loader({"image": [str(write_scan("sub-1_dwi.nii.gz", voxels())), None]})  # a warning would fail the test


def test_a_single_file_named_flair_is_the_second_channel(write_scan: Any) -> None:
    image = load(str(write_scan("sub-1_FLAIR.nii.gz", voxels())), PAIR)
    assert not image[0].any()
    np.testing.assert_array_equal(image.numpy()[1], voxels())


@pytest.mark.parametrize("vector_axis", [False, True])
def test_a_stacked_file(write_scan: Any, vector_axis: bool) -> None:
    array = np.stack([voxels(), voxels()[::-1]], -1)
    # ITK keeps channels on the fifth axis.
    path = write_scan("s.nii.gz", array[:, :, :, None] if vector_axis else array)
    with pytest.warns(ScanWarning, match="two volumes: the first is taken for DWI, the second for FLAIR"):
        image = load(str(path), PAIR)
    np.testing.assert_array_equal(image.numpy(), np.moveaxis(array, -1, 0))


def test_a_sibling_in_the_folder_flair(write_scan: Any) -> None:
    dwi = str(write_scan("ID.nii.gz", voxels()))
    assert not load(dwi, PAIR)[1].any()
    write_scan("flair/ID.nii.gz", voxels() * 3)
    image = load(dwi, PAIR)
    np.testing.assert_allclose(image.numpy()[1], voxels() * 3)
    assert image.meta["filename_or_obj"] == dwi


def test_a_sibling_may_bear_the_name_of_its_dwi(write_scan: Any, recwarn: pytest.WarningsRecorder) -> None:
    write_scan("flair/sub-01_dwi.nii.gz", voxels())
    load(str(write_scan("sub-01_dwi.nii.gz", voxels())), PAIR)
    assert not [one for one in recwarn if "taken for" in str(one.message)]


def test_pooled_each_case_is_the_modalities_it_has(write_scan: Any, tmp_path: Path) -> None:
    """A FLAIR that is not there must not become a sample of zeros with a lesion."""
    files = {
        name: str(write_scan(f"{name}.nii.gz", voxels()))
        for name in ("a_dwi", "b_FLAIR", "c", "d", "e_dwi", "g_dwi", "g_FLAIR", "flair/d", "flair/e_dwi")
    }
    stack = str(write_scan("f.nii.gz", np.stack([voxels(), voxels()], -1)))
    absent = str(tmp_path / "absent.nii.gz")
    source = [
        *({"image": files[name]} for name in ("a_dwi", "b_FLAIR", "c", "d", "e_dwi")),
        *({"image": image} for image in (stack, absent, [files["g_dwi"], files["g_FLAIR"]])),
    ]
    cases = pooled_cases(source)
    assert [case["name"] for case in cases] == [
        "a_dwi_DWI", "b_FLAIR_FLAIR", "c_DWI", "d_DWI", "d_FLAIR", "e_dwi_DWI", "e_dwi_FLAIR",
        "f_DWI", "f_FLAIR", "absent_DWI", "g_DWI", "g_FLAIR",
    ]  # fmt: skip
    load_one = LoadOneChanneld("image", modalities=PAIR)
    warnings.filterwarnings("ignore", ".* holds two volumes", ScanWarning)
    for case in cases:
        if case["name"] != "absent_DWI":
            np.testing.assert_array_equal(load_one(case)["image"].numpy(), voxels()[None])


def test_scans_that_do_not_overlap(write_scan: Any) -> None:
    far = head_affine()
    far[0, 3] += 500
    dwi, flair = write_scan("d.nii.gz"), write_scan("f.nii.gz", None, far)
    with pytest.raises(ScanMismatchError, match="do not overlap") as error:
        load([str(dwi), str(flair)], PAIR)
    one_sentence(error.value, dwi, flair)


def test_scans_that_hardly_overlap_warn(write_scan: Any) -> None:
    far = head_affine()
    far[0, 3] += 80  # of 120 mm
    dwi, flair = write_scan("d.nii.gz"), write_scan("f.nii.gz", voxels(), far)
    with pytest.warns(ScanWarning, match=r"covers only 3[0-5]% of .*d\.nii\.gz"):
        load([str(dwi), str(flair)], PAIR)


def test_one_missing_file_of_a_pair(write_scan: Any, tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError) as error:
        load([str(write_scan("d.nii.gz")), str(tmp_path / "gone.nii.gz")], PAIR)
    one_sentence(error.value, tmp_path / "gone.nii.gz")


@pytest.mark.parametrize(
    ("image", "modalities", "words"),
    [
        ([None, None], PAIR, "no scan at all"),
        (["a", "b"], ("T1w",), "2 files"),
        (["a", "b", "c"], PAIR, "3 files"),
        ([], PAIR, "0 files"),
        (7, PAIR, "not a int"),
        (np.zeros((3, 3, 3)), ("T1w",), "not a ndarray"),
    ],
)
def test_images_that_are_not_named_by_paths(image: Any, modalities: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(image, modalities)


# ---- bad files ----


def rewrite(path: Path, change: Any) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def zip_changed(path: Path, change: Any) -> Path:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
    return path


def with_bytes(start: int, new: bytes) -> Any:
    return lambda old: old[:start] + new + old[start + len(new) :]


def dims(*sizes: int) -> Any:
    """Write the header's dim field (NIfTI-1: int16 at byte 40)."""
    return with_bytes(40, np.array(sizes, dtype="<i2").tobytes())


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError) as error:
        load(tmp_path / "gone.nii.gz")
    one_sentence(error.value, tmp_path / "gone.nii.gz")


def test_dangling_link_and_link_to_itself(tmp_path: Path) -> None:
    for name, target in (("a.nii.gz", "gone"), ("b.nii.gz", "b.nii.gz")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(ScanNotFoundError, match="link") as error:
            load(tmp_path / name)
        one_sentence(error.value, tmp_path / name)


def test_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(UnreadableScanError, match="folder"):
        load(tmp_path / "a.nii.gz")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(write_scan: Any) -> None:
    path = write_scan("a.nii.gz")
    path.chmod(0)
    with pytest.raises(UnreadableScanError, match="permissions"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.nii.gz", b"", "0 bytes"),
        ("a.nii", b"", "0 bytes"),
        ("a.nii", b"x" * 1000, "not a NIfTI"),
        ("a.nii", b"n+1", "not a NIfTI"),
        ("a.nii.gz", b"<html>404</html>", "not gzip-compressed: copy"),
        ("a.nii.gz", gzip.compress(b"x" * 1000, mtime=0), "not a NIfTI"),
        ("a.nii.gz", gzip.compress(b"", mtime=0), "not a NIfTI"),
        ("a.dcm", b"\0" * 128 + b"DICM" + b"\0" * 300, "DICOM"),
        ("a.nii", b"\0" * 128 + b"DICM" + b"\0" * 300, "DICOM"),
        ("a.png", b"\x89PNG", "does not end in .nii"),
        ("a.nii", gzip.compress(b"x" * 1000, mtime=0), "rename it to .nii.gz"),
    ],
)
def test_not_nifti(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableScanError, match=words) as error:
        load(tmp_path / name)
    one_sentence(error.value, tmp_path / name)


def test_uncompressed_file_named_gz(write_scan: Any, tmp_path: Path) -> None:
    path = write_scan("a.nii").rename(tmp_path / "a.nii.gz")
    with pytest.raises(UnreadableScanError, match=r"rename it to \.nii\."):
        load(path)


@pytest.mark.parametrize("keep", [20, 100, 400, 0.5, 0.99])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_truncated(write_scan: Any, name: str, keep: float) -> None:
    noise = np.random.default_rng(0).normal(100, 20, (24, 26, 22)).astype(np.float32)
    path = rewrite(write_scan(name, noise), lambda b: b[: int(keep if keep > 1 else keep * len(b))])
    with pytest.raises(UnreadableScanError) as error:
        load(path)
    one_sentence(error.value, path)


@pytest.mark.parametrize("where", [0.3, 0.7, 0.9995])
def test_corrupt_gzip(write_scan: Any, where: float) -> None:
    noise = np.random.default_rng(0).normal(100, 20, (24, 26, 22)).astype(np.float32)

    def flip(b: bytes) -> bytes:
        at = int(where * len(b))
        return b[:at] + bytes([b[at] ^ 0x55]) + b[at + 1 :]

    path = rewrite(write_scan("a.nii.gz", noise), flip)
    with pytest.raises(UnreadableScanError):
        load(path)


def test_gzip_with_trailing_junk(write_scan: Any) -> None:
    path = rewrite(write_scan("a.nii.gz"), lambda b: b + b"junk")
    with pytest.raises(UnreadableScanError, match="gzip") as error:
        load(path)
    one_sentence(error.value, path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("size", [(3, 100, 100, 100), (3, 1000, 1000, 1000)])
def test_header_that_claims_more_than_the_file_has(write_scan: Any, name: str, size: tuple[int, ...]) -> None:
    affine = np.diag([0.5, 0.5, 0.5, 1]) * (1 if size[1] == 1000 else 2)
    affine[3, 3] = 1
    path = write_scan(name, voxels(), affine)
    change = dims(*size, 1, 1, 1, 1)
    path = zip_changed(path, change) if name.endswith("gz") else rewrite(path, change)
    with pytest.raises(UnreadableScanError, match="truncated"):
        load(path)


def test_header_that_claims_absurd_sizes(write_scan: Any) -> None:
    path = rewrite(write_scan("a.nii"), dims(3, 30000, 30000, 30000, 1, 1, 1, 1))
    with pytest.raises(ScanGeometryError, match="more than any head scan"):
        load(path)


@pytest.mark.parametrize(
    ("start", "new"),
    [
        (40, b"\xff\x7f"),  # dim[0] = 32767
        (42, b"\xff\xff"),  # dim[1] = -1
        (70, b"\x07\x07"),  # unknown data type
        (108, np.float32(np.nan).tobytes()),  # vox_offset
        (108, np.float32(-1e9).tobytes()),
        (108, np.float32(1e30).tobytes()),
        (76, np.full(8, np.nan, dtype="<f4").tobytes()),  # pixdim
        (112, np.array([np.nan, np.inf], dtype="<f4").tobytes()),  # scl_slope, scl_inter
    ],
)
def test_broken_header_fields_end_in_our_errors_or_a_scan(write_scan: Any, start: int, new: bytes) -> None:
    path = rewrite(write_scan("a.nii"), with_bytes(start, new))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = load(path)
        except StrokeSegError as error:
            one_sentence(error, path)
        else:
            assert torch.isfinite(image).all()


def test_random_header_bytes_end_in_our_errors_or_a_scan(write_scan: Any) -> None:
    path = write_scan("a.nii")
    good, rng = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(150):
            bad = bytearray(good)
            for at in rng.integers(0, 348, 4):
                bad[at] = rng.integers(256)
            path.write_bytes(bytes(bad))
            try:
                image = load(path)
            except StrokeSegError as error:
                refused += 1
                one_sentence(error, path)
            else:
                assert torch.isfinite(image).all()
    assert refused > 10


# ---- geometry ----


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((24, 26), "single slice or line"),
        ((24, 26, 1), "single slice or line"),
        ((1, 1, 1), "single slice or line"),
        ((24, 26, 22, 5), "5 volumes"),
        ((24, 26, 22, 2), "2 volumes"),
        ((24, 26, 22, 3, 2), "6 volumes"),
    ],
)
def test_wrong_dimension(write_scan: Any, shape: tuple[int, ...], words: str) -> None:
    path = write_scan("a.nii.gz", voxels(shape))
    with pytest.raises(ScanGeometryError, match=words) as error:
        load(path)
    one_sentence(error.value, path)


def test_a_dwi_series_of_two_volumes_is_not_a_stack(write_scan: Any) -> None:
    path = write_scan("sub-1_dwi.nii.gz", voxels((24, 26, 22, 2)))
    for image in (str(path), [str(path), None]):
        with pytest.raises(ScanGeometryError, match="2 volumes"):
            load(image, PAIR)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_b_values_beside_two_volumes_say_that_they_are_a_series(
    write_scan: Any, tmp_path: Path, suffix: str
) -> None:
    """A b0 is no DWI, and a b1000 no FLAIR."""
    path = write_scan(f"pat7_ep2d_diff_4{suffix}", voxels((24, 26, 22, 2)))
    (tmp_path / "pat7_ep2d_diff_4.bval").write_text("0 1000\n")
    with pytest.raises(ScanGeometryError, match=r"2 volumes .* extract the one to segment"):
        load(str(path), PAIR)
    assert [case["name"] for case in pooled_cases([{"image": str(path)}])] == ["pat7_ep2d_diff_4_DWI"]


@pytest.mark.parametrize(
    ("name", "modality", "told"),
    [
        ("p3_t2_flair_tra.nii.gz", "DWI", "T2 and FLAIR"),
        ("FLAIR1.nii.gz", "DWI", "FLAIR"),
        ("dwi_fast.nii.gz", "FLAIR", "DWI"),
        ("p1_adc-map.nii.gz", "DWI", "ADC"),
        ("T2_tse.nii.gz", "T1w", "T2"),
        ("p3_t2_flair_tra.nii.gz", "FLAIR", None),
        ("t1_mprage_sag_p2.nii.gz", "T1w", None),
        ("ep2d_diff_trace_adc2.nii.gz", "DWI", None),
        ("flairish_t20.nii.gz", "DWI", None),
    ],
)
def test_a_contrast_anywhere_in_the_name(
    write_scan: Any, recwarn: Any, name: str, modality: str, told: str | None
) -> None:
    warnings.simplefilter("always", ScanWarning)
    path = str(write_scan(name, voxels()))
    load(*{"T1w": (path,), "DWI": ([path, None], PAIR), "FLAIR": ([None, path], PAIR)}[modality])
    said = [str(one.message) for one in recwarn if "taken for" in str(one.message)]
    expected = f"{path} is taken for a {modality} scan although its name says {told}: check that it is"
    assert [one.startswith(expected) for one in said] == ([] if told is None else [True])


def test_one_file_as_dwi_and_as_flair(write_scan: Any, tmp_path: Path) -> None:
    path = write_scan("d.nii.gz", voxels())
    (tmp_path / "linked.nii.gz").symlink_to(path)
    for other in (path, tmp_path / "linked.nii.gz"):
        with pytest.raises(ScanMismatchError, match="is given as DWI and as FLAIR: name both") as error:
            load([str(path), str(other)], PAIR)
        one_sentence(error.value, path)
    image = nib.load(path)
    with pytest.raises(ScanMismatchError, match="is given as DWI and as FLAIR: name both"):
        load([image, image], PAIR)


def test_a_bad_flair_is_told_beside_a_way_without_it(write_scan: Any) -> None:
    dwi, flair = write_scan("d.nii.gz", voxels()), write_scan("f.nii.gz", 0 * voxels())
    with pytest.raises(ScanIntensityError, match=r"f\.nii\.gz is constant .*, or give DWI alone") as error:
        load([str(dwi), str(flair)], PAIR)
    one_sentence(error.value, flair)


def test_rgb_and_complex(tmp_path: Path) -> None:
    rgb = np.zeros((24, 26, 22), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name, array, words in (("rgb.nii", rgb, "RGB"), ("c.nii", voxels().astype(np.complex64), "complex")):
        nib.save(nib.Nifti1Image(array, head_affine()), tmp_path / name)
        with pytest.raises(ScanGeometryError, match=words):
            load(tmp_path / name)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_affine_that_does_not_place_voxels(write_scan: Any, bad: float) -> None:
    path = write_scan("a.nii")
    # srow_x at byte 280, sform_code at 254.
    path = rewrite(path, with_bytes(280, np.full(3, bad, dtype="<f4").tobytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ScanGeometryError, match="NaN or infinity" if bad else "singular"):
            load(path)


def test_affine_whose_axes_are_parallel(write_scan: Any) -> None:
    rows = np.array([[5, 5, 0, 0], [0, 0, 0, 0], [0, 0, 5, 0]], dtype="<f4")
    path = rewrite(write_scan("a.nii"), with_bytes(280, rows.tobytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ScanGeometryError, match="singular"):
            load(path)


def test_no_affine_warns_and_takes_nibabels(write_scan: Any) -> None:
    path = write_scan("a.nii.gz", no_codes=True)
    with pytest.warns(ScanWarning, match="codes are 0"):
        image = load(path)
    assert nib.aff2axcodes(image.affine.numpy()) == ("L", "A", "S")


@pytest.mark.parametrize("mm", [2, 30])
def test_sform_and_qform_that_disagree_warn(write_scan: Any, mm: float) -> None:
    moved = head_affine()
    moved[2, 3] += mm
    path = write_scan("a.nii.gz", qform=moved)
    with pytest.warns(ScanWarning, match=f" {mm} mm"):
        image = load(path)
    np.testing.assert_allclose(image.affine.numpy(), head_affine())


def test_sform_and_qform_that_differ_by_rounding_do_not_warn(write_scan: Any) -> None:
    moved = head_affine()
    moved[2, 3] += 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScanWarning)
        load(write_scan("a.nii.gz", qform=moved))


@pytest.mark.parametrize(
    ("mm", "shape", "words"),
    [
        (0.005, (24, 26, 22), "metres"),
        (5000.0, (24, 26, 22), "microns"),
        (0.5, (24, 26, 22), "centimetres"),
        (0.1, (24, 26, 22), "outside the 0.2-12 mm"),
        (20.0, (24, 26, 22), "outside the 0.2-12 mm"),
        (1.0, (100, 100, 20), "100×100×20 mm"),
        (8.0, (24, 26, 90), "192×208×720 mm"),
    ],
)
def test_voxels_and_fields_of_view_no_head_has(write_scan: Any, mm: float, shape: Any, words: str) -> None:
    path = write_scan("a.nii.gz", voxels(shape), np.diag([mm, mm, mm, 1]))
    with pytest.raises(ScanGeometryError, match=words) as error:
        load(path)
    one_sentence(error.value, path)


@pytest.mark.parametrize("sizes", [(0.4, 0.4, 8.0), (0.94, 0.94, 6.0), (8.0, 8.0, 8.0), (3, 3, 12.00001)])
def test_unusual_but_real_voxel_sizes(write_scan: Any, sizes: tuple[float, ...]) -> None:
    shape = tuple(int(np.ceil(70 / s)) for s in sizes)
    assert load(write_scan("a.nii.gz", voxels(shape), np.diag([*sizes, 1]))).shape == (1, *shape)


# ---- intensities ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(write_scan: Any, bad: float) -> None:
    array = voxels()
    array[3, 4, 5:8] = bad
    path = write_scan("a.nii.gz", array)
    with pytest.raises(ScanIntensityError, match="3 NaN or infinite") as error:
        load(path)
    one_sentence(error.value, path)


def test_values_beyond_float32(tmp_path: Path) -> None:
    array = voxels().astype(np.float64)
    array[0, 0, 0] = 1e300
    nib.save(nib.Nifti1Image(array, head_affine()), tmp_path / "a.nii.gz")
    with pytest.raises(ScanIntensityError, match="1 NaN or infinite"):
        load(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("value", [0, 7])
def test_constant(write_scan: Any, value: float) -> None:
    path = write_scan("a.nii.gz", np.full((24, 26, 22), value, dtype=np.float32))
    with pytest.raises(ScanIntensityError, match=f"every voxel is {value}"):
        load(path)


@pytest.mark.parametrize("values", [(0, 1), (-1, 255)])
def test_a_mask_is_no_scan(write_scan: Any, values: tuple[int, int]) -> None:
    array = np.full((24, 26, 22), values[0], dtype=np.int16)
    array[5:19, 5:20, 4:18] = values[1]
    path = write_scan("a.nii.gz", array)
    with pytest.raises(
        ScanIntensityError, match=rf"two values only \({values[0]} and {values[1]}\)"
    ) as error:
        load(path)
    one_sentence(error.value, path)
    array[5, 5, 5] = 2  # a third
    load(write_scan("b.nii.gz", array))


def test_a_constant_channel_of_a_stack(write_scan: Any) -> None:
    path = write_scan("a.nii.gz", np.stack([voxels(), 0 * voxels()], -1))
    with pytest.raises(ScanIntensityError, match="constant"):
        load(str(path), PAIR)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_mask_of_more_than_a_stroke_warns(write_scan: Any, inverted: bool) -> None:
    scan = write_scan("a.nii.gz")
    brain = np.zeros((24, 26, 22), dtype=np.uint8)
    brain[4:20, 4:22, 4:20] = 1  # 576 mL, a third of the field of view
    mask = write_scan("m.nii.gz", 1 - brain if inverted else brain)
    if inverted:
        with pytest.warns(ScanWarning, match=r"m.nii.gz marks 1140 mL, more than a stroke takes"):
            load_mask(scan, mask)
    else:
        load_mask(scan, mask)


def test_ct_warns(write_scan: Any) -> None:
    array = np.full((24, 26, 22), -1000, dtype=np.int16)
    array[5:19, 5:20, 4:18] = 40
    array[5:7] = 1200
    with pytest.warns(ScanWarning, match="Hounsfield"):
        load(write_scan("a.nii.gz", array))


# ---- masks ----


def load_mask(scan: Path, *masks: Path) -> MetaTensor:
    label = str(masks[0]) if len(masks) == 1 else [str(m) for m in masks]
    return Compose([LoadScand(), LoadMaskd()])({"image": str(scan), "label": label})["label"]


def box(value: float, start: int = 5, dtype: Any = np.uint8) -> np.ndarray:
    array = np.zeros((24, 26, 22), dtype=dtype)
    array[start : start + 3, 6:9, 7:11] = value
    return array


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize(
    "value",
    [
        0,
        1,
        pytest.param(
            255,
            marks=pytest.mark.reliability(
                "Bad input", "A mask of 0 and 255", "What is not 0 is lesion, whatever the data type."
            ),
        ),
    ],
)
def test_binary_masks(write_scan: Any, value: int, dtype: Any) -> None:
    if dtype == np.uint8 or value < 256:
        mask = load_mask(write_scan("a.nii.gz"), write_scan("m.nii.gz", box(value, dtype=dtype)))
        assert mask.dtype == torch.uint8
        assert mask.shape == (1, 24, 26, 22)
        np.testing.assert_array_equal(mask.numpy()[0], box(min(value, 1)))
        np.testing.assert_allclose(mask.affine.numpy(), head_affine())


def test_several_masks_are_merged(write_scan: Any) -> None:
    mask = load_mask(
        write_scan("a.nii.gz"), write_scan("m1.nii.gz", box(1)), write_scan("m2.nii.gz", box(255, start=7))
    )
    np.testing.assert_array_equal(mask.numpy()[0], box(1) | box(1, start=7))


def test_mask_within_rounding_takes_the_scans_grid(write_scan: Any) -> None:
    nearly = head_affine()
    nearly[0, 3] += 0.004
    nearly[0, 1] += 1e-4
    mask = load_mask(write_scan("a.nii.gz"), write_scan("m.nii.gz", box(1), nearly))
    np.testing.assert_array_equal(mask.affine.numpy(), head_affine())


def test_mask_is_compared_with_the_scans_own_grid_after_orientation(write_scan: Any) -> None:
    chain = Compose([LoadScand(), Orientationd("image", "ARS"), LoadMaskd()])
    mask = chain({"image": str(write_scan("a.nii.gz")), "label": str(write_scan("m.nii.gz", box(1)))})[
        "label"
    ]
    np.testing.assert_array_equal(mask.numpy()[0], box(1))


def no_mask(done: str) -> pytest.MarkDecorator:
    return pytest.mark.reliability("Bad input", done, "One sentence that names the mask and its values.")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (box(1) + 2 * box(1, start=12), "values 0, 1, 2"),
        pytest.param(
            box(1) + box(2, start=9) + box(3, start=14),
            "values 0, 1, 2, 3",
            marks=no_mask("A mask with labels 0 to 3"),
        ),
        pytest.param(box(0.4, dtype=np.float32), "values 0, 0.4", marks=no_mask("A mask of probabilities")),
        (box(-1, dtype=np.int16), "values -1, 0"),
        (box(1, dtype=np.float32) + box(0.5, start=10, dtype=np.float32), "values 0, 0.5, 1"),
        (np.arange(24 * 26 * 22).reshape(24, 26, 22).astype(np.int32), "and 13722 more"),
    ],
)
def test_masks_that_are_not_binary(write_scan: Any, array: np.ndarray, words: str, happened: Any) -> None:
    scan, path = write_scan("a.nii.gz"), write_scan("m.nii.gz", array)
    with pytest.raises(MaskError, match=words) as error:
        LoadMaskd()(LoadScand()({"image": str(scan), "label": str(path)}))
    happened(error.value)
    one_sentence(error.value, path)


@no_mask("A mask on another grid than its scan")
def test_mask_on_another_grid(write_scan: Any, happened: Any) -> None:
    scan = LoadScand()({"image": str(write_scan("a.nii.gz"))})
    moved = head_affine()
    moved[1, 3] += 5
    flipped = head_affine() @ np.diag([-1, 1, 1, 1])
    others = [
        (write_scan("m1.nii.gz", box(1)[:, :-1]), "24×25×22 against 24×26×22"),
        (write_scan("m2.nii.gz", box(1), moved), "5.0 mm apart"),
        (write_scan("m3.nii.gz", box(1), flipped), "mm apart"),
    ]
    for path, words in others:
        with pytest.raises(ScanMismatchError, match=words) as error:
            LoadMaskd()({**scan, "label": str(path)})
        one_sentence(error.value, path, scan["image"].meta["filename_or_obj"])
        happened(error.value)


def test_mask_that_is_missing_or_broken(write_scan: Any, tmp_path: Path) -> None:
    scan = LoadScand()({"image": str(write_scan("a.nii.gz"))})
    (tmp_path / "empty.nii.gz").touch()
    nan = write_scan("nan.nii.gz", box(np.nan, dtype=np.float32))
    for path, kind in (
        (tmp_path / "gone.nii.gz", ScanNotFoundError),
        (tmp_path / "empty.nii.gz", UnreadableScanError),
        (nan, ScanIntensityError),
    ):
        with pytest.raises(kind) as error:
            LoadMaskd()({**scan, "label": str(path)})
        one_sentence(error.value, path)
    with pytest.raises(UsageError, match="empty"):
        LoadMaskd()({**scan, "label": []})
    with pytest.raises(UsageError, match="LoadScand before"):
        LoadMaskd()({"image": "a.nii.gz", "label": "m.nii.gz"})


def test_read_scan_gives_channels_first(write_scan: Any) -> None:
    volume = read_scan(str(write_scan("a.nii.gz", voxels((24, 26, 22, 2)))), volumes=(2,))
    assert volume.array.shape == (2, 24, 26, 22)
    np.testing.assert_array_equal(volume.array[1], voxels((24, 26, 22, 2))[..., 1])

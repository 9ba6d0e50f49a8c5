"""
Every kind of bad or odd scan, given to the bundle's inference beside a good one.

What the reader of scans says about finer variations of each stands in ``tests/data``.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest

from tests.heads import affine, dice, head, lesion_mask, write
from tests.reliability.programs import Run, is_one_sentence, predict
from tests.reliability.surroundings import nobody

Happened = Callable[[object], None]

REFUSED = "One sentence, exit code 1, the scan beside it finished, nothing half-written."
WARNED = "Segmented, with one sentence of warning in the table and on standard error; exit code 0."
TAKEN = "Segmented like any scan; exit code 0."


class Case(NamedTuple):
    """What is done, the function that does it in a folder and names the scan, and words of what is said."""

    done: str
    make: Callable[[Path], Any]
    says: str = ""


def rows(promise: str, *cases: Case) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=case.done, marks=pytest.mark.reliability("Bad input", case.done, promise))
            for case in cases
        ],
    )


# ---- how each is made ----


def t1(seed: int = 1) -> np.ndarray:
    return head("T1w", lesion_mask(1), seed)


def scan(folder: Path, array: np.ndarray | None = None, matrix: Any = None, name: str = "bad.nii.gz") -> Path:
    return write(folder / name, t1() if array is None else array, matrix)


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """A good scan whose file is changed."""

    def make(folder: Path) -> Path:
        path = scan(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def with_header(start: int, values: Any, dtype: str) -> Callable[[Path], Path]:
    """A good scan with other bytes in its header."""
    new = np.asarray(values, dtype=dtype).tobytes()

    def change(old: bytes) -> bytes:
        plain = gzip.decompress(old)
        return gzip.compress(plain[:start] + new + plain[start + len(new) :])

    return changed(change)


def of(array: Callable[[], np.ndarray], matrix: Any = None) -> Callable[[Path], Path]:
    """A scan with these voxels."""
    return lambda folder: scan(folder, array(), matrix)


def named(name: str, content: bytes | None = None) -> Callable[[Path], Path]:
    """A file of this name: a good scan, or other content."""

    def make(folder: Path) -> Path:
        if content is None:
            return scan(folder, name=name)
        (folder / name).write_bytes(content)
        return folder / name

    return make


def directory(folder: Path) -> Path:
    (folder / "bad.nii.gz").mkdir()
    return folder / "bad.nii.gz"


def link_to_itself(folder: Path) -> Path:
    (folder / "bad.nii.gz").symlink_to("worse.nii.gz")
    (folder / "worse.nii.gz").symlink_to("bad.nii.gz")
    return folder / "bad.nii.gz"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "bad.nii.gz")
    return folder / "bad.nii.gz"


def codes(sform: int, qform: int, moved: float = 0) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = nib.Nifti1Image(t1(), affine())
        other = affine()
        other[2, 3] += moved
        image.set_sform(affine() if sform else None, code=sform)
        image.set_qform(other if qform else None, code=qform)
        nib.save(image, folder / "bad.nii.gz")
        return folder / "bad.nii.gz"

    return make


def qform_of_no_rotation(folder: Path) -> Path:
    path = codes(1, 1)(folder)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[264:268] = np.float32(2).tobytes()  # quatern_d of nifti1.h: no unit quaternion has it
    path.write_bytes(gzip.compress(content))
    return path


def stored_as(dtype: str, slope: float = 1, inter: float = 0) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        values = t1()
        image = nib.Nifti1Image((values * 200 / values.max()).astype(dtype), affine(), dtype=dtype)
        image.header.set_slope_inter(slope, inter)
        nib.save(image, folder / "bad.nii.gz")
        return folder / "bad.nii.gz"

    return make


def rgb() -> np.ndarray:
    return np.zeros((32, 32, 12), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


def nan_and_inf() -> np.ndarray:
    array = t1()
    array[3, 4, 5:8] = np.nan, np.inf, -np.inf
    return array


def one_huge() -> np.ndarray:
    array = t1()
    array[3, 4, 5] = 3e38
    return array


def one_bright() -> np.ndarray:
    array = np.zeros((96, 96, 36), np.float32)
    array[49, 47, 17] = 100
    return array


def ct() -> np.ndarray:
    return np.where(t1() == 0, -1000, 30 + 5 * t1()).astype(np.int16)


def box(mm: tuple[int, int, int], shape: tuple[int, int, int]) -> np.ndarray:
    """Uneven tissue of these millimetres in air, at 6 mm."""
    array = np.zeros(shape, np.float32)
    inner = tuple(
        slice((n - m // 6) // 2, (n - m // 6) // 2 + m // 6) for n, m in zip(shape, mm, strict=True)
    )
    array[inner] = np.random.default_rng(0).uniform(20, 200, array[inner].shape)
    return array


def spine() -> np.ndarray:
    return box((66, 180, 390), (14, 36, 68))


def abdomen() -> np.ndarray:
    return box((360, 240, 180), (64, 44, 34))


def phantom() -> np.ndarray:
    """A ball of oil in a coil of uneven sensitivity, with noise."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (32, 32, 32)), indexing="ij"))
    inside = (grid**2).sum(0) < 0.7
    noise = np.random.default_rng(0).normal(0, 3, inside.shape)
    return (inside * 100 * (1 + 0.15 * grid[0]) + noise).astype(np.float32)


def beside(name: str, text: str) -> Callable[[Path], Path]:
    """A good scan with another file beside it."""

    def make(folder: Path) -> Path:
        (folder / name).write_text(text)
        return scan(folder)

    return make


def pair(first: str, second: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        return [
            str(scan(folder, head(modality, lesion_mask(1), 1), name=name))
            for name, modality in ((first, "DWI"), (second, "FLAIR"))
        ]

    return make


def flair_elsewhere(folder: Path) -> list[str]:
    far = affine()
    far[0, 3] += 500
    flair = head("FLAIR", lesion_mask(1), 1)
    return [
        str(scan(folder, head("DWI", lesion_mask(1), 1), name="bad_dwi.nii.gz")),
        str(scan(folder, flair, far, name="bad_FLAIR.nii.gz")),
    ]


def flair_of_a_child(folder: Path) -> list[str]:
    small = np.zeros((32, 32, 12), np.float32)
    grid = np.stack(np.meshgrid(*(np.linspace(-1.6, 1.6, n) for n in small.shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.8
    small[inside] = 100 * (1 + 0.6 * grid[0][inside])
    return [
        str(scan(folder, head("DWI", lesion_mask(1), 1), name="bad_dwi.nii.gz")),
        str(scan(folder, small, name="bad_FLAIR.nii.gz")),
    ]


def data_list(*items: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "list.json").write_text(json.dumps({"test": list(items)}))
        return folder / "list.json"

    return make


# ---- what is promised of them ----


def with_a_good_one(bad: Any, tmp_path: Path, model: str) -> Run:
    good = write(tmp_path / "good.nii.gz", head("T1w" if model == "xnet" else "DWI", lesion_mask(2), 2))
    bad = bad if isinstance(bad, list) else str(bad)
    return predict([bad, str(good)], tmp_path / "out", model)


def check_good(run: Run) -> None:
    assert run.table.loc["good", "status"] == "ok"
    mask = nib.load(run.output / "good_label-lesion_mask.nii.gz").get_fdata()
    assert dice(mask, lesion_mask(2)) > 0.8


@rows(
    REFUSED,
    Case("A file of zero bytes", named("bad.nii.gz", b""), "0 bytes"),
    Case("A truncated gzip file", changed(lambda b: b[: len(b) // 2]), "truncated"),
    Case("A gzip file with junk behind it", changed(lambda b: b + b"junk"), "corrupt"),
    Case("A file of another ending", named("bad.doc", b"1 2 3"), "does not end in"),
    Case("A picture named .nii.gz", named("bad.nii.gz", b"\x89PNG\r\n" * 99), "not gzip-compressed"),
    Case("A folder named .nii.gz", directory, "is a folder"),
    Case("A pipe named .nii.gz", pipe, "is a pipe or device"),
    Case(
        "A header that claims 10¹² voxels",
        with_header(40, [3, 10000, 10000, 10000], "<i2"),
        "more than any head scan has",
    ),
    Case(
        "A header that claims more than the file holds", with_header(40, [3, 90, 90, 90], "<i2"), "truncated"
    ),
    Case("A singular affine", with_header(280, np.zeros(12), "<f4"), "singular affine"),
    Case("NaN in the affine", with_header(280, np.full(12, np.nan), "<f4"), "NaN or infinity"),
    Case("Complex voxels", of(lambda: t1().astype(np.complex64)), "complex"),
    Case("RGB voxels", of(rgb), "RGB"),
    Case("NaN and infinite voxels", of(nan_and_inf), "3 NaN or infinite"),
    Case("A voxel of 3·10³⁸", of(one_huge), "no scanner measures"),
    Case("A constant image", of(lambda: np.full((32, 32, 12), 7, np.float32)), "constant"),
    Case("A single slice", of(lambda: t1()[..., :1]), "single slice"),
    Case("A single voxel", of(lambda: np.ones((1, 1, 1), np.float32)), "single slice or line"),
    Case("A 4-D series", of(lambda: np.stack([t1()] * 5, -1), affine()), "5 volumes"),
    Case("Metres in the place of millimetres", of(t1, affine((0.006, 0.006, 0.006))), "look like metres"),
    Case("Links that lead in a circle", link_to_itself, "link"),
    Case("A path that is not there", lambda folder: folder / "bad.nii.gz", "is not there"),
    Case(
        "A file name as long as file systems allow",
        named("b" * 248 + ".nii.gz"),
        "name is too long",
    ),
    Case("A wrong path in a data list", data_list("bad.nii.gz"), "is not there"),
)
def test_refused(case: Case, tmp_path: Path, happened: Happened) -> None:
    run = with_a_good_one(case.make(tmp_path), tmp_path, "xnet")
    happened(run.told)
    assert run.code == 1
    check_good(run)
    (bad,) = (row for name, row in run.table.iterrows() if name != "good")
    assert bad["status"] == "failed"
    assert case.says in bad["message"]
    assert is_one_sentence(bad["message"], tmp_path)
    assert f"Failed: {bad['message']}" in run.err
    assert run.files == {"good_label-lesion_mask.nii.gz", "good_label-lesion_mask.json"}


@rows(
    WARNED,
    Case("sform and qform codes 0", codes(0, 0), "taken to run left, anterior, superior"),
    Case("sform and qform that disagree by 30 mm", codes(1, 1, moved=30), "30 mm apart: the sform is used"),
    Case("A qform that is no rotation beside a sound sform", qform_of_no_rotation, "is no rotation"),
    Case("A CT in Hounsfield units", of(ct), "Hounsfield"),
    Case("A spine", of(spine), "not the size of a head"),
    Case("An abdomen", of(abdomen), "not the size of a head"),
    Case(
        "Air with one bright voxel", of(one_bright, affine((2, 2, 2), (96, 96, 36))), "not the size of a head"
    ),
    Case("A uniform phantom", of(phantom), "like a phantom"),
    Case("A DWI given to X-Net, by its name", named("bad_dwi.nii.gz"), "its name says DWI"),
    Case("A T2w given to X-Net, by its name", named("bad_T2w.nii.gz"), "another contrast"),
    Case("A DWI given to X-Net, by b-values beside it", beside("bad.bval", "0 1000"), "bad.bval beside it"),
    Case(
        "A FLAIR given to X-Net, by the sidecar beside it",
        beside("bad.json", '{"EchoTime": 0.12}'),
        "echo time of 120 ms",
    ),
)
def test_warned_of(case: Case, tmp_path: Path, happened: Happened) -> None:
    run = with_a_good_one(case.make(tmp_path), tmp_path, "xnet")
    happened(run.told)
    assert run.code == 0
    check_good(run)
    assert run.table.loc["good", "message"] == ""
    (odd,) = (row for name, row in run.table.iterrows() if name != "good")
    assert odd["status"] == "ok"
    assert case.says in odd["message"]
    assert is_one_sentence(odd["message"], tmp_path)
    assert f"Warning: {odd['message']}" in run.err


@rows(
    TAKEN,
    Case("int64 voxels", stored_as("int64")),
    Case("uint8 voxels with a slope and an intercept", stored_as("uint8", 0.25, -3)),
    Case("Negative pixdim", with_header(80, [-6, -6, -6], "<f4")),
    Case("pixdim of zero beside a sound sform", with_header(80, [0, 0, 0], "<f4")),
    Case("Spaces and letters of other languages in a path", named("Straße 東京 é/bad scan ü.nii.gz")),
    Case("A path of 1000 letters", named("/".join(["b" * 200] * 5) + "/bad.nii.gz")),
)
def test_taken(case: Case, tmp_path: Path) -> None:
    run = with_a_good_one(case.make(tmp_path), tmp_path, "xnet")
    assert run.code == 0, run.err
    check_good(run)
    (row,) = (row for name, row in run.table.iterrows() if name != "good")
    assert (row["status"], row["message"]) == ("ok", "")
    (path,) = (tmp_path / "out").glob("bad*_mask.nii.gz")
    assert dice(nib.load(path).get_fdata(), lesion_mask(1)) > 0.8


@rows(
    REFUSED,
    Case("DWI and FLAIR that do not overlap in space", flair_elsewhere, "do not overlap"),
)
def test_pair_refused(case: Case, tmp_path: Path, happened: Happened) -> None:
    run = with_a_good_one(case.make(tmp_path), tmp_path, "cnnres")
    happened(run.told)
    assert run.code == 1
    check_good(run)
    assert case.says in run.table.loc["bad", "message"]
    assert run.files == {"good_label-lesion_mask.nii.gz", "good_label-lesion_mask.json"}


@rows(
    WARNED,
    Case(
        "DWI and FLAIR exchanged, by their names",
        pair("bad_FLAIR.nii.gz", "bad_dwi.nii.gz"),
        "taken for a DWI scan although its name says FLAIR",
    ),
    Case("DWI and FLAIR of two patients' sizes", flair_of_a_child, "are of one patient"),
)
def test_pair_warned_of(case: Case, tmp_path: Path, happened: Happened) -> None:
    run = with_a_good_one(case.make(tmp_path), tmp_path, "cnnres")
    happened(run.told)
    assert run.code == 0
    check_good(run)
    (odd,) = (row for name, row in run.table.iterrows() if name != "good")
    assert case.says in odd["message"]
    assert "Warning: " in run.err


@pytest.mark.reliability("Bad input", "A file that may not be read", REFUSED)
def test_unreadable(happened: Happened) -> None:
    with nobody() as folder:
        bad = scan(folder)
        bad.chmod(0)
        run = with_a_good_one(bad, folder, "xnet")
        happened(run.told.replace(str(folder), ""))
        assert run.code == 1
        check_good(run)
        assert "check its permissions" in run.table.loc["bad", "message"]
        assert run.files == {"good_label-lesion_mask.nii.gz", "good_label-lesion_mask.json"}

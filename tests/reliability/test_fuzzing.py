"""
Files made up at random: only our own errors come out, and no more memory is taken than is left to take.

How many files each fuzzer makes is its budget; ``-m long`` gives it five times as many.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from torch import Tensor

from shared_nets.data import LoadMaskd, LoadScand, find_cases
from shared_nets.errors import own_error, scan_warnings
from shared_nets.weights import load_weights, save_weights
from tests.commands import ROOT
from tests.heads import affine, head, lesion_mask, write
from tests.reliability.surroundings import memory_limit

Happened = Callable[[object], None]

OURS = "A result, or one sentence of ours that names the file, within 1 GB of memory more than is in use."
FACTOR = 5

# nifti1.h: where in the header a field stands, and the types of its numbers.
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "h" * 8), "intent": (56, "fffh"), "datatype": (70, "h"),
    "bitpix": (72, "h"), "pixdim": (76, "f" * 8), "vox_offset": (108, "f"), "scl": (112, "ff"),
    "xyzt_units": (123, "B"), "codes": (252, "hh"), "quatern": (256, "f" * 6), "srow": (280, "f" * 12),
    "magic": (344, "BBBB"),
}  # fmt: skip
NUMBERS = {
    "h": st.integers(-(2**15), 2**15 - 1) | st.sampled_from([0, 1, 2, 3, 4, 16, 64, 512, 32767]),
    "i": st.integers(-(2**31), 2**31 - 1) | st.sampled_from([348, 540]),
    "B": st.integers(0, 255),
    "f": st.floats(width=32) | st.sampled_from([0.0, 1.0, -6.0, 352.0, 1e30, float("nan"), float("inf")]),
}


class Tally:
    """How many made-up files were taken and refused."""

    def __init__(self) -> None:
        self.taken = self.refused = 0

    @contextmanager
    def refusing(self, name: object) -> Iterator[None]:
        """Anything but an error of ours goes on and fails the test."""
        try:
            with scan_warnings(), np.errstate(all="ignore"):
                yield
        except Exception as error:
            ours = own_error(error)  # MONAI wraps what goes wrong in a transform
            if ours is None:
                raise
            self.refused += 1
            said = str(ours)
            assert "\n" not in said
            assert str(name) in said, said
        else:
            self.taken += 1

    def __str__(self) -> str:
        total = self.taken + self.refused
        return f"Of {total} files {self.taken} were read and {self.refused} refused; nothing else came out."


def fuzz(done: str, number: int) -> Callable[[Any], Any]:
    """The test's two rows: with its budget, and with a large one among the longer runs."""
    rows = [
        pytest.param(number, marks=pytest.mark.reliability("Fuzzing", f"{number} {done}", OURS)),
        pytest.param(
            FACTOR * number,
            marks=[
                pytest.mark.long,
                pytest.mark.timeout(7200),
                pytest.mark.reliability("Longer runs", f"{FACTOR * number} {done}", OURS),
            ],
        ),
    ]
    return pytest.mark.parametrize("number", rows)


def tried(number: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Hand ``check`` so many values, always the same ones; the smallest that fails is shown."""

    @settings(
        max_examples=number, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(strategy)
    def run(value: Any) -> None:
        check(value)

    with memory_limit(1024):
        run()


def field(name: str) -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    """New content of a header field; None leaves a number as it is."""
    return st.tuples(st.just(name), st.tuples(*(st.none() | NUMBERS[kind] for kind in FIELDS[name][1])))


HEADERS = st.lists(st.sampled_from(sorted(FIELDS)).flatmap(field), min_size=1, max_size=3)


def with_fields(good: bytes, fields: list[tuple[str, tuple[Any, ...]]]) -> bytes:
    """A file whose header has new fields."""
    content = bytearray(good)
    for name, values in fields:
        start, kinds = FIELDS[name]
        old = struct.unpack_from(f"<{kinds}", content, start)
        new = [was if value is None else value for was, value in zip(old, values, strict=True)]
        struct.pack_into(f"<{kinds}", content, start, *new)
    return bytes(content)


@fuzz("NIfTI headers with random fields, plain and compressed", 300)
def test_headers(tmp_path: Path, number: int, happened: Happened) -> None:
    good = write(tmp_path / "good.nii", head("T1w", lesion_mask(1), 1)).read_bytes()
    load, tally = LoadScand(), Tally()

    def check(value: tuple[bool, list[tuple[str, tuple[Any, ...]]]]) -> None:
        zipped, fields = value
        path = tmp_path / ("bad.nii.gz" if zipped else "bad.nii")
        content = with_fields(good, fields)
        path.write_bytes(gzip.compress(content, 1) if zipped else content)
        with tally.refusing(path):
            assert torch.isfinite(load({"image": str(path)})["image"]).all()

    tried(number, st.tuples(st.booleans(), HEADERS), check)
    happened(tally)


SPOILED = st.tuples(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    st.floats(0, 1) | st.just(1.0),
    st.binary(max_size=40),
)


def spoiled(good: bytes, value: tuple[list[tuple[float, int]], float, bytes]) -> bytes:
    """A file with some bytes changed, its end cut off, and others behind it."""
    changes, kept, more = value
    content = bytearray(good)
    for where, byte in changes:
        content[int(where * len(content))] = byte
    return bytes(content[: int(kept * len(content))]) + more


@fuzz("compressed scans with random bytes changed, cut off or added", 200)
def test_compressed_files(tmp_path: Path, number: int, happened: Happened) -> None:
    good = write(tmp_path / "good.nii.gz", head("T1w", lesion_mask(1), 1)).read_bytes()
    path, load, tally = tmp_path / "bad.nii.gz", LoadScand(), Tally()

    def check(value: tuple[list[tuple[float, int]], float, bytes]) -> None:
        path.write_bytes(spoiled(good, value))
        with tally.refusing(path):
            load({"image": str(path)})

    tried(number, SPOILED, check)
    happened(tally)


VALUES = st.sampled_from([0.0, 1.0, -1.0, 7.0, 1e-40, 1e-30, 1e30, 3e38, -3e38, float("nan"), float("inf")])
PLACES = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
PATCHES = st.lists(st.tuples(PLACES, PLACES, VALUES | st.floats(-1e4, 1e4)), max_size=6)


def patched(shape: tuple[int, ...], ground: float, noise: float, patches: list[Any]) -> np.ndarray:
    """A volume of one value and noise, with boxes of other values in it."""
    drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
    volume = np.full(shape, ground, np.float32) + np.float32(noise) * drawn
    for start, size, value in patches:
        box = zip(start, size, shape, strict=True)
        volume[tuple(slice(int(a * n), int(a * n + 1 + s * n)) for a, s, n in box)] = value
    return volume


VOLUMES = st.tuples(VALUES, st.sampled_from([0.0, 1.0, 1e-3, 1e3, 1e35]), PATCHES)
DTYPES = st.sampled_from(["<f4", "<f8", ">f4", "<i2", "<u2", "<i4", "u1", "i1", "<i8", "<u8"])


def preprocessed(tmp_path: Path, number: int, shapes: st.SearchStrategy[tuple[int, ...]]) -> Tally:
    """Volumes through all that X-Net's inference does before the network."""
    config = ConfigParser(ConfigParser.load_config_file(ROOT / "xnet_bundle" / "configs" / "inference.json"))
    prepare, tally = config.get_parsed_content("preprocessing"), Tally()
    path = tmp_path / "made.nii"

    def check(value: tuple[tuple[int, ...], tuple[float, float, list[Any]], str]) -> None:
        shape, content, dtype = value
        mm = [200 / n for n in shape]
        with np.errstate(all="ignore"):
            volume = patched(shape, *content).astype(dtype)
        nib.save(nib.Nifti1Image(volume, affine(mm, shape), dtype=volume.dtype), path)
        with tally.refusing(path):
            image: Tensor = prepare({"image": str(path), "name": "made"})["image"]
            assert image.dtype == torch.float32
            assert 0 <= float(image.min()) <= float(image.max()) <= 1

    tried(number, st.tuples(shapes, VOLUMES, DTYPES), check)
    return tally


SIDES = st.integers(17, 48)


@fuzz("volumes of random values and number types, 17 to 48 voxels a side", 60)
def test_small_volumes(tmp_path: Path, number: int, happened: Happened) -> None:
    happened(preprocessed(tmp_path, number, st.tuples(SIDES, SIDES, SIDES)))


@fuzz("volumes of a head's size, up to 256 voxels a side", 2)
def test_volumes_of_a_heads_size(tmp_path: Path, number: int, happened: Happened) -> None:
    sides = st.integers(150, 256)
    happened(preprocessed(tmp_path, number, st.tuples(sides, sides, sides)))


@fuzz("masks of random values", 100)
def test_masks(tmp_path: Path, number: int, happened: Happened) -> None:
    scan = LoadScand()({"image": str(write(tmp_path / "scan.nii", head("T1w", lesion_mask(1), 1)))})
    path, load, tally = tmp_path / "mask.nii", LoadMaskd(), Tally()
    shape = tuple(scan["image"].shape[1:])
    few = st.lists(
        st.tuples(*[st.tuples(*[st.floats(0, 1)] * 3)] * 2, st.sampled_from([1.0, 1.0, 255.0])), max_size=3
    )

    def check(value: tuple[float, list[Any], str]) -> None:
        ground, patches, dtype = value
        with np.errstate(all="ignore"):
            volume = patched(shape, ground, 0, patches).astype(dtype)
        nib.save(nib.Nifti1Image(volume, affine(), dtype=volume.dtype), path)
        with tally.refusing(path):
            assert set(load({**scan, "label": str(path)})["label"].unique().tolist()) <= {0, 1}

    tried(number, st.tuples(st.just(0.0) | VALUES, PATCHES | few, DTYPES), check)
    happened(tally)


TEXT = st.text(max_size=12) | st.sampled_from(
    ["scan.nii", "image", "label", "test", "..", "/", "\0", "training"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
ITEM = st.dictionaries(st.sampled_from(["image", "label", "fold", "name", "subject"]), JSON, max_size=4)
LISTS = (
    st.dictionaries(st.sampled_from(["test", "training", "validation"]), st.lists(ITEM, max_size=3)) | JSON
)


@fuzz("data lists of random content, and of random bytes", 300)
def test_data_lists(tmp_path: Path, number: int, happened: Happened) -> None:
    write(tmp_path / "scan.nii", head("T1w", lesion_mask(1), 1))
    path, tally = tmp_path / "list.json", Tally()

    def check(content: Any) -> None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with tally.refusing(path):
            assert all({"image", "name"} <= case.keys() for case in find_cases(path, section="test"))

    tried(number, LISTS | st.binary(max_size=60), check)
    happened(tally)


@fuzz("weight files with random bytes changed, cut off or added", 150)
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_weight_files(tmp_path: Path, ending: str, number: int, happened: Happened) -> None:
    save_weights({"a": torch.arange(50.0), "b": torch.ones(3, 4)}, tmp_path / f"good{ending}")
    good = (tmp_path / f"good{ending}").read_bytes()
    path, tally = tmp_path / f"bad{ending}", Tally()

    def check(value: tuple[list[tuple[float, int]], float, bytes]) -> None:
        path.write_bytes(spoiled(good, value))
        with tally.refusing(path):
            load_weights(path)

    tried(number, SPOILED, check)
    happened(tally)

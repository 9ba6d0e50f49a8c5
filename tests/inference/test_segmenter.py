"""`LesionSegmenter` against what the bundle writes for the same scans."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from monai.transforms import LoadImage

from shared_nets import LesionSegmenter
from shared_nets.bundles import run_inference
from shared_nets.errors import (
    DeviceError,
    ScanGeometryError,
    ScanIntensityError,
    ScanNotFoundError,
    ScanWarning,
    UnreadableScanError,
    UsageError,
    WeightsError,
)
from shared_nets.inference import segmenter as segmenter_module
from tests.commands import strokeseg
from tests.heads import affine, head, lesion_mask, write

Folders = Mapping[str, Path]


@pytest.fixture(scope="module")
def segmenters(bundles: Folders) -> dict[str, LesionSegmenter]:
    return {name: LesionSegmenter(name, bundle=folder) for name, folder in bundles.items()}


@pytest.fixture
def written(bundles: Folders, tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """The mask and probability that a bundle writes for one case."""

    def run(name: str, image: Any, **settings: Any) -> tuple[Any, Any]:
        out = tmp_path / f"written{len(list(tmp_path.glob('written*')))}"  # images are read when used
        settings = {"save_probability": True, "save_picture": False, "quiet": True} | settings
        scans = [{"image": image, "name": "case"}]
        run_inference(bundles[name], {"dataset_dir": scans, "output_dir": str(out), **settings})
        ends = ("mask", "probseg")
        return tuple(nib.load(out / f"case_label-lesion_{end}.nii.gz") for end in ends)

    return run


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.get_data_dtype() == other.get_data_dtype()
        np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
        np.testing.assert_array_equal(one.affine, other.affine)
        assert one.header == other.header


@pytest.fixture
def t1(tmp_path: Path) -> Path:
    """A head whose axes run to posterior, left and superior, off centre."""
    turned = np.array([[0, -6, 0, 80], [-6, 0, 0, 90], [0, 0, 6, -30], [0, 0, 0, 1.0]])
    return write(tmp_path / "sub-1_T1w.nii.gz", head("T1w", lesion_mask(1), seed=1), turned)


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """DWI and FLAIR on two grids."""
    mask = lesion_mask(1)
    moved = affine()
    moved[:3, 3] += (3, -3, 6)
    dwi = write(tmp_path / "sub-1_dwi.nii.gz", head("DWI", mask, seed=1))
    flair = write(tmp_path / "sub-1_FLAIR.nii.gz", head("FLAIR", mask, seed=2), moved)
    return [str(dwi), str(flair)]


def test_files_and_images_in_memory_give_what_the_bundle_writes(
    segmenters: dict[str, LesionSegmenter], written: Callable[..., Any], t1: Path
) -> None:
    expected = written("xnet", str(t1))
    assert np.asarray(expected[0].dataobj).any()
    segmenter = segmenters["xnet"]
    for scan in (t1, str(t1), nib.load(t1)):
        assert_same(segmenter.predict(scan), expected)
    in_memory = nib.Nifti1Image(np.asarray(nib.load(t1).dataobj), nib.load(t1).affine)
    np.testing.assert_array_equal(segmenter.predict(in_memory).mask.dataobj, expected[0].dataobj)

    for channel_first in (True, False):
        scan = LoadImage(ensure_channel_first=channel_first)(t1)
        found = segmenter.predict(scan)
        for one, other in zip(found, expected, strict=True):
            assert isinstance(one, MetaTensor)
            np.testing.assert_array_equal(one[0], other.dataobj)
            np.testing.assert_array_equal(one.affine, other.affine)


def test_a_tensor_that_is_no_longer_on_its_files_grid(
    segmenters: dict[str, LesionSegmenter], t1: Path
) -> None:
    scan = LoadImage(ensure_channel_first=True)(t1)[:, 2:, :, :10]
    found = segmenters["xnet"].predict(scan)
    assert found.mask.shape == found.probability.shape == scan.shape
    np.testing.assert_array_equal(found.mask.affine, scan.affine)


def test_dwi_and_flair(
    segmenters: dict[str, LesionSegmenter], written: Callable[..., Any], pair: list[str], tmp_path: Path
) -> None:
    segmenter = segmenters["cnnres"]
    dwi, flair = pair
    both = written("cnnres", pair)
    assert_same(segmenter.predict(pair), both)
    assert_same(segmenter.predict(dwi=dwi, flair=Path(flair)), both)
    assert_same(segmenter.predict((nib.load(dwi), nib.load(flair))), both)
    tensors = [LoadImage(ensure_channel_first=True)(path) for path in pair]
    found = segmenter.predict(dwi=tensors[0], flair=tensors[1])
    np.testing.assert_array_equal(found.probability[0], both[1].dataobj)

    alone = written("cnnres", [dwi, None])
    assert not np.array_equal(alone[1].dataobj, both[1].dataobj)
    for scan in ([dwi, None], dwi):
        assert_same(segmenter.predict(scan), alone)
    only = written("cnnres", [None, flair])
    assert_same(segmenter.predict(flair=flair), only)
    np.testing.assert_array_equal(only[0].affine, nib.load(flair).affine)

    stack = np.stack([np.asarray(nib.load(dwi).dataobj)] * 2, axis=-1)
    path = write(tmp_path / "stack.nii.gz", stack, nib.load(dwi).affine)
    assert_same(segmenter.predict(path), written("cnnres", str(path)))


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0.3},
        {"peak_threshold": 0.995},  # between those of its two pieces
        {"smallest_lesion_ml": 5.0},
        {"smoothing_mm": 9.0},
        {"mirror": False},
    ],
)
def test_settings_are_the_configs_and_change_the_result(
    bundles: Folders,
    segmenters: dict[str, LesionSegmenter],
    written: Callable[..., Any],
    t1: Path,
    settings: dict[str, Any],
) -> None:
    found = LesionSegmenter("xnet", bundle=bundles["xnet"], **settings).predict(t1)
    assert_same(found, written("xnet", str(t1), **settings))
    without = segmenters["xnet"].predict(t1)
    assert not np.array_equal(found.mask.dataobj, without.mask.dataobj)


def test_flair_takes_away_but_adds_nothing_where_dwi_decides(
    bundles: Folders, segmenters: dict[str, LesionSegmenter], written: Callable[..., Any], pair: list[str]
) -> None:
    decided = LesionSegmenter("cnnres", bundle=bundles["cnnres"], dwi_decides=True).predict(pair)
    assert_same(decided, written("cnnres", pair, dwi_decides="true"))
    with_its_say = segmenters["cnnres"].predict(pair)
    lower, free = (np.asarray(found.probability.dataobj) for found in (decided, with_its_say))
    assert (lower <= free + 1e-6).all()
    assert (lower < free - 1e-3).any()
    assert not (np.asarray(decided.mask.dataobj) > np.asarray(with_its_say.mask.dataobj)).any()


def test_one_scan_after_the_other_and_after_one_that_failed(
    segmenters: dict[str, LesionSegmenter], t1: Path, tmp_path: Path
) -> None:
    first = segmenters["xnet"].predict(t1)
    other = write(tmp_path / "other_T1w.nii.gz", head("T1w", lesion_mask(2), seed=2))
    segmenters["xnet"].predict(other)
    with pytest.raises(ScanNotFoundError):
        segmenters["xnet"].predict("absent.nii.gz")
    assert_same(segmenters["xnet"].predict(t1), first)


def test_threads_get_their_own_scans_masks(
    segmenters: dict[str, LesionSegmenter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = segmenters["xnet"]
    scans = [write(tmp_path / f"{n}.nii.gz", head("T1w", lesion_mask(n), n)) for n in (1, 2, 3, 4)]
    alone = [segmenter.predict(scan) for scan in scans]
    running = 0
    run_engine = segmenter_module.run_engine

    def watched(*args: Any) -> dict[str, Any]:
        nonlocal running
        running += 1
        assert running == 1
        time.sleep(0.05)
        finished = run_engine(*args)
        running -= 1
        return finished

    monkeypatch.setattr(segmenter_module, "run_engine", watched)
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(segmenter.predict, scans), alone, strict=True):
            assert_same(found, expected)


def test_an_image_without_an_affine_is_told(segmenters: dict[str, LesionSegmenter]) -> None:
    with pytest.raises(ScanGeometryError, match="has no affine"):
        segmenters["xnet"].predict(nib.Nifti1Image(head("T1w", lesion_mask(1), 1), None))


def test_what_is_odd_about_a_scan_is_a_warning(
    segmenters: dict[str, LesionSegmenter], pair: list[str]
) -> None:
    with pytest.warns(ScanWarning, match=r"sub-1_FLAIR\.nii\.gz is a FLAIR without its DWI"):
        segmenters["cnnres"].predict(flair=pair[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScanWarning)
        segmenters["cnnres"].predict(pair)


def test_bad_scans_are_told_in_our_own_words(
    segmenters: dict[str, LesionSegmenter], pair: list[str], t1: Path, tmp_path: Path
) -> None:
    predict = segmenters["xnet"].predict
    scan = nib.load(t1)
    voxels = np.asarray(scan.dataobj)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.nii.gz").write_bytes(t1.read_bytes()[:500])
    for given, error, told in [
        ("absent.nii.gz", ScanNotFoundError, "absent.nii.gz is not there"),
        (tmp_path / "empty", UnreadableScanError, "is a folder"),
        (tmp_path / "broken.nii.gz", UnreadableScanError, "is truncated"),
        (nib.Nifti1Image(voxels * np.nan, scan.affine), ScanIntensityError, "NaN"),
        (nib.Nifti1Image(np.stack([voxels] * 3, -1), scan.affine), ScanGeometryError, "3"),
        (voxels, UsageError, "not a ndarray"),
        ([t1, t1], UsageError, "2 files were given for a scan of T1w"),
        ([], UsageError, "0 files"),
        ("", UsageError, "no scan"),
        (None, UsageError, "Give one scan"),
    ]:
        with pytest.raises(error, match=told) as caught:
            predict(given)
        assert "\n" not in str(caught.value)
    for both in ({"image": t1, "dwi": t1}, {}):
        with pytest.raises(UsageError, match="Give one scan"):
            predict(**both)
    for contrast in ("dwi", "flair"):
        with pytest.raises(UsageError, match="dwi= and flair= go with cnnres"):
            predict(**{contrast: t1})
    far = affine()
    far[0, 3] += 1000
    flair = write(tmp_path / "far_FLAIR.nii.gz", head("FLAIR", lesion_mask(1), seed=1), far)
    with pytest.raises(ValueError, match=r"far_FLAIR\.nii\.gz"):
        segmenters["cnnres"].predict([pair[0], flair])


def test_an_image_whose_voxels_cannot_be_read_any_more(
    segmenters: dict[str, LesionSegmenter], t1: Path, tmp_path: Path
) -> None:
    """nibabel reads them late, inside MONAI's transforms."""
    (tmp_path / "short.nii.gz").write_bytes(t1.read_bytes()[:5000])
    gone = nib.load(t1)
    t1.unlink()
    for scan in (gone, nib.load(tmp_path / "short.nii.gz")):
        with pytest.raises(UnreadableScanError) as caught:
            segmenters["xnet"].predict(scan)
        assert str(caught.value).startswith(f"{scan.get_filename()} cannot be read (")


def test_an_ending_in_mixed_case(segmenters: dict[str, LesionSegmenter], t1: Path) -> None:
    """nibabel looks for such a file under another name when it opens it itself."""
    expected = segmenters["xnet"].predict(t1)
    assert_same(segmenters["xnet"].predict(t1.rename(t1.with_name("X.Nii.Gz"))), expected)


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"model": "xnot"}, UsageError, "use xnet or cnnres"),
        ({"bundle": "absent"}, UsageError, "absent is no bundle"),
        ({"weights": "absent.pt"}, WeightsError, "absent.pt"),
        ({"device": "gpu"}, DeviceError, "gpu"),
        ({"backend": "tensorrt"}, UsageError, "tensorrt"),
        ({"threshold": 50}, UsageError, "threshold is a probability, from 0 to 1, not 50"),
        ({"threshold": float("nan")}, UsageError, "threshold"),
        ({"peak_threshold": 98}, UsageError, "peak_threshold is a probability, from 0 to 1, not 98"),
        ({"smallest_lesion_ml": -1}, UsageError, "smallest_lesion_ml is a volume in mL"),
        ({"smoothing_mm": -1}, UsageError, "smoothing_mm is a distance in mm, at least 0, not -1"),
        ({"smoothing_mm": float("inf")}, UsageError, "smoothing_mm"),
        ({"smoothing_mm": "2 mm"}, UsageError, "smoothing_mm is a distance in mm, at least 0, not '2 mm'"),
        ({"mirror": "perhaps"}, UsageError, "neither true nor false"),
        ({"dwi_decides": True}, UsageError, "has no setting dwi_decides"),
        ({"dwi_decides": False}, UsageError, "has no setting dwi_decides"),
    ],
)
def test_bad_settings(bundles: Folders, settings: dict[str, Any], error: type, told: str) -> None:
    with pytest.raises(error, match=told):
        LesionSegmenter(**{"model": "xnet", "bundle": bundles["xnet"]} | settings)


def test_weights_of_another_network(bundles: Folders) -> None:
    weights = bundles["cnnres"] / "models" / "model.pt"
    with pytest.raises(WeightsError, match=r"model\.pt"):
        LesionSegmenter("xnet", bundle=bundles["xnet"], weights=weights)


def test_a_config_of_an_earlier_version_is_told(bundles: Folders, tmp_path: Path) -> None:
    """As from a copy of a bundle, made before its settings got other names."""
    older = shutil.copytree(bundles["xnet"], tmp_path / "older")
    path = older / "configs" / "inference.json"
    path.write_text(path.read_text().replace("cpu_precision", "cpu_bfloat16").replace('"float32"', "false"))
    (path.parent / "metadata.json").write_text('{"required_packages_version": {"shared_nets": "0.1.0"}}')
    with pytest.raises(UsageError, match=r"older is made for shared_nets 0\.1\.0, but "):
        LesionSegmenter("xnet", bundle=older)
    words = ["--model", "xnet", "--bundle", older, "--output", tmp_path / "out", tmp_path]
    done = strokeseg("predict", *words)
    assert done.code == 1
    assert done.err.startswith(f"{older} is made for shared_nets 0.1.0, but ")


def test_the_shipped_bundles_are_found() -> None:
    for name in ("xnet", "cnnres"):
        segmenter = LesionSegmenter(name, device="cpu", backend="torch")
        assert not segmenter.evaluator.network.training


def test_nothing_is_written(segmenters: dict[str, LesionSegmenter], t1: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(t1.parent)
    before = set(t1.parent.rglob("*"))
    segmenters["xnet"].predict(t1)
    assert set(t1.parent.rglob("*")) == before


def test_a_config_that_draws_otherwise_is_followed(bundles: Folders, t1: Path, tmp_path: Path) -> None:
    """The pipeline is the config's, not a copy of it here."""
    bundle = tmp_path / "other_bundle"
    (bundle / "configs").mkdir(parents=True)
    config = json.loads((bundles["xnet"] / "configs" / "inference.json").read_text())
    config["postprocessing"]["transforms"].append(
        {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}
    )
    config["threshold"] = 0.0
    config["weights"] = str(bundles["xnet"] / "models" / "model.pt")
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    found = LesionSegmenter("xnet", bundle=bundle).predict(t1)
    assert np.asarray(found.mask.dataobj).mean() > np.asarray(found.probability.dataobj > 0.5).mean()

"""The bundles' configs, each run for real: from any folder, on every kind of data, by every starter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from tests.bundles.configs import QUICK, WORKFLOWS, config, items, write_list
from tests.commands import ROOT, Done, assert_told, bundle, digest, run
from tests.conftest import MODALITIES, NETWORKS
from tests.heads import dice, head, lesion_mask, write

Folders = Mapping[str, Path]
both = pytest.mark.parametrize("name", list(NETWORKS))


# ---- what MONAI expects of a bundle ----


@both
@pytest.mark.parametrize(
    ("files", "kind"),
    [(("train",), "train"), (("train", "evaluate"), "train"), (("inference",), "infer")],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_every_property_is_there(
    trees: Folders, bundles: Folders, tmp_path: Path, name: str, files: tuple[str, ...], kind: str
) -> None:
    folder = ROOT / f"{name}_bundle"
    workflow = ConfigWorkflow(
        config_file=[str(folder / "configs" / f"{file}.json") for file in files],
        workflow_type=kind,
        bundle_root=str(folder),
        dataset_dir=str(trees[name]),
        output_dir=str(tmp_path),
        quiet=True,
        **({} if files == ("train",) else {"weights": str(bundles[name] / "models" / "model.pt")}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    absent = {key for key in workflow.properties if getattr(workflow, key) is None}
    # Evaluation and inference compute no metric inside the engine.
    assert absent <= {"key_metric", "val_key_metric"}
    assert isinstance(workflow.network_def, NETWORKS[name])


@both
@pytest.mark.parametrize("file", ["train", "inference"])
@pytest.mark.parametrize("capability", [7, 8, 9])
def test_mixed_precision_is_for_gpus_with_bfloat16(
    monkeypatch: pytest.MonkeyPatch, name: str, file: str, capability: int
) -> None:
    """On older ones PyTorch emulates it; and X-Net's sums are too large for float16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability))
    parser = ConfigParser()
    parser.read_config(ROOT / f"{name}_bundle" / "configs" / f"{file}.json")
    engines = ["evaluator"] if file == "inference" else ["train#trainer", "validate#evaluator"]
    for device, is_gpu in (("cpu", False), ("cuda", True), ("$torch.device('cuda', 1)", True)):
        parser.update({"device": device})
        parser.parse(reset=True)
        for engine in engines:
            assert parser.get_parsed_content(f"{engine}#amp") is (is_gpu and capability >= 8)
            assert parser.get_parsed_content(f"{engine}#amp_kwargs") == {"dtype": torch.bfloat16}


@both
def test_a_record_has_the_transforms_in_use(bundles: Folders, name: str) -> None:
    """Those of a config laid over, or set on the command line, are other ones."""

    def settings(overlay: str = "", **changes: Any) -> dict[str, Any]:
        parser = ConfigParser()
        files = ["inference", *([overlay] if overlay else [])]
        parser.read_config([bundles[name] / "configs" / f"{file}.json" for file in files])
        parser.update({"bundle_root": str(bundles[name]), **changes})
        return parser.get_parsed_content("records").settings

    def differ(other: dict[str, Any]) -> list[str]:
        return [key for key in plain if plain[key] != other[key]]

    plain = settings()
    assert "roi_size" in plain["inferer"]
    scaled = settings(**{"preprocessing#transforms#4#upper": 98.25})
    assert differ(scaled) == ["preprocessing", "postprocessing"]  # which has the way back
    assert "upper=98.25" in scaled["preprocessing"][4]
    assert differ(settings(**{"postprocessing#transforms#0#sigmoid": False})) == ["postprocessing"]
    if name == "xnet":  # nothing is resampled there
        paper = settings("paper_inference")
        assert paper["spacing"] is None
        assert paper["preprocessing"][3].startswith("SpatialCropd")


# ---- data ----


def sections(folder: Path, data: Path, **settings: Any) -> tuple[list[str], list[str]]:
    """Names of the cases that would train and validate."""
    workflow = ConfigWorkflow(
        config_file=config(folder, "train"), workflow_type="train", dataset_dir=str(data), **settings
    )
    workflow.initialize()
    return tuple(
        [case["name"] for case in workflow.parser.get_parsed_content(f"{part}#dataset#data")]
        for part in ("train", "validate")
    )


@both
def test_tree_and_lists(trees: Folders, bundles: Folders, tmp_path: Path, name: str) -> None:
    tree, folder = Path(shutil.copytree(trees[name], tmp_path / "tree")), bundles[name]
    train, validate = sections(folder, tree)
    assert len(train) == 4
    assert len(validate) == 1
    assert {*train, *validate} == {f"case{n}" for n in range(1, 6)}

    folds = [items(name, [n], fold=n % 2)[0] for n in range(1, 6)]
    (tree / "folds.json").write_text(json.dumps({"training": folds}))
    assert sections(folder, tree / "folds.json", fold=1) == (["case2", "case4"], ["case1", "case3", "case5"])
    assert sections(folder, tree / "folds.json", fold=0) == (["case1", "case3", "case5"], ["case2", "case4"])

    content = {"training": items(name, [1, 2]), "validation": items(name, [3])}
    (tree / "sections.json").write_text(json.dumps(content))
    assert sections(folder, tree / "sections.json") == (["case1", "case2"], ["case3"])


@both
def test_training_samples_are_slices_with_their_labels(trees: Folders, bundles: Folders, name: str) -> None:
    workflow = ConfigWorkflow(
        config_file=config(bundles[name], "train"),
        workflow_type="train",
        dataset_dir=str(trees[name]),
        quiet=True,
        slices_per_scan=3,
    )
    workflow.initialize()
    samples = workflow.train_dataset[0]
    assert len(samples) == 3
    for sample in samples:
        assert sample["image"].shape == (len(MODALITIES[name]), 32, 32)
        assert sample["label"].shape == (1, 32, 32)
        assert 0 <= sample["image"].min() <= sample["image"].max() <= 1
        lesion = sample["label"][0] > 0
        if name == "xnet" and lesion.any():  # lesions are dark on T1: label and image turned alike
            assert sample["image"][0][lesion].mean() < 0.6
        if name == "cnnres":
            assert lesion.any()  # as in the paper, only slices with lesion
            shown = [channel for channel in sample["image"] if channel.any()]
            assert all(channel[lesion].mean() > 2 * channel[~lesion].mean() for channel in shown)


def test_dwi_alone(bundles: Folders, tmp_path: Path) -> None:
    for number in (1, 2):
        mask = lesion_mask(number)
        write(tmp_path / "imagesTr" / f"p{number}_0000.nii.gz", head("DWI", mask, number))
        write(tmp_path / "labelsTr" / f"p{number}.nii.gz", mask)
    train, validate = sections(bundles["cnnres"], tmp_path)
    assert sorted([*train, *validate]) == ["p1", "p2"]
    done = bundle(
        config_file=config(bundles["cnnres"], "train"),
        dataset_dir=tmp_path,
        output_dir=tmp_path / "run",
        max_epochs=1,
        slices_per_scan=1,
    )
    assert done.code == 0, done.err
    done = bundle(
        config_file=config(bundles["cnnres"], "inference"),
        bundle_root=bundles["cnnres"],
        dataset_dir=tmp_path / "imagesTr",
        output_dir=tmp_path / "out",
    )
    assert done.code == 0, done.err
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz")) == [
        "p1_label-lesion_mask.nii.gz",
        "p2_label-lesion_mask.nii.gz",
    ]


# ---- inference, from anywhere ----


@both
def test_inference_from_any_folder(trees: Folders, bundles: Folders, tmp_path: Path, name: str) -> None:
    """From the bundle's folder, from the folder above it, and from one that has nothing to do with it."""
    folder = bundles[name]
    near = os.path.relpath(trees[name], tmp_path)
    inside = bundle(
        "inference", config_file="configs/inference.json", dataset_dir=trees[name], output_dir=tmp_path / "a",
        cwd=folder,
    )  # fmt: skip
    above = bundle(
        config_file=f"{folder.name}/configs/inference.json", bundle_root=folder.name,
        dataset_dir=trees[name], output_dir=tmp_path / "b", cwd=folder.parent,
    )  # fmt: skip
    elsewhere = bundle(
        "run", config_file=config(folder, "inference"), bundle_root=folder, dataset_dir=near, output_dir="c",
        cwd=tmp_path,
    )  # fmt: skip
    tables = []
    for done, output in ((inside, "a"), (above, "b"), (elsewhere, "c")):
        assert done.code == 0, done.err
        assert "2 scans segmented" in done.out
        assert f"Results: {tmp_path / output}" in done.out
        assert len(done.out.splitlines()) == 2
        assert {"case1_label-lesion.png", "case2_label-lesion.png"} < {
            p.name for p in (tmp_path / output).iterdir()
        }
        tables.append(pd.read_csv(tmp_path / output / "lesions.csv").drop(columns="seconds"))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[2])
    masks = [digest(tmp_path / part / "case1_label-lesion_mask.nii.gz") for part in "abc"]
    assert len(set(masks)) == 1


def test_masks_are_on_the_grid_of_a_turned_scan(bundles: Folders, tmp_path: Path) -> None:
    """Oblique, axes in another order, one reversed: shape, affine, codes and units stay the scan's own."""
    array = head("T1w", lesion_mask(1), seed=1).transpose(2, 0, 1)[:, ::-1]
    turn = np.array([[0, -6.0, 0, 90], [0, 0, 6, -90], [6, 0, 0, -30], [0, 0, 0, 1]])
    angle = np.deg2rad(12)
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image = nib.Nifti1Image(array, tilt @ turn)
    image.set_qform(tilt @ turn, code=1)
    image.set_sform(tilt @ turn, code=2)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "turned.nii.gz")
    done = bundle(
        config_file=config(bundles["xnet"], "inference"), bundle_root=bundles["xnet"],
        dataset_dir=tmp_path / "turned.nii.gz", output_dir=tmp_path / "out", save_probability=True,
        smallest_lesion_ml=0,
    )  # fmt: skip
    assert done.code == 0, done.err
    scan = nib.load(tmp_path / "turned.nii.gz")
    for ending, dtype in (("mask", np.uint8), ("probseg", np.float32)):
        made = nib.load(tmp_path / "out" / f"turned_label-lesion_{ending}.nii.gz")
        assert made.shape == scan.shape
        assert made.get_data_dtype() == dtype
        np.testing.assert_array_equal(made.affine, scan.affine)
        for key in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
            np.testing.assert_array_equal(made.header[key], scan.header[key])
    probability = made.get_fdata()
    mask = nib.load(tmp_path / "out" / "turned_label-lesion_mask.nii.gz").get_fdata()
    np.testing.assert_array_equal(mask, probability > 0.5)


@both
def test_evaluation_has_the_settings_of_inference(name: str) -> None:
    settings = (
        "spacing", "window", "threshold", "peak_threshold", "smallest_lesion_ml", "smoothing_mm", "mirror",
    )  # fmt: skip
    configs = ROOT / f"{name}_bundle" / "configs"
    read = [json.loads((configs / f"{file}.json").read_text()) for file in ("inference", "train")]
    for setting in (*settings, *(["dwi_decides"] if name == "cnnres" else [])):
        assert read[0][setting] == read[1][setting]


@both
def test_images_are_prepared_alike_for_training_validation_and_inference(name: str) -> None:
    configs = ROOT / f"{name}_bundle" / "configs"
    inference, train = (json.loads((configs / f"{f}.json").read_text()) for f in ("inference", "train"))
    inference["preprocessing"]["transforms"][0].pop("tell_lone_second", None)  # only warns
    expected = of_the_image(inference["preprocessing"]["transforms"])
    assert [step["_target_"].split(".")[-1] for step in expected] == [
        "LoadScand", "Orientationd", "Spacingd", "CropForegroundd", "ScaleHeadIntensityd",
    ]  # fmt: skip
    assert of_the_image(train["validate"]["preprocessing"]["transforms"]) == expected
    *prepared, padded = of_the_image(train["train"]["deterministic_transforms"])
    assert prepared == expected
    assert padded["_target_"] == "SpatialPadd"  # up to the window, which sliding windows do themselves


def of_the_image(transforms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What transforms do to the image, whatever they do to the label beside it."""
    steps = []
    for step in transforms:
        keys = [step["keys"]] if isinstance(step["keys"], str) else step["keys"]
        if "image" in keys:
            mode = step.get("mode")
            own = {"keys": "image", "mode": mode[keys.index("image")] if isinstance(mode, list) else mode}
            steps.append({key: value for key, value in (step | own).items() if key != "dtype"})
    return steps


def test_what_is_evaluated_is_what_is_drawn(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    name = "cnnres"
    tree = Path(shutil.copytree(trees[name], tmp_path / "tree"))
    cases = items(name, [1, 2])
    (tree / "list.json").write_text(json.dumps({"validation": cases, "test": cases}))
    settings: dict[str, Any] = {"bundle_root": bundles[name], "dataset_dir": tree / "list.json"}
    settings |= {"mirror": True, "smallest_lesion_ml": 1, "smoothing_mm": 8}
    evaluating = config(bundles[name], "train", "evaluate")
    scores = []
    for peak in (0.0, 0.999):
        scored, drawn = tmp_path / f"scored{peak}", tmp_path / f"drawn{peak}"
        settings["peak_threshold"] = peak
        done = bundle("evaluating", config_file=evaluating, output_dir=scored, **settings)
        assert done.code == 0, done.err
        done = bundle(config_file=config(bundles[name], "inference"), output_dir=drawn, **settings)
        assert done.code == 0, done.err
        table = pd.read_csv(scored / "metrics.csv").set_index("scan")["dice"]
        for number in (1, 2):
            mask = nib.load(drawn / f"case{number}_label-lesion_mask.nii.gz").get_fdata()
            label = nib.load(tree / "labelsTr" / f"case{number}.nii.gz").get_fdata()
            assert table[f"case{number}"] == pytest.approx(dice(mask, label), abs=1e-4)
        scores.append(list(table))
    assert scores[0] != scores[1]


@both
def test_the_bundles_weights_are_scored_on_a_whole_data_set(
    trees: Folders, bundles: Folders, tmp_path: Path, name: str
) -> None:
    """The command of docs/experiments.md: all folds of a list, by the bundle's own weights."""
    folds = [case for n in range(1, 5) for case in items(name, [n], fold=n % 2)]
    known = {
        "config_file": config(bundles[name], "train", "evaluate"), "bundle_root": bundles[name],
        "dataset_dir": write_list(tmp_path / "list.json", trees[name], training=folds),
        "output_dir": tmp_path / "eval",
    }  # fmt: skip
    assert_told(bundle("evaluating", **known, evaluate_on="al"), "'al'", "validation, test, all")
    assert not list(tmp_path.glob("eval/*"))
    done = bundle("evaluating", **known, evaluate_on="all", threshold=0.4)
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "eval" / "metrics.csv")
    assert sorted(table["scan"]) == [f"case{n}" for n in range(1, 5)]
    assert (table["status"] == "ok").all()
    told = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    assert told["WeightsSHA256"] == digest(bundles[name] / "models" / "model.pt")
    # Every setting that inference may change results by is in the configs of training too.
    inference = json.loads((bundles[name] / "configs" / "inference.json").read_text())
    wanted = {key: inference[key] for key in inference["records"]["settings"] if key in inference}
    assert {**wanted, "threshold": 0.4}.items() >= told["Settings"].items()
    assert (told["EvaluatedOn"], told["Settings"]["threshold"]) == ("all", 0.4)
    assert set(wanted) - {"preprocessing", "inferer", "postprocessing"} == set(told["Settings"])
    assert "dice" in done.out


@both
def test_one_corrupt_scan_does_not_stop_the_others(
    trees: Folders, bundles: Folders, tmp_path: Path, name: str
) -> None:
    scans = tmp_path / "scans"
    shutil.copytree(trees[name] / "imagesTs", scans)
    first = sorted(scans.iterdir())[0]
    first.write_bytes(first.read_bytes()[:2000])
    done = bundle(
        "inference", config_file=config(bundles[name], "inference"), bundle_root=bundles[name],
        dataset_dir=scans, output_dir=tmp_path / "out",
    )  # fmt: skip
    assert done.code == 1
    assert "1 scan segmented" in done.out
    assert "1 failed" in done.out
    told = [line for line in done.told.splitlines() if line.startswith("Failed: ")]
    assert len(told) == 1
    assert str(first) in told[0]
    assert "Traceback" not in done.err
    table = pd.read_csv(tmp_path / "out" / "lesions.csv").set_index("scan")
    assert dict(table["status"]) == {"case1": "failed", "case2": "ok"}
    assert str(first) in table.loc["case1", "message"]
    assert (tmp_path / "out" / "case2_label-lesion_mask.nii.gz").is_file()
    assert not list((tmp_path / "out").glob("case1*"))


# ---- errors are told in one sentence ----


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_what_is_missing_is_told(trees: Folders, bundles: Folders, tmp_path: Path, workflow: str) -> None:
    (tmp_path / "empty").mkdir()
    known = {
        "config_file": config(bundles["cnnres"], *WORKFLOWS[workflow]),
        "bundle_root": bundles["cnnres"],
        "output_dir": tmp_path / "out",
        "quiet": True,
    }
    data = trees["cnnres"]
    assert_told(bundle(workflow, **known), "--dataset_dir")
    assert_told(bundle(workflow, **known, dataset_dir=tmp_path / "no"), str(tmp_path / "no"), "not there")
    assert_told(bundle(workflow, **known, dataset_dir=tmp_path / "empty"), str(tmp_path / "empty"))
    assert_told(bundle(workflow, **known, dataset_dir=data, device="cuda:99"), "cuda:99")
    assert_told(bundle(workflow, **known, dataset_dir=data, device="gpu"), "gpu", "cpu")
    weights = "pretrained" if workflow == "training" else "weights"
    absent = tmp_path / "absent.pt"
    assert_told(bundle(workflow, **known, dataset_dir=data, **{weights: absent}), str(absent))
    other = bundles["xnet"] / "models" / "model.pt"
    done = bundle(workflow, **known, dataset_dir=data, **{weights: other})
    assert done.code == 1
    assert "X-Net" in done.told
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("out/**/*.pt"))
    (tmp_path / "file").write_text("in the way")
    assert_told(
        bundle(workflow, **known | {"output_dir": tmp_path / "file"}, dataset_dir=data),
        str(tmp_path / "file"),
    )


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_impossible_limits_are_told(trees: Folders, bundles: Folders, tmp_path: Path, workflow: str) -> None:
    known = {
        "config_file": config(bundles["cnnres"], *WORKFLOWS[workflow]),
        "bundle_root": bundles["cnnres"],
        "dataset_dir": trees["cnnres"],
        "output_dir": tmp_path / "out",
    }
    for wrong in (
        {"threshold": 50}, {"peak_threshold": 98}, {"smallest_lesion_ml": -3}, {"smoothing_mm": -1},
        *([{"seed": "abc"}] if workflow == "training" else []),
    ):  # fmt: skip
        assert_told(bundle(workflow, **known, **wrong), next(iter(wrong)), "not")
    assert not (tmp_path / "out").exists()


@both
def test_weights_of_another_sum_are_refused(
    trees: Folders, bundles: Folders, tmp_path: Path, name: str
) -> None:
    """Nothing is written; with the file's own sum the same command runs."""
    weights = bundles[name] / "models" / "model.pt"
    settings = {
        "config_file": config(bundles[name], "inference"), "bundle_root": bundles[name], "quiet": True,
        "dataset_dir": trees[name] / "imagesTs", "output_dir": tmp_path / "out",
    }  # fmt: skip
    done = bundle("inference", **settings, weights_sha256="f" * 64)
    assert_told(done, str(weights), "is not the file that was released")
    assert not list(tmp_path.glob("out/*"))
    done = bundle("inference", **settings, weights_sha256=digest(weights))
    assert (done.code, done.told) == (0, "")
    assert (tmp_path / "out" / "case1_label-lesion_mask.nii.gz").is_file()


def test_debug_shows_where(bundles: Folders, tmp_path: Path) -> None:
    done = bundle(config_file=config(bundles["cnnres"], "inference"), debug=True, cwd=tmp_path)
    assert done.code == 1
    assert "Traceback" in done.err
    assert "WeightsError" in done.err


def test_a_corrupt_scan_in_training_is_named(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    shutil.copytree(trees["cnnres"], tmp_path / "data")
    bad = tmp_path / "data" / "imagesTr" / "case2_0000.nii.gz"
    bad.write_bytes(bad.read_bytes()[:2000])
    done = bundle(
        "training", config_file=config(bundles["cnnres"], "train"), dataset_dir=tmp_path / "data",
        output_dir=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert_told(done, str(bad))


# ---- training ----


@pytest.fixture(scope="module")
def first_run(
    trees: Folders, bundles: Folders, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Done]:
    """A training of two epochs, and what it said."""
    output = tmp_path_factory.mktemp("run")
    done = bundle(
        "training", config_file="configs/train.json", dataset_dir=trees["cnnres"], output_dir=output,
        max_epochs=2, cwd=bundles["cnnres"], **QUICK,
    )  # fmt: skip
    return output, done


def test_training_keeps_weights_state_and_events(first_run: tuple[Path, Done], bundles: Folders) -> None:
    output, done = first_run
    assert done.code == 0, done.err
    state = torch.load(output / "models" / "model.pt", weights_only=True)
    NETWORKS["cnnres"]().load_state_dict(state)
    last = torch.load(output / "models" / "last.ckpt", weights_only=True)
    assert last["trainer"] == {"epoch": 2, "iteration": 4}
    assert {p.name for p in (output / "models").iterdir()} == {"model.pt", "last.ckpt"}
    assert list(output.glob("events.out.tfevents.*"))
    # What it takes to repeat the run.
    run = json.loads((output / "run.json").read_text())
    assert run["config"] == json.loads((bundles["cnnres"] / "configs" / "train.json").read_text())
    assert "--max_epochs" in run["command"]
    assert (run["seed"], run["versions"]["torch"]) == (0, torch.__version__)
    assert "commit" in run
    names = [case["name"] for section in run["cases"].values() for case in section]
    assert sorted(names) == [f"case{n}" for n in range(1, 6)]
    said = done.out.splitlines()
    assert said[0].startswith("Trained for 2 epochs; best validation Dice ")
    assert said[1:] == [f"Weights: {output / 'models' / 'model.pt'}"]
    # Progress bars and nothing else.
    assert all("%|" in line for line in done.told.replace("\r", "\n").split("\n") if line)


def test_training_can_be_compiled(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    """Traced but not translated, which would take minutes; the weights are those of the plain network."""
    done = bundle(
        "training", config_file=config(bundles["cnnres"], "train"), dataset_dir=trees["cnnres"],
        output_dir=tmp_path, max_epochs=1, compile="true", **QUICK,
        **{"train#trainer#compile_kwargs": {"backend": "eager"}},
    )  # fmt: skip
    assert done.code == 0, done.err
    NETWORKS["cnnres"]().load_state_dict(torch.load(tmp_path / "models" / "model.pt", weights_only=True))


def test_training_leaves_the_shipped_weights_alone(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    """Even from the bundle's own folder with all defaults; ckpt_dir is how to ask for it."""
    folder = tmp_path / "cnnres_bundle"
    shutil.copytree(bundles["cnnres"], folder)
    shipped = folder / "models" / "model.pt"
    before = digest(shipped)
    settings = {"config_file": "configs/train.json", "dataset_dir": trees["cnnres"], "max_epochs": 1, **QUICK}
    done = bundle(cwd=folder, **settings)
    assert done.code == 0, done.err
    assert (folder / "runs" / "cnnres" / "models" / "model.pt").is_file()
    assert digest(shipped) == before
    done = bundle(cwd=folder, **settings, ckpt_dir="models", quiet=True)
    assert done.code == 0, done.err
    assert (done.out, done.told) == ("", "")
    assert digest(shipped) != before


def test_resume_goes_on_where_the_run_ended(
    first_run: tuple[Path, Done], trees: Folders, bundles: Folders, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(first_run[0], output)
    shutil.copytree(trees["cnnres"], tmp_path / "moved")
    settings = {
        "config_file": config(bundles["cnnres"], "train"),
        "dataset_dir": os.path.relpath(tmp_path / "moved"),  # moved, and named otherwise
        "output_dir": output,
        "resume": "true",
        **QUICK,
    }
    done = bundle("training", **settings, max_epochs=4)
    assert done.code == 0, done.err
    assert "epoch 3/4" in done.err
    assert "epoch 1/4" not in done.err
    last = torch.load(output / "models" / "last.ckpt", weights_only=True)
    assert last["trainer"] == {"epoch": 4, "iteration": 8}
    # Adam counts its steps from the start of the first run.
    assert {float(state["step"]) for state in last["optimizer"]["state"].values()} == {8.0}

    again = bundle("training", **settings, max_epochs=4, quiet=True)
    assert_told(again, "last.ckpt", "already has 4 epochs", "max_epochs")
    kept = digest(output / "run.json")
    other = bundle("training", **settings, max_epochs=5, fold=1, quiet=True)
    assert_told(other, "run.json", "other training cases", "another output folder")
    assert digest(output / "run.json") == kept
    nothing = bundle("training", **settings | {"output_dir": tmp_path / "new"}, quiet=True)
    assert_told(nothing, str(tmp_path / "new" / "models" / "last.ckpt"), "without resume")
    (output / "models" / "last.ckpt").write_bytes(b"not a checkpoint")
    broken = bundle("training", **settings, max_epochs=5, quiet=True)
    assert_told(broken, "last.ckpt")


@both
def test_fine_tuning_starts_from_the_weights_named(
    trees: Folders, bundles: Folders, tmp_path: Path, name: str
) -> None:
    """A step of length 0 keeps every parameter; only the running statistics of batch norms move."""
    weights = bundles[name] / "models" / "model.pt"
    done = bundle(
        "training", config_file=config(bundles[name], "train"), dataset_dir=trees[name],
        output_dir=tmp_path, pretrained=weights, max_epochs=1,
        **QUICK | {"learning_rate": 0.0, "scans_per_batch": 4},
    )  # fmt: skip
    assert done.code == 0, done.err
    start = torch.load(weights, weights_only=True)
    made = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    for key, _ in NETWORKS[name]().named_parameters():
        assert torch.equal(made[key], start[key])
    assert not all(torch.equal(made[key], start[key]) for key in start)


# ---- MONAI Label ----


@pytest.mark.parametrize("validation", [0, 1])
@both
def test_monai_label_fine_tunes_in_place(
    trees: Folders, bundles: Folders, tmp_path: Path, name: str, validation: int
) -> None:
    folder, tree = tmp_path / "bundle", trees[name]
    shutil.copytree(bundles[name], folder)
    before = torch.load(folder / "models" / "model.pt", weights_only=True)
    # MONAI Label knows one file an image.
    ending = "" if name == "xnet" else "_0000"
    cases = [
        {
            "image": str(tree / "imagesTr" / f"case{n}{ending}.nii.gz"),
            "label": str(tree / "labelsTr" / f"case{n}.nii.gz"),
        }
        for n in (1, 2, 3)
    ]
    data = {"train": cases[validation:], "validate": cases[:validation]}
    (tmp_path / "data.json").write_text(json.dumps(data))
    done = run(
        "tests.bundles.monai_label", folder, tmp_path / "data.json", cwd=tmp_path,
        MONAI_LABEL_APP_DIR=str(tmp_path),
    )  # fmt: skip
    assert done.code == 0, done.err
    made = torch.load(folder / "models" / "model.pt", weights_only=True)
    NETWORKS[name]().load_state_dict(made)
    kernels = [key for key in made if made[key].ndim == 4]
    assert all(not torch.equal(made[key], before[key]) for key in kernels)
    # One epoch from the weights in place, not from new random ones.
    assert max(float((made[key] - before[key]).abs().max()) for key in kernels) < 0.05
    # MONAI Label offers every .pt of this folder as weights, so what resuming needs must not be one.
    assert [p.name for p in (folder / "models").glob("*.pt")] == ["model.pt"]


# ---- several processes ----


def test_two_processes_train_and_evaluate(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    folder = bundles["cnnres"]
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc_per_node", "2", "-m", "monai.bundle", "run"]
    common = ["--bundle_root", folder, "--dataset_dir", trees["cnnres"], "--slices_per_scan", "1"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }

    def start(workflow: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*map(str, [*launch, workflow, *common, *arguments])]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)

    done = start(
        "training", "--config_file", config(folder, "train", "multi_gpu_train"), "--max_epochs", 1,
        "--scans_per_batch", 1, "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "run" / "models" / "model.pt", weights_only=True)
    NETWORKS["cnnres"]().load_state_dict(state)  # without a wrapper's prefix
    last = torch.load(tmp_path / "run" / "models" / "last.ckpt", weights_only=True)
    assert last["trainer"] == {"epoch": 1, "iteration": 2}  # four cases, two processes
    assert done.stdout.count("Trained for 1 epoch;") == 1

    # Three cases do not go evenly into two processes.
    odd = write_list(
        tmp_path / "three.json",
        trees["cnnres"],
        training=items("cnnres", [4, 5]),
        validation=items("cnnres", [1, 2, 3]),
    )
    done = start(
        "evaluating", "--config_file", config(folder, "train", "evaluate", "multi_gpu_evaluate"),
        "--dataset_dir", odd, "--output_dir", tmp_path / "two",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 scans segmented") == 1
    alone = bundle(
        "evaluating", config_file=config(folder, "train", "evaluate"), bundle_root=folder,
        dataset_dir=odd, output_dir=tmp_path / "one",
    )  # fmt: skip
    assert alone.code == 0, alone.err
    one, two = (pd.read_csv(tmp_path / part / "metrics.csv") for part in ("one", "two"))
    pd.testing.assert_frame_equal(two.drop(columns="seconds"), one.drop(columns="seconds"), rtol=1e-3)
    assert list(one["scan"]) == ["case1", "case2", "case3"]
    summaries = [(tmp_path / part / "summary.csv").read_text() for part in ("one", "two")]
    assert summaries[0] == summaries[1]

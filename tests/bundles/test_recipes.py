"""The papers' recipes, laid over train.json: what they change, and that nothing else is lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from tests.bundles.configs import config

Folders = Mapping[str, Path]


def paper(bundles: Folders, trees: Folders, name: str, **settings: Any) -> ConfigWorkflow:
    if name == "xnet":  # nothing is prepared: the phantoms do not lie on ATLAS's grid, which it wants
        settings |= {"cache_gb": 0, "train#dataset#cache_dir": None}
    workflow = ConfigWorkflow(
        config_file=json.loads(config(bundles[name], "train", "paper_train").replace("'", '"')),
        workflow_type="train", bundle_root=str(bundles[name]), dataset_dir=str(trees[name]), quiet=True,
        **settings,
    )  # fmt: skip
    workflow.initialize()
    return workflow


@pytest.mark.parametrize("recipe", ["paper_train.json", "comparison.json"])
@pytest.mark.parametrize("name", ["xnet", "cnnres"])
def test_what_was_chosen_for_the_shipped_weights_is_left_out(
    bundles: Folders, name: str, recipe: str
) -> None:
    """The papers' networks drop no lesion by its probability and average nothing over slices."""
    configs = [str(bundles[name] / "configs" / file) for file in ("train.json", recipe)]
    values = ConfigParser.load_config_files(configs)
    assert (values["peak_threshold"], values["smoothing_mm"], values["mirror"]) == (0, 0, False)


def test_xnet_draws_every_slice_alike_and_leaves_it_as_it_is(bundles: Folders, trees: Folders) -> None:
    parser = paper(bundles, trees, "xnet").parser
    names = [type(t).__name__ for t in parser.get_parsed_content("train#random_transforms")]
    assert "RandFlipd" not in names
    assert names[0] == "RandSpatialCropSamplesd"
    before = [type(t).__name__ for t in parser.get_parsed_content("train#deterministic_transforms")]
    assert {"CropForegroundd", "Spacingd", "ScaleHeadIntensityd", "FgBgToIndicesd"}.isdisjoint(before)
    loader = parser.get_parsed_content("train#dataloader")
    scans = len(parser.get_parsed_content("train#dataset#data"))
    assert len(loader) == -(-189 * scans // 8)  # as many draws an epoch as there are slices
    optimizer, scheduler = (parser.get_parsed_content(key) for key in ("optimizer", "lr_scheduler"))
    assert type(optimizer) is torch.optim.Adam
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]
    assert (scheduler.factor, scheduler.threshold) == (0.2, 1e-3)
    assert parser.get_parsed_content("early_stop_patience") == 5
    assert parser["early_stop"]["min_delta"] == 0
    assert parser.get_parsed_content("max_epochs") == 100


def test_xnets_rate_is_cut_when_keras_cuts_it(bundles: Folders, trees: Folders) -> None:
    """Keras: after ``patience`` (3) validations without progress; PyTorch: after one more than its own."""
    parser = paper(bundles, trees, "xnet").parser
    scheduler, optimizer = (parser.get_parsed_content(key) for key in ("lr_scheduler", "optimizer"))
    rates = []
    for dice in (0.1, 0.2, 0.3, 0.3, 0.3005, 0.3, 0.3, 0.3, 0.3):
        scheduler.step(dice)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3] * 5 + [2e-4] * 3 + [4e-5])


@pytest.mark.parametrize("order", [("paper_train", "multi_gpu_train"), ("multi_gpu_train", "paper_train")])
def test_gpus_share_the_papers_epoch(bundles: Folders, trees: Folders, order: tuple[str, str]) -> None:
    """Every scan is drawn as often as it has slices, by whichever GPU, whichever recipe is laid on top."""
    files = [bundles["xnet"] / "configs" / f"{name}.json" for name in ("train", *order)]
    drawn: Counter[int] = Counter()
    for rank in (0, 1):
        parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
        parser.update({
            "dataset_dir": str(trees["xnet"]), "cache_gb": 0, "train#dataset#cache_dir": None, "quiet": True,
            "train#sampler#num_replicas": 2, "train#sampler#rank": rank,
        })  # fmt: skip
        loader = parser.get_parsed_content("train#dataloader")
        scans = len(parser.get_parsed_content("train#dataset"))
        assert len(loader) == -(-189 * scans // 2 // 8)
        drawn.update(index % scans for index in loader.sampler)
    assert set(drawn.values()) == {189}


@pytest.mark.parametrize("length", ["max_epochs", "train#trainer#max_epochs"])
def test_xnet_learns_by_a_cosine_over_all_batches(bundles: Folders, trees: Folders, length: str) -> None:
    """MONAI Label sets the trainer's epochs, not those of the config."""
    workflow = ConfigWorkflow(
        config_file=config(bundles["xnet"], "train"), workflow_type="train", bundle_root=str(bundles["xnet"]),
        dataset_dir=str(trees["xnet"]), quiet=True, learning_rate=0.002, **{length: 20},
    )  # fmt: skip
    workflow.initialize()
    parser = workflow.parser
    optimizer, scheduler = (parser.get_parsed_content(key) for key in ("optimizer", "lr_scheduler"))
    steps = 20 * len(parser.get_parsed_content("train#dataloader"))
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == 0.002  # also where a program leaves the schedule out
    assert rates == sorted(rates, reverse=True)
    assert rates[steps // 2] == pytest.approx(0.001)  # half of the way down
    assert 0 < rates[-1] < 0.002 / 100


@pytest.mark.parametrize("length", ["max_epochs", "train#trainer#max_epochs"])
@pytest.mark.parametrize("name", ["xnet", "cnnres"])
def test_comparisons_learn_by_one_cycle_over_all_batches(
    bundles: Folders, trees: Folders, name: str, length: str
) -> None:
    parser = ConfigParser()
    parser.read_config([bundles[name] / "configs" / f"{file}.json" for file in ("train", "comparison")])
    parser.update({"dataset_dir": str(trees[name]), "cache_gb": 0, "quiet": True, length: 3})
    batches = len(parser.get_parsed_content("train#dataloader"))
    assert parser.get_parsed_content("lr_scheduler").total_steps == 3 * batches


@pytest.mark.parametrize("name", ["xnet", "cnnres"])
@pytest.mark.parametrize("kind", ["StepLR", "ReduceLROnPlateau"])
def test_a_schedule_by_epochs_is_followed(
    bundles: Folders, trees: Folders, tmp_path: Path, name: str, kind: str
) -> None:
    """Without validation too, unless the schedule goes by its Dice; what resuming needs has the step."""
    schedule = {
        "StepLR": {"step_size": 1, "gamma": 0.5},
        "ReduceLROnPlateau": {"factor": 0.5, "patience": 0, "threshold": 2, "threshold_mode": "abs"},
    }
    validating: dict[str, Any] = {"validate#dataset#data": []} if kind == "StepLR" else {}
    workflow = ConfigWorkflow(
        config_file=config(bundles[name], "train"), workflow_type="train", bundle_root=str(bundles[name]),
        dataset_dir=str(trees[name]), output_dir=str(tmp_path), quiet=True, max_epochs=2, slices_per_scan=1,
        scans_per_batch=2, learning_rate=0.001, lr_every_batch=False, lr_scheduler={
            "_target_": f"torch.optim.lr_scheduler.{kind}", "optimizer": "@optimizer", **schedule[kind],
        }, **validating,
    )  # fmt: skip
    workflow.initialize()
    workflow.parser.get_parsed_content("train#trainer").run()
    steps = {"StepLR": 2, "ReduceLROnPlateau": 1}[kind]  # the first Dice is the best so far
    rates = {group["lr"] for group in workflow.parser.get_parsed_content("optimizer").param_groups}
    assert rates == {0.001 * 0.5**steps}
    kept = torch.load(tmp_path / "models" / "last.ckpt", weights_only=True)
    assert kept["lr_scheduler"]["last_epoch"] == 2


def test_cnn_res_pools_dwi_and_flair_as_samples_of_one_channel(bundles: Folders, trees: Folders) -> None:
    workflow = paper(bundles, trees, "cnnres", slices_per_scan=2, window=[32, 32])
    data = workflow.parser.get_parsed_content("train#dataset#data")
    assert [case["name"][-3:] for case in data] == ["DWI", "AIR"] * (len(data) // 2)
    dwi, flair = workflow.train_dataset[0], workflow.train_dataset[1]
    assert {tuple(sample["image"].shape) for sample in dwi + flair} == {(1, 32, 32)}
    assert all(sample["image"].any() and sample["label"].any() for sample in dwi + flair)
    first = workflow.parser.get_parsed_content("network_def").translation1.conv
    assert first.in_channels == 1
    parser = workflow.parser
    assert (
        parser.get("scans_per_batch")
        * json.loads((bundles["cnnres"] / "configs" / "paper_train.json").read_text())["slices_per_scan"]
        == 128
    )


@pytest.mark.parametrize("name", ["xnet", "cnnres"])
@pytest.mark.parametrize("window", [[48, 32], (48, 32)])  # "48,32" on the command line is a tuple
def test_windows_that_are_not_square_can_be_trained(
    bundles: Folders, trees: Folders, name: str, window: Any
) -> None:
    """Slices are turned by quarters only where that keeps their size."""
    workflow = ConfigWorkflow(
        config_file=config(bundles[name], "train"), workflow_type="train", bundle_root=str(bundles[name]),
        dataset_dir=str(trees[name]), quiet=True, window=window, slices_per_scan=8,
    )  # fmt: skip
    workflow.initialize()
    dataset = workflow.train_dataset
    before = [contents(case) for case in dataset._cache]
    assert {tuple(sample["image"].shape[1:]) for sample in dataset[0] + dataset[0]} == {(48, 32)}
    assert [contents(case) for case in dataset._cache] == before  # cases in memory are drawn from, not copied


def contents(case: Mapping[str, Any]) -> dict[str, Any]:
    """All that a prepared case holds, in a form that can be compared."""
    return {
        key: (
            value.tolist(),
            repr(getattr(value, "meta", None)),
            repr(getattr(value, "applied_operations", None)),
        )
        for key, value in case.items()
        if hasattr(value, "tolist")
    }

"""MONAI's federated learning on both bundles: two sites that never share a scan, only weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor, nn

from shared_nets.networks import cnnres, xnet
from tests.conftest import NETWORKS
from tests.heads import head, lesion_mask, write

ROUNDS = 3
SLIM = (8, 12, 16, 24, 32)
# What a lesion does to the intensity around it, at the two sites.
SITES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "xnet": ({"T1w": 0.3}, {"T1w": 1.7}),  # dark cavities; bright rims
    "cnnres": ({"DWI": 2.5, "FLAIR": 1.0}, {"DWI": 1.0, "FLAIR": 2.5}),  # fresh; old enough for FLAIR alone
}
SETTINGS: dict[str, dict[str, Any]] = {
    "xnet": {"slices_per_scan": 6, "scans_per_batch": 2, "learning_rate": 0.003},
    "cnnres": {"slices_per_scan": 6, "scans_per_batch": 2, "learning_rate": 0.003},
}
LOCAL_EPOCHS = 12


def site(root: Path, factors: Mapping[str, float], seed: int) -> Path:
    """A site's scans as a tree: four to train on, two to validate on."""
    items: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
    for number in range(6):
        mask = lesion_mask(number)
        images = []
        for channel, (modality, factor) in enumerate(factors.items()):
            array = head(modality, np.zeros_like(mask), seed + 10 * number + channel)
            images.append(f"s{number}_{channel:04d}.nii.gz")
            write(root / images[-1], array * np.where(mask, factor, 1).astype(np.float32))
        write(root / f"m{number}.nii.gz", mask)
        item = {"image": images if len(images) > 1 else images[0], "label": f"m{number}.nii.gz"}
        items["training" if number < 4 else "validation"].append(item)
    (root / "list.json").write_text(json.dumps(items))
    return root / "list.json"


def client(folder: Path, data: Path, output: Path, name: str, settings: Mapping[str, Any]) -> MonaiAlgo:
    """A site's part of MONAI's federated learning, on the bundle as it is."""
    common = {
        "bundle_root": str(folder),
        "dataset_dir": str(data),
        "output_dir": str(output / name),
        "quiet": True,
        "device": "cpu",
        # Rounds are short: no early stop, no schedule, which would wait for a run of their own.
        "validate#handlers": [],
    }
    algo = MonaiAlgo(
        bundle_root=str(folder),
        local_epochs=LOCAL_EPOCHS,
        send_weight_diff=False,
        train_kwargs={**common, **settings, "val_interval": 1000},
        # Of train.json, whose validation has a Dice inside the engine.
        config_evaluate_filename="configs/train.json",
        eval_kwargs=dict(common),
    )
    algo.initialize(extra={ExtraItems.CLIENT_NAME: name})
    for module in algo.trainer.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # X-Net's 0.01 follows too slowly for so short a training
    return algo


def average(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Federated averaging: every site counts alike."""
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(states[0][key].dtype)
        for key in states[0]
    }


def trained(algo: MonaiAlgo, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    algo.train(ExchangeObject(weights={key: value.clone() for key, value in weights.items()}))
    return {key: value.clone() for key, value in algo.get_weights().weights.items()}


def dice(algo: MonaiAlgo, weights: dict[str, Tensor]) -> float:
    """Dice on the site's validation scans."""
    told = algo.evaluate(ExchangeObject(weights={key: value.clone() for key, value in weights.items()}))
    return float(told.metrics["val_dice"])


@pytest.mark.long
@pytest.mark.parametrize("name", list(NETWORKS))
def test_two_sites_learn_from_each_other(
    bundles: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in (xnet, cnnres):
        monkeypatch.setattr(module, "WIDTHS", SLIM)
    folder = tmp_path / f"{name}_bundle"
    shutil.copytree(bundles[name], folder)
    data = [site(tmp_path / f"site{n}", factors, 100 * n) for n, factors in enumerate(SITES[name])]
    torch.manual_seed(0)
    channels = 1 if name == "xnet" else 2
    start = {key: value.clone() for key, value in NETWORKS[name](in_channels=channels).state_dict().items()}

    sites = [
        client(folder, path, tmp_path / "runs", f"site{n}", SETTINGS[name]) for n, path in enumerate(data)
    ]
    shared = start
    for _ in range(ROUNDS):
        shared = average([trained(algo, shared) for algo in sites])
    together = [dice(algo, shared) for algo in sites]

    # As much training alone, each on its own scans.
    own = []
    for n, path in enumerate(data):
        algo = client(folder, path, tmp_path / "alone", f"site{n}", SETTINGS[name])
        weights = start
        for _ in range(ROUNDS):
            weights = trained(algo, weights)
        own.append(weights)
    elsewhere = [dice(sites[1], own[0]), dice(sites[0], own[1])]
    print(f"{name}: together {together}, alone on the other's scans {elsewhere}")
    assert together[1] > elsewhere[0] + 0.1
    assert together[0] > elsewhere[1] + 0.1

"""
MONAI's federated learning on both bundles: two sites that never share a scan, only weights.

The sites start from one set of weights, as they would from a bundle's own: here a small network that public
scans with faint lesions of both sites' kinds have taught a little. Each site has strong lesions of one kind.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
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

Weights = dict[str, Tensor]
# What lesions do to the intensity around them, by modality.
Kind = Mapping[str, float]
# Of the public scans, in turn; of the first site; of the second.
PUBLIC: dict[str, Sequence[Kind]] = {
    "xnet": ({"T1w": 0.4}, {"T1w": 1.8}),
    "cnnres": ({"DWI": 1.5, "FLAIR": 1.0}, {"DWI": 1.0, "FLAIR": 1.5}),
}
SITES: dict[str, Sequence[Kind]] = {
    "xnet": ({"T1w": 0.3}, {"T1w": 2.5}),  # old cavities; blood
    "cnnres": ({"DWI": 2.5, "FLAIR": 1.0}, {"DWI": 1.0, "FLAIR": 2.5}),  # fresh; old enough for FLAIR alone
}
SLIM = (8, 12, 16, 24, 32)  # the networks' widths
# Of the common start. At a larger rate CNN-Res's Dice alone can lead to empty masks, and none comes back.
START = {
    "xnet": {"epochs": 60, "learning_rate": 0.003},
    "cnnres": {"epochs": 60, "learning_rate": 0.001},
}
ROUNDS = 3
# Short rounds from common weights: small steps, and the batch norms' statistics stay the common ones.
AT_A_SITE = {"epochs": 8, "learning_rate": 0.001, "frozen": "batch_norm"}


def site(root: Path, kinds: Sequence[Kind], seed: int) -> Path:
    """A site's data list: four scans to train on, two to validate on, with lesions of these kinds in turn."""
    items: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
    for number in range(6):
        mask, images = lesion_mask(number), []
        for channel, (modality, factor) in enumerate(kinds[number // 2 % len(kinds)].items()):
            array = head(modality, np.zeros_like(mask), seed + 10 * number + channel)
            images.append(f"s{number}_{channel:04d}.nii.gz")
            write(root / images[-1], array * np.where(mask, factor, 1).astype(np.float32))
        write(root / f"m{number}.nii.gz", mask)
        item = {"image": images if len(images) > 1 else images[0], "label": f"m{number}.nii.gz"}
        items["training" if number < 4 else "validation"].append(item)
    (root / "list.json").write_text(json.dumps(items))
    return root / "list.json"


def client(folder: Path, data: Path, output: Path, epochs: int, **settings: Any) -> MonaiAlgo:
    """A site's part of MONAI's federated learning, on the bundle as it is."""
    common = {
        "bundle_root": str(folder),
        "dataset_dir": str(data),
        "output_dir": str(output),
        "quiet": True,
        "device": "cpu",
        # Rounds are short: no early stop, no schedule, which would wait for a run of their own.
        "validate#handlers": [],
        "lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.ConstantLR",
            "optimizer": "@optimizer",
            "factor": 1.0,
        },
    }
    sampling = {"slices_per_scan": 6, "scans_per_batch": 2, "val_interval": 1000}
    algo = MonaiAlgo(
        bundle_root=str(folder),
        local_epochs=epochs,
        send_weight_diff=False,
        train_kwargs={**common, **sampling, **settings},
        # Of train.json, whose validation has a Dice inside the engine.
        config_evaluate_filename="configs/train.json",
        eval_kwargs=dict(common),
    )
    algo.initialize(extra={ExtraItems.CLIENT_NAME: output.name})
    return algo


def average(states: Sequence[Weights]) -> Weights:
    """Federated averaging: every site counts alike."""
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(states[0][key].dtype)
        for key in states[0]
    }


def trained(algo: MonaiAlgo, weights: Weights) -> Weights:
    algo.train(ExchangeObject(weights={key: value.clone() for key, value in weights.items()}))
    return {key: value.clone() for key, value in algo.get_weights().weights.items()}


def dice(algo: MonaiAlgo, weights: Weights) -> float:
    """Dice on the site's validation scans."""
    told = algo.evaluate(ExchangeObject(weights={key: value.clone() for key, value in weights.items()}))
    return float(told.metrics["val_dice"])


def common_start(name: str, folder: Path, place: Path, seed: int) -> Weights:
    """Weights that have seen faint lesions of both kinds."""
    torch.manual_seed(seed)
    network = NETWORKS[name](in_channels=len(PUBLIC[name][0]))
    data = site(place / "public", PUBLIC[name], 1000 * seed + 700)
    algo = client(folder, data, place / "start", seed=seed, **START[name])
    for module in algo.trainer.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # X-Net's 0.01 follows too slowly for so few steps
    return trained(algo, network.state_dict())


@pytest.mark.long
@pytest.mark.parametrize("name", list(NETWORKS))
def test_two_sites_learn_from_each_other(
    bundles: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On the mean over three seeds: a single common start may have learned little of a kind of lesion."""
    for module in (xnet, cnnres):
        monkeypatch.setattr(module, "WIDTHS", SLIM)
    gains = np.array([gain(name, bundles[name], tmp_path / str(seed), seed) for seed in range(3)])
    assert (gains > 0).all()
    assert (gains.mean(0) > 0.1).all()


def gain(name: str, bundle: Path, place: Path, seed: int) -> list[float]:
    """By how much Dice on each site's scans is higher of averaged weights than of the other site's alone."""
    folder = place / f"{name}_bundle"
    shutil.copytree(bundle, folder)
    start = common_start(name, folder, place, seed)
    data = [site(place / f"site{n}", [kind], 1000 * seed + 100 * n) for n, kind in enumerate(SITES[name])]

    sites = [client(folder, path, path.parent / "run", seed=seed, **AT_A_SITE) for path in data]
    shared = start
    for _ in range(ROUNDS):
        shared = average([trained(algo, shared) for algo in sites])
    together = [dice(algo, shared) for algo in sites]

    # As much training alone, each on its own scans.
    own = []
    for path in data:
        algo = client(folder, path, path.parent / "alone", seed=seed, **AT_A_SITE)
        weights = start
        for _ in range(ROUNDS):
            weights = trained(algo, weights)
        own.append(weights)
    elsewhere = [dice(sites[0], own[1]), dice(sites[1], own[0])]
    told = [dice(algo, start) for algo in sites]
    print(f"{name}, seed {seed}: start {told}, together {together}, the other site alone {elsewhere}")
    return [ours - theirs for ours, theirs in zip(together, elsewhere, strict=True)]

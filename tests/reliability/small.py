"""Small runs of the bundles, each a process of its own, and whether what they leave is whole and the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from tests.commands import ROOT, Done, Running, start
from tests.heads import SMALL, write_tree

EPOCHS = 4
SCANS = 8

# A network of 7 thousand weights with a batch norm and dropout, which draw and count.
NETWORK = {
    "_target_": "BasicUNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "features": [4, 4, 4, 8, 8, 4],
    "dropout": 0.1,
    "norm": "batch",
}


def make_tree(root: Path) -> Path:
    """Five heads to learn from in two folds (``folds.json``), and eight to segment."""
    write_tree(root, ["T1w"])
    for number in range(3, SCANS + 1):
        source = root / "imagesTr" / f"case{1 + number % 5}.nii.gz"
        (root / "imagesTs" / f"case{number}.nii.gz").write_bytes(source.read_bytes())
    overlay = {"network_def": NETWORK, **SMALL, "slices_per_scan": 2}
    (root / "small.json").write_text(json.dumps(overlay))
    items = [
        {"image": f"imagesTr/case{n}.nii.gz", "label": f"labelsTr/case{n}.nii.gz", "fold": n % 2}
        for n in range(1, 6)
    ]
    (root / "folds.json").write_text(json.dumps({"training": items}))
    return root


def train(
    tree: Path,
    output: Path,
    *,
    resume: bool = False,
    before: Callable[[], object] | None = None,
    **settings: object,
) -> Running:
    """X-Net's train.json with the small network."""
    files = [str(ROOT / "xnet_bundle" / "configs" / "train.json"), str(tree / "small.json")]
    options = {
        "config_file": files, "bundle_root": ROOT / "xnet_bundle", "dataset_dir": tree, "output_dir": output,
        "resume": resume, "early_stop_patience": 99, "max_epochs": EPOCHS, **settings,
    }  # fmt: skip
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return start("monai.bundle", "run", "training", *words, before=before)


def predict(
    tree: Path, output: Path, before: Callable[[], object] | None = None, **settings: object
) -> Running:
    """X-Net's inference.json, with its own weights, on eight heads."""
    settings = {
        **SMALL, "save_picture": False, "save_probability": True, "dataset_dir": tree / "imagesTs", **settings
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    return start(
        "monai.bundle", "run", "--config_file", ROOT / "xnet_bundle" / "configs" / "inference.json",
        "--bundle_root", ROOT / "xnet_bundle", "--output_dir", output, *words, before=before,
    )  # fmt: skip


def experiment(tree: Path, output: Path, before: Callable[[], object] | None = None) -> Running:
    """``strokeseg experiment``: two folds of one epoch, trained and evaluated."""
    return start(
        "shared_nets.cli", "experiment", tree / "folds.json", "--model", "xnet", "--output", output,
        "--recipe", tree / "small.json", "--set", "max_epochs=1", "--quiet", before=before,
    )  # fmt: skip


def state_of(output: Path) -> dict[str, Any]:
    """What a training can be resumed from."""
    state: dict[str, Any] = torch.load(output / "models" / "last.ckpt", weights_only=True)
    return state


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def check_whole(output: Path) -> None:
    """Whatever stands in the folder under a result's name can be read to its end."""
    for path in output.rglob("*"):
        if path.name.startswith("."):
            continue  # a name nobody looks for, left by a kill
        if path.suffix in (".pt", ".ckpt"):
            torch.load(path, weights_only=True)
        elif path.name.endswith(".nii.gz"):
            np.asarray(nib.load(path).dataobj)
        elif path.suffix == ".csv":
            pd.read_csv(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())


def check_same_results(output: Path, expected: Path) -> None:
    """The same files to the byte; the same sidecars and table but for the seconds."""
    for path in expected.glob("*_label-*"):
        made = output / path.name
        if path.suffix == ".json":
            assert without_seconds(made) == without_seconds(path)
        else:
            assert made.read_bytes() == path.read_bytes()
    one, two = (pd.read_csv(folder / "lesions.csv").drop(columns="seconds") for folder in (output, expected))
    pd.testing.assert_frame_equal(one, two)


def without_seconds(sidecar: Path) -> dict[str, Any]:
    """What a mask's sidecar says, but for how long it took."""
    content: dict[str, Any] = json.loads(sidecar.read_text())
    content.get("Result", {}).pop("seconds", None)
    return content


def check_same_experiment(output: Path, expected: Path) -> None:
    """The same weights to the byte, the same table but for the seconds."""
    for path in expected.glob("fold*/models/*.safetensors"):
        assert (output / path.relative_to(expected)).read_bytes() == path.read_bytes()
    one, two = (pd.read_csv(folder / "metrics.csv").drop(columns="seconds") for folder in (output, expected))
    pd.testing.assert_frame_equal(one, two)


def told(done: Done) -> str:
    """The last thing it said on standard error."""
    return done.err.replace("\r", "\n").strip().splitlines()[-1]

"""Small data and small bundles, made once."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_nets import CNNRes, XNet
from tests.commands import ROOT, strokeseg
from tests.heads import SMALL, write_tree

pytest_plugins = ["tests.reliability_table"]

NETWORKS = {"xnet": XNet, "cnnres": CNNRes}
MODALITIES = {"xnet": ("T1w",), "cnnres": ("DWI", "FLAIR")}


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """What a test draws is its own and the same every time: one that fails can be run again."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five small heads for each bundle, as a Decathlon / nnU-Net tree."""
    folder = tmp_path_factory.mktemp("data")
    return {name: write_tree(folder / name, modalities) for name, modalities in MODALITIES.items()}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both bundles, each copied alone, with weights drawn at random and windows for small heads."""
    folder = tmp_path_factory.mktemp("bundles")
    return {name: copy_bundle(name, folder / f"{name}_bundle") for name in NETWORKS}


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release, without the package's wheel; no test may change it."""
    folder = tmp_path_factory.mktemp("release")
    done = strokeseg("release", folder, "--no-packages")
    assert done.code == 0, done.err
    return folder


def copy_bundle(name: str, folder: Path) -> Path:
    """The bundle's configs, with settings for small heads, and random weights."""
    shutil.copytree(ROOT / f"{name}_bundle" / "configs", folder / "configs")
    for file in ("train.json", "inference.json"):
        config = folder / "configs" / file
        config.write_text(json.dumps(json.loads(config.read_text()) | SMALL, indent=4))
    torch.manual_seed(0)
    (folder / "models").mkdir()
    torch.save(NETWORKS[name]().state_dict(), folder / "models" / "model.pt")
    return folder

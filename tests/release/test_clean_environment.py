"""The released archives where nothing else is: an empty folder, and only the packages that they declare."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from tests.commands import ROOT, strokeseg
from tests.conftest import NETWORKS

# The install takes what the network and the disk take.
pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

SMALL = ["--spacing", "[6.0,6.0,-1.0]", "--window", "[32,32]"]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with what the archives' requirements.txt asks for."""
    folder = tmp_path_factory.mktemp("environment")
    done = strokeseg("release", folder / "release", "--no-packages")
    assert done.code == 0, done.err
    with zipfile.ZipFile(next((folder / "release").glob("xnet_bundle_v*.zip"))) as archive:
        (folder / "requirements.txt").write_bytes(archive.read("xnet_bundle/requirements.txt"))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    made = folder / "venv" / "bin" / "python"
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pip = [made, "-m", "pip", "install", "--quiet"]
    # torch alone first, as the README says: its version decides which build of it pip takes.
    subprocess.run([*pip, next(line for line in pins if line.startswith("torch=="))], check=True)
    subprocess.run(
        [*pip, "--constraint", ROOT / "constraints.txt", "--requirement", folder / "requirements.txt"],
        check=True,
    )
    found = subprocess.run([made, "-c", "import shared_nets"], cwd=folder, capture_output=True, check=False)
    assert found.returncode  # the package is not installed
    return made


@pytest.mark.parametrize("name", list(NETWORKS))
def test_an_archive_does_all_its_work(
    python: Path, trees: Mapping[str, Path], tmp_path: Path, name: str
) -> None:
    (archive,) = (python.parents[2] / "release").glob(f"{name}_bundle_v*.zip")
    with zipfile.ZipFile(archive) as content:  # as anybody unpacks it
        content.extractall(tmp_path)
    folder = tmp_path / f"{name}_bundle"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(word) for word in (python, "-W", "ignore", "-m", *words)],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=800,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    def bundle(workflow: str, config: str, *settings: object) -> None:
        run("monai.bundle", "run", workflow, "--config_file", config, "--dataset_dir", trees[name], *settings)

    bundle(
        "training",
        "configs/train.json",
        "--output_dir",
        "run",
        "--max_epochs",
        1,
        "--slices_per_scan",
        1,
        *SMALL,
    )
    trained = torch.load(folder / "run" / "models" / "model.pt", weights_only=True)
    NETWORKS[name]().load_state_dict(trained)

    bundle(
        "evaluating", "['configs/train.json','configs/evaluate.json']", "--output_dir", "eval",
        "--weights", "run/models/model.pt", *SMALL,
    )  # fmt: skip
    assert (pd.read_csv(folder / "eval" / "metrics.csv")["status"] == "ok").all()

    # The shipped weights, by MONAI's command and by ours.
    bundle("inference", "configs/inference.json", "--output_dir", "masks", *SMALL)
    masks = sorted((folder / "masks").glob("*_mask.nii.gz"))
    assert len(masks) == 2
    for path in masks:
        channel = "" if name == "xnet" else "_0000"
        scan = nib.load(trees[name] / "imagesTs" / f"{path.name.split('_label')[0]}{channel}.nii.gz")
        np.testing.assert_array_equal(nib.load(path).affine, scan.affine)
    scans = trees[name] / "imagesTs"
    done = run("shared_nets.cli", "predict", "--model", name, scans, "--output", "ours")
    assert len(list((folder / "ours").glob("*_mask.nii.gz"))) == 2, done.stdout

"""Switches on a command line: one way to read them, and no config that reads one otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from shared_nets import is_true
from shared_nets.errors import UsageError
from tests.commands import ROOT, bundle
from tests.conftest import NETWORKS

# Switches whose value in a config is an expression.
COMPUTED = {"amp", "cpu_bfloat16"}


@pytest.mark.parametrize(("text", "meant"), [("false", False), ("True", True), (False, False), (True, True)])
def test_switches_as_a_command_line_gives_them(text: bool | str, meant: bool) -> None:
    assert is_true(text) is meant


@pytest.mark.parametrize("text", ["no", "", 1, None])
def test_what_is_no_switch(text: object) -> None:
    with pytest.raises(UsageError, match="neither true nor false"):
        is_true(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_switch_of_every_config_is_read_so(name: str) -> None:
    texts = {path: path.read_text() for path in (ROOT / f"{name}_bundle" / "configs").glob("*.json")}
    switches = COMPUTED | {
        key for text in texts.values() for key, value in json.loads(text).items() if isinstance(value, bool)
    }
    assert switches >= {"save_picture", "mirror", "quiet", "resume", "compile", "lr_every_batch"}
    for path, text in texts.items():
        for switch in switches:
            # The check reads its own, as it must be there to tell of a wrong one.
            others = re.sub(rf"shared_nets\.is_true\(@{switch}\)|check_run\(.*?\)", "", text)
            assert not re.search(rf"@{switch}\b", others), (path, switch)


def test_lower_case_from_end_to_end(
    trees: Mapping[str, Path], bundles: Mapping[str, Path], tmp_path: Path
) -> None:
    folder, scans = bundles["xnet"], trees["xnet"]
    out = tmp_path / "inference"
    done = bundle(
        config_file=folder / "configs" / "inference.json", bundle_root=folder, dataset_dir=scans / "imagesTs",
        output_dir=out, save_picture="false", save_probability="true", quiet="true", mirror="false",
    )  # fmt: skip
    assert (done.code, done.out, done.told) == (0, "", "")
    kinds = {path.name.partition("_label-")[2] for path in out.glob("case1_*")}
    assert kinds == {
        "lesion_mask.nii.gz", "lesion_mask.json", "lesion_probseg.nii.gz", "lesion_probseg.json",
    }  # fmt: skip
    sidecar = json.loads((out / "case1_label-lesion_mask.json").read_text())
    assert sidecar["Settings"]["mirror"] is False

    configs = [str(folder / "configs" / file) for file in ("train.json", "evaluate.json")]
    settings = {"config_file": str(configs), "bundle_root": folder, "dataset_dir": scans, "mirror": "true"}
    quiet = bundle("evaluating", **settings, output_dir=tmp_path / "quiet", quiet="true")
    assert (quiet.code, quiet.told) == (0, "")
    told = bundle("evaluating", **settings, output_dir=tmp_path / "told", quiet="false")
    assert told.code == 0
    assert "scan" in told.told  # the progress bar


@pytest.mark.parametrize("switch", ["save_picture", "debug"])
def test_a_typing_error_is_told_in_words(
    bundles: Mapping[str, Path], trees: Mapping[str, Path], tmp_path: Path, switch: str
) -> None:
    folder = bundles["xnet"]
    done = bundle(
        config_file=folder / "configs" / "inference.json", bundle_root=folder, output_dir=tmp_path / "out",
        dataset_dir=trees["xnet"] / "imagesTs", **{switch: "flase"},
    )  # fmt: skip
    assert done.code == 1
    assert done.told == "'flase' is neither true nor false: write one of them.\n"


def test_training_reads_them_too(
    bundles: Mapping[str, Path], trees: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = bundles["xnet"]
    settings = {
        "config_file": folder / "configs" / "train.json", "bundle_root": folder, "dataset_dir": trees["xnet"],
        "max_epochs": 1, "slices_per_scan": 1, "resume": "false", "compile": "false", "amp": "false",
        "cpu_bfloat16": "false", "quiet": "true",
    }  # fmt: skip
    done = bundle("training", **settings, output_dir=tmp_path / "quiet")
    assert (done.code, done.out) == (0, ""), done.err
    assert "epoch" not in done.told.lower()
    assert torch.load(tmp_path / "quiet" / "models" / "model.pt", weights_only=True)

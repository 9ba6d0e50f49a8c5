"""A bundle made for another version of the package is refused, wherever its network is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigWorkflow

import shared_nets
from shared_nets.errors import UsageError, own_error
from shared_nets.release.exports import bundle_network
from shared_nets.versions import check_version
from tests.bundles.configs import of_version
from tests.commands import ROOT, bundle, strokeseg


def test_one_version_is_accepted(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    for folder in (ROOT / "xnet_bundle", ROOT / "cnnres_bundle", tmp_path):
        check_version(folder)
    check_version(of_version(bundles["xnet"], shared_nets.__version__, tmp_path / "same"))
    check_version(of_version(bundles["xnet"], None, tmp_path / "silent"))


def test_the_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == shared_nets.__version__


def test_another_version_is_refused(
    bundles: Mapping[str, Path], trees: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = of_version(bundles["cnnres"], "9.0.0", tmp_path / "cnnres_bundle")
    said = rf"cnnres_bundle is made for shared_nets 9\.0\.0, but {shared_nets.__version__} is in use"
    with pytest.raises(UsageError, match=said):
        check_version(folder)
    with pytest.raises(UsageError, match=said):
        bundle_network(folder)
    flow = ConfigWorkflow(
        str(folder / "configs" / "train.json"),
        workflow_type="train",
        bundle_root=str(folder),
        dataset_dir=str(trees["cnnres"]),
    )
    flow.initialize()
    with pytest.raises(Exception, match="check_version") as caught:  # as an annotation server builds it
        _ = flow.network_def
    assert isinstance(own_error(caught.value), UsageError)
    inference = folder / "configs" / "inference.json"
    text = inference.read_text()
    assert "shared_nets.versions.check_version" in text
    # Configs of before 0.3.0 name it otherwise, as well as functions that are there no more.
    older = text.replace("shared_nets.versions.", "shared_nets.release.").replace(
        "shared_nets.weights.", "old."
    )
    for config in (text, older):
        inference.write_text(config)
        done = bundle(
            config_file=inference, bundle_root=folder,
            dataset_dir=trees["cnnres"], output_dir=tmp_path / "out",
        )  # fmt: skip
        assert done.code == 1
        assert "made for shared_nets 9.0.0" in done.told
        assert len(done.told.splitlines()) == 1
    outcome = strokeseg(
        "finetune", trees["cnnres"], "--model", "cnnres", "--bundle", folder, "--output", tmp_path / "tuned"
    )
    assert outcome.code == 1
    assert "made for shared_nets 9.0.0" in outcome.told
    assert len(outcome.told.splitlines()) == 1

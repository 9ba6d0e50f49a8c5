"""Fine-tuned weights become a bundle, with numbers from the evaluation and no claim of the old ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from shared_nets.errors import UsageError, WeightsError
from shared_nets.evaluation.metrics import METRICS
from shared_nets.evaluation.tables import FOUND, MISSED, write_summary
from shared_nets.release import check_version
from shared_nets.release.archive import write_archive
from shared_nets.release.provenance import verify_bundle
from shared_nets.release.share import _sections, share_weights
from tests.commands import ROOT, bundle, run, strokeseg
from tests.heads import head, lesion_mask, write
from tests.release.test_zoo import SCHEMA

WRITTEN_ANEW = {"Data", "Training", "Performance", "Limits"}
"""Sections of the card that `strokeseg weights share` writes."""

DATA = "12 T1-weighted scans of two sites, one year after stroke, drawn by two readers; shared with consent."


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """A summary as evaluation writes it, of three scans and one that failed."""
    rows: list[dict[str, Any]] = [
        {"scan": f"s{n}", "status": "ok", **dict.fromkeys(METRICS, 0.5), "dice": dice, FOUND: "2", MISSED: ""}
        for n, dice in enumerate((0.6, 0.7, 0.8))
    ]
    rows.append({"scan": "s9", "status": "failed"})
    folder = tmp_path / "eval"
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    write_summary(folder / "metrics.csv", folder / "summary.csv")
    return folder


@pytest.fixture
def weights(bundles: Mapping[str, Path]) -> Path:
    return bundles["cnnres"] / "models" / "model.pt"


def test_weights_become_a_bundle(evaluation: Path, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "our_cnnres"
    done = strokeseg(
        "weights", "share", folder, "--bundle", ROOT / "cnnres_bundle", "--weights", weights,
        "--evaluation", evaluation, "--data", DATA, "--authors", "Stroke Lab", "--version", "1.2.0",
    )  # fmt: skip
    assert done.code == 0, done.err
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["version"] == "1.2.0"
    assert list(metadata["changelog"]) == ["1.2.0"]
    assert (metadata["authors"], metadata["data_source"]) == ("Stroke Lab", DATA)
    assert metadata["eval_metrics"]["mean_dice"] == 0.7
    assert metadata["eval_metrics"]["scans"] == 3
    assert "simulated" not in json.dumps(metadata)  # what the shipped weights were trained on
    checked = run(
        "monai.bundle", "verify_metadata", "--meta_file", folder / "configs" / "metadata.json",
        "--filepath", SCHEMA,
    )  # fmt: skip
    assert checked.code == 0, checked.err
    check_version(folder)
    assert len(verify_bundle(folder)) == 2
    made = torch.load(folder / "models" / "model.pt", weights_only=True)
    expected = torch.load(weights, weights_only=True)
    assert all(torch.equal(made[key], expected[key]) for key in expected)

    card = (folder / "docs" / "README.md").read_text()
    base = (ROOT / "cnnres_bundle" / "docs" / "README.md").read_text()
    headings = [line for line in base.splitlines() if line.startswith("## ")]
    assert [line for line in card.splitlines() if line.startswith("## ")] == headings
    assert "not a medical device" in card
    assert DATA in card
    assert "| dice | 0.700 | " in card
    assert "1 scan(s) failed" in card
    assert "simulated" not in card
    assert "nan" not in card

    # It is a bundle like ours: packed, and run.
    assert write_archive(folder, tmp_path / "out").name == "our_cnnres_v1.2.0.zip"
    scan = write(tmp_path / "scan.nii.gz", head("DWI", lesion_mask(1), seed=1))
    done = bundle(
        "inference", config_file=folder / "configs" / "inference.json", bundle_root=folder, dataset_dir=scan,
        output_dir=tmp_path / "masks", spacing="[6.0,6.0,-1.0]", window="[32,32]",
    )  # fmt: skip
    assert done.code == 0, done.err


def test_what_is_missing_is_told(
    evaluation: Path, weights: Path, bundles: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    settings: dict[str, Any] = {
        "output": folder,
        "bundle": ROOT / "cnnres_bundle",
        "weights": weights,
        "evaluation": evaluation,
        "data": DATA,
        "authors": "Stroke Lab",
    }
    (evaluation / "other").mkdir()
    (evaluation / "other" / "summary.csv").write_text("a,b\n1,2\n")
    for change, error, said in (
        ({"data": " "}, UsageError, "Say what the weights were trained on"),
        ({"authors": ""}, UsageError, "who trained them"),
        ({"version": "v2"}, UsageError, "v2 is no version: three numbers"),
        ({"evaluation": tmp_path}, UsageError, r"summary\.csv is not there or no table"),
        ({"evaluation": evaluation / "other"}, UsageError, r"summary\.csv has no column ci_high"),
        ({"weights": tmp_path / "no.pt"}, WeightsError, r"no\.pt is missing"),
        ({"weights": bundles["xnet"] / "models" / "model.pt"}, WeightsError, "weights of X-Net"),
        ({"bundle": tmp_path}, UsageError, "is no bundle"),
        ({"output": tmp_path}, UsageError, "is there already"),
    ):
        with pytest.raises(error, match=said):
            share_weights(**settings | change)
    assert not folder.exists()
    done = strokeseg("weights", "share", folder, "--bundle", ROOT / "cnnres_bundle", "--weights", weights)
    assert done.code == 2  # without data and authors


@pytest.mark.parametrize("name", ["xnet", "cnnres"])
def test_a_card_tells_of_its_weights_only_where_sharing_writes_anew(name: str) -> None:
    card = (ROOT / f"{name}_bundle" / "docs" / "README.md").read_text()
    kept = {title: text for title, text in _sections(card).items() if title not in WRITTEN_ANEW}
    assert {"Input", "Output", "Commands"} <= kept.keys()
    assert not [title for title, text in kept.items() if "simulated" in text]

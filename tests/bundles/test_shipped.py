"""The shipped weights on the shipped scans draw what the cards and the README say."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import ROOT, strokeseg


@pytest.mark.parametrize(
    ("model", "scans", "key"),
    [("xnet", "chronic", "demo_scan_volume_ml"), ("cnnres", "acute", "demo_case_volume_ml")],
)
def test_the_demo_is_what_is_told(tmp_path: Path, model: str, scans: str, key: str) -> None:
    words = ["--model", model, "--output", tmp_path, "--device", "cpu", "--quiet"]
    done = strokeseg("predict", ROOT / "demo" / scans, *words)
    assert done.code == 0, done.err
    metadata = json.loads((ROOT / f"{model}_bundle" / "configs" / "metadata.json").read_text())
    told = metadata["eval_metrics"][key]
    assert f"| {told} mL in one piece, left: " in (ROOT / "README.md").read_text()
    rows = pd.read_csv(tmp_path / "lesions.csv")
    assert list(rows["lesion_count"]) == [1]
    # Another CPU, or none of the faster backends, moves a voxel here and there.
    assert rows["volume_ml"][0] == pytest.approx(told, rel=0.01)
    assert rows["left_ml"][0] > 0.95 * rows["volume_ml"][0]

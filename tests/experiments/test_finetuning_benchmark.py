"""`benchmarks/finetuning.py`: what it changes, what it trains on, and what its tables say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.bundles.configs import items
from tests.commands import ROOT


@pytest.mark.long
def test_before_and_after_on_cases_it_was_not_tuned_on(
    bundles: Mapping[str, Path], trees: Mapping[str, Path], tmp_path: Path
) -> None:
    tree = Path(shutil.copytree(trees["cnnres"], tmp_path / "tree"))
    listed = [{"name": f"case{n}", **items("cnnres", [n], fold=n - 1)[0]} for n in range(1, 6)]
    (tree / "datalist.json").write_text(json.dumps({"training": listed}))
    words = [
        "benchmarks/finetuning.py", "--model", "cnnres", "--bundle", bundles["cnnres"], "--dataset", tree,
        "--runs", tmp_path / "runs", "--output", tmp_path / "tables" / "found", "--epochs", "1",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr

    run = json.loads((tmp_path / "runs" / "run" / "fold0" / "run.json").read_text())
    tuned_on = {case["name"] for section in run["cases"].values() for case in section}
    assert tuned_on == {"case1", "case2"}
    table = pd.read_csv(tmp_path / "tables" / "found.csv", index_col="scan")
    assert sorted(table.index) == ["case3", "case4", "case5"]
    text = (tmp_path / "tables" / "found.md").read_text()
    assert "2 labelled cases and 1 epoch." in text
    assert f"| before | {table['dice_before'].mean():.3f} (" in text
    assert f"| after | {table['dice_after'].mean():.3f} (" in text

    for name in ("case1_0000", "case3_0000"):
        before, after = (
            np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj)
            for folder in (tree / "imagesTr", tmp_path / "runs" / "scans")
        )
        scaled = before / np.percentile(before, 99)
        inside = scaled > 0.3
        noise = (after - scaled)[inside]
        assert 0.08 < noise.std() < 0.12  # 0.1 of the 99th percentile was asked for
    masks = [tree / "labelsTr" / "case3.nii.gz", tmp_path / "runs" / "scans" / "mask_of_case3.nii.gz"]
    one, other = (np.asarray(nib.load(path).dataobj) for path in masks)
    np.testing.assert_array_equal(one, other)

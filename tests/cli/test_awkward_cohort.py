"""Twelve scans of every awkward kind, three of them broken, with the shipped weights."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from shared_nets import LesionSegmenter
from shared_nets.data import read_scan
from tests.commands import ROOT

SOUND = {
    "sub-01": "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-02_ses-1": "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii",
    "sub-02_ses-2": "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz",
    "sub-03": "sub-03/anat/sub-03_T1w.nii.gz",
    "sub-04": "sub-04/anat/sub-04_T1w.mha",
    "sub-05": "sub-05/anat/sub-05_T1w.nrrd",
    "sub-06": "sub-06/anat/sub-06_T1w.nii.gz",
    "sub-07_rec-brain": "sub-07/anat/sub-07_rec-brain_T1w.nii.gz",
    "sub-08": "sourcedata/sub-08",
}
BROKEN = {"sub-09": "is truncated", "sub-10": "5 volumes", "sub-11": "NaN"}
LESION_MM = np.array([-56, 16, 0])  # its centre in the demo's scan, by `make demo`


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_nine_results_and_three_clear_failures(tmp_path: Path) -> None:
    for library in ("itk", "nrrd", "pydicom"):
        pytest.importorskip(library)
    scans, out = tmp_path / "cohort", tmp_path / "out"
    runpy.run_path(str(ROOT / "demo" / "awkward_cohort.py"))["main"](scans)
    series = scans / SOUND["sub-08"]

    done = run("shared_nets.cli", "predict", "--model", "xnet", scans, series, "--output", out)
    assert done.returncode == 1, done.stderr
    assert "9 scans segmented, 9 with a lesion, 3 failed." in done.stdout
    table = pd.read_csv(out / "lesions.csv", index_col="scan")
    assert sorted(table.index) == sorted([*SOUND, *BROKEN])
    told = [line for line in done.stderr.splitlines() if line.startswith("Failed: ")]
    assert len(told) == 3
    for (scan, reason), sentence in zip(BROKEN.items(), told, strict=True):
        assert table.status[scan] == "failed"
        assert sentence == f"Failed: {table.message[scan]}"
        assert f"{scan}_T1w.nii.gz" in sentence
        assert reason in sentence
    assert "Traceback" not in done.stderr
    assert all(scan in (out / "report.html").read_text() for scan in table.index)

    # One head in one place, however it is stored; each mask on its own scan's grid.
    masks = {path.name.partition("_label-")[0]: path for path in out.rglob("*_mask.nii.gz")}
    assert sorted(masks) == sorted(SOUND)
    for scan, file in SOUND.items():
        row, mask, given = table.loc[scan], nib.load(masks[scan]), read_scan(str(scans / file))
        assert (row.status, row.side) == ("ok", "left")
        centre = row[["centroid_x_mm", "centroid_y_mm", "centroid_z_mm"]].to_numpy(float)
        assert np.linalg.norm(centre - LESION_MM) < 10, (scan, centre)
        assert mask.shape == given.array.shape[1:]
        np.testing.assert_allclose(mask.affine, given.affine, atol=1e-4)

    # The same through MONAI, and in Python.
    other = tmp_path / "other"
    done = run(
        "monai.bundle",
        "run",
        "--config_file",
        "xnet_bundle/configs/inference.json",
        "--bundle_root",
        "xnet_bundle",
        "--dataset_dir",
        [str(scans), str(series)],
        "--output_dir",
        other,
        "--save_picture",
        "false",
    )
    assert done.returncode == 1, done.stderr
    for path in masks.values():
        assert (other / path.relative_to(out)).read_bytes() == path.read_bytes(), path
    again = pd.read_csv(other / "lesions.csv", index_col="scan")
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), table.drop(columns="seconds"))
    found = LesionSegmenter("xnet").predict(series)
    np.testing.assert_array_equal(found.mask.dataobj, nib.load(masks["sub-08"]).dataobj)

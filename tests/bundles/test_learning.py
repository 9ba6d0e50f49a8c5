"""The bundles learn: a few small heads are segmented nearly perfectly after a minute of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.bundles.configs import config, items, write_list
from tests.commands import bundle
from tests.heads import VOXEL_MM, dice, head, lesion_mask, write

SETTINGS: dict[str, dict[str, Any]] = {
    # X-Net's batch norms follow by 1 % a step, and need hundreds of steps; here by 10 %.
    "xnet": {
        "slices_per_scan": 2,
        "max_epochs": 45,
        "initialize": str(
            [
                "$monai.utils.set_determinism(@seed)",
                "$[setattr(m, 'momentum', 0.1) for m in @network_def.modules()"
                " if isinstance(m, torch.nn.BatchNorm2d)]",
            ]
        ),
    },
    # At 0.001 Dice alone drives two seeds of three to empty masks within ten steps, and none comes back.
    "cnnres": {"slices_per_scan": 4, "max_epochs": 50, "learning_rate": 0.0003},
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_tiny_set_is_learned(
    trees: Mapping[str, Path], bundles: Mapping[str, Path], tmp_path: Path, name: str
) -> None:
    """Trained by train.json, scored by evaluate.json, applied by inference.json to a head not seen before."""
    data = write_list(
        tmp_path / "learn.json",
        trees[name],
        training=items(name, [1, 2, 3, 4]),
        validation=items(name, [5]),
    )
    weights = tmp_path / "run" / "models" / "model.pt"
    common = {"bundle_root": bundles[name], "dataset_dir": data, "quiet": True}
    done = bundle(
        "training", config_file=config(bundles[name], "train"), output_dir=tmp_path / "run",
        scans_per_batch=4, val_interval=5, **common, **SETTINGS[name],
    )  # fmt: skip
    assert done.code == 0, done.err

    done = bundle(
        "evaluating", config_file=config(bundles[name], "train", "evaluate"), output_dir=tmp_path / "eval",
        weights=weights, evaluate_on="training", **common,
    )  # fmt: skip
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "eval" / "metrics.csv")
    assert list(table["scan"]) == ["case1", "case2", "case3", "case4"]
    assert (table["status"] == "ok").all()
    assert table["dice"].mean() > 0.9

    mask = lesion_mask(7)
    modality = "T1w" if name == "xnet" else "DWI"
    scan = write(tmp_path / "new.nii.gz", head(modality, mask, seed=99))
    done = bundle(
        "inference", config_file=config(bundles[name], "inference"), output_dir=tmp_path / "out",
        weights=weights, **common | {"dataset_dir": scan},
    )  # fmt: skip
    assert done.code == 0, done.err
    made = nib.load(tmp_path / "out" / "new_label-lesion_mask.nii.gz").get_fdata()
    assert dice(made, mask) > 0.8
    row = pd.read_csv(tmp_path / "out" / "lesions.csv").iloc[0]
    # Number 7 is odd: in the lower half of the first axis, which is the left side in RAS.
    assert row["side"] == "left"
    assert row["volume_ml"] == pytest.approx(made.sum() * np.prod(VOXEL_MM) / 1000, rel=1e-3)

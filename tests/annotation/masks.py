"""Masks that a server's are compared with."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from tests.commands import bundle


def by_command(app: Path, model: str, scans: Path, output: Path) -> np.ndarray:
    """The mask that ``monai.bundle run`` makes of one case with the bundle in the app."""
    folder = app / "model" / model
    done = bundle(
        "inference", config_file=folder / "configs" / "inference.json", bundle_root=folder,
        dataset_dir=scans, output_dir=output, save_picture=False,
    )  # fmt: skip
    assert done.code == 0, done.err
    (mask,) = output.glob("*_mask.nii.gz")
    return nib.load(mask).get_fdata()

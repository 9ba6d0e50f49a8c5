"""Scans for an annotation server."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.heads import affine, head, lesion_mask, oblique, write

XNET = ["oblique", "permuted", "plain"]
CNNRES = ["stack", "pair", "alone"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans as they lie on an annotator's disk, one file each, of every awkward kind."""
    folder = tmp_path_factory.mktemp("studies")
    t1, dwi, flair = (
        head(modality, lesion_mask(n), seed=n) for n, modality in ((1, "T1w"), (2, "DWI"), (2, "FLAIR"))
    )
    write(folder / "oblique.nii.gz", t1, oblique(affine()))
    # Array axes: superior, left, posterior.
    turned = nib.Nifti1Image(t1, affine()).as_reoriented(np.array([[1, -1], [2, -1], [0, 1]]))
    nib.save(turned, folder / "permuted.nii.gz")
    write(folder / "plain.nii.gz", head("T1w", lesion_mask(3), seed=3))
    write(folder / "stack.nii.gz", np.stack([dwi, flair], axis=-1), oblique(affine()))
    write(folder / "pair.nii.gz", dwi)
    write(folder / "flair" / "pair.nii.gz", flair[:, :, ::2], affine((6, 6, 12), (32, 32, 6)))
    write(folder / "alone.nii.gz", dwi)
    return folder

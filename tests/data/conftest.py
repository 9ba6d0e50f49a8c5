"""Small NIfTI files that look enough like a head to be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

MM = 5.0  # so that 24 voxels are a plausible 120 mm


def head_affine(mm: float = MM) -> np.ndarray:
    return np.diag([mm, mm, mm, 1.0]) + np.array([[0, 0, 0, -60.0]] * 3 + [[0, 0, 0, 0]])


def asymmetric(shape: tuple[int, ...] = (24, 26, 22)) -> np.ndarray:
    """A float32 box in air whose every voxel differs, so that no flip or transposition goes unseen."""
    array = np.zeros(shape, dtype=np.float32)
    inner = tuple(slice(4, n - 4) for n in shape)
    array[inner] = 50 + np.arange(array[inner].size, dtype=np.float32).reshape(array[inner].shape) / 10
    return array


@pytest.fixture
def write_scan(tmp_path: Path) -> Callable[..., Path]:
    """``write_scan("a/b.nii.gz", array, affine)`` writes a NIfTI file under tmp_path."""

    def write(
        name: str, array: np.ndarray | None = None, affine: np.ndarray | None = None, **codes: Any
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(
            asymmetric() if array is None else array, head_affine() if affine is None else affine
        )
        if "qform" in codes:
            image.set_qform(codes["qform"], code=1)
        if codes.get("no_codes"):
            image.set_sform(None, code=0)
            image.set_qform(None, code=0)
        nib.save(image, path)
        return path

    return write

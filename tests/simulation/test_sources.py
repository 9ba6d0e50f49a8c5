"""Folders that simulation draws from: what is kept for testing, and what is wrong with them told in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_nets.errors import ScanNotFoundError, UsageError
from shared_nets.simulation import anatomies_of, held_out_masks, training_masks
from tests.simulation import heads


def test_every_fifth_mask_is_kept_for_testing(tmp_path: Path) -> None:
    for i in range(6):
        heads.save_ball(tmp_path / f"site{i % 2}" / f"mask{i}.nii.gz", radius_mm=8.0 + i)
    (tmp_path / "site0" / "._mask0.nii.gz").write_bytes(b"what macOS leaves beside a file")
    # In order: site0/mask0 (kept), 2, 4, site1/mask1, 3, 5 (kept).
    found = sorted(round((shape.volume_ml * 750 / 3.14159) ** (1 / 3)) for shape in training_masks(tmp_path))
    assert found == [9, 10, 11, 12]
    assert [path.name for path in held_out_masks(tmp_path)] == ["mask0.nii.gz", "mask5.nii.gz"]


def test_a_folder_without_masks_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match=r"gone is not there"):
        training_masks(tmp_path / "gone")
    with pytest.raises(ScanNotFoundError, match=r"no stroke masks to train on \(0 NIfTI files"):
        training_masks(tmp_path)
    heads.save_ball(tmp_path / "only.nii.gz")
    with pytest.raises(ScanNotFoundError, match=r"1 NIfTI files"):
        training_masks(tmp_path)


def test_a_missing_list_of_anatomies_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match=r"anatomies.json is not there"):
        anatomies_of(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[{",
        "{}",
        '["t1.nii.gz"]',
        '[{"scan": "t1.nii.gz"}]',
        '[{"scan": 3, "has_head": false}]',
        '[{"scan": "t1.nii.gz", "has_head": "no"}]',
    ],
)
def test_a_malformed_list_of_anatomies_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "anatomies.json").write_text(text)
    with pytest.raises(UsageError, match=r"anatomies\.json"):
        anatomies_of(tmp_path)

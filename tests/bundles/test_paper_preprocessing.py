"""The X-Net paper's preprocessing: a crop of ATLAS's grid, scaled to 0–1, reachable by config overlays."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from shared_nets.errors import ScanGeometryError, own_error

CONFIGS = Path(__file__).parents[2] / "xnet_bundle" / "configs"
# ATLAS R1.1's grid: 1 mm, MNI152.
SHAPE = (197, 233, 189)
AFFINE = np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """Unique values, so that a shift by one voxel does not go unseen."""
    x, y, z = np.indices(SHAPE)
    return (x + 2 * y + 3 * z).astype(np.float32)


@pytest.fixture(scope="module")
def paths(volume: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("atlas")
    mask = np.zeros(SHAPE, np.uint8)
    mask[100:110, 120:130, 90:95] = 1
    nib.save(nib.Nifti1Image(volume, AFFINE), folder / "scan.nii.gz")
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / "mask.nii.gz")
    return {"image": str(folder / "scan.nii.gz"), "label": str(folder / "mask.nii.gz")}


def expected(volume: np.ndarray) -> np.ndarray:
    """Slices as in the paper: 233 rows × 197 columns, rows 5:229 and columns 2:194, then 0–1."""
    slices = volume.transpose(1, 0, 2)[5:229, 2:194]
    return (slices - slices.min()) / (slices.max() - slices.min())


def parsed(names: list[str], section: str) -> object:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in names])
    return parser.get_parsed_content(section)


def test_inference(volume: np.ndarray, paths: dict[str, str]) -> None:
    preprocessing = parsed(["inference.json", "paper_inference.json"], "preprocessing")
    image = preprocessing({"image": paths["image"]})["image"]  # type: ignore[operator]
    assert image.shape == (1, 224, 192, 189)
    np.testing.assert_allclose(image[0].numpy(), expected(volume), atol=1e-6)


@pytest.mark.parametrize("other", ["shape", "voxels"])
def test_another_grid_is_refused(volume: np.ndarray, tmp_path: Path, other: str) -> None:
    """The crop at fixed voxels would take lesions away."""
    scan = nib.Nifti1Image(volume[..., :-1], AFFINE) if other == "shape" else nib.Nifti1Image(
        volume, AFFINE @ np.diag([1, 1, 1.2, 1]))  # fmt: skip
    nib.save(scan, tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(scan.shape, np.uint8), scan.affine), tmp_path / "mask.nii.gz")
    case = {"image": str(tmp_path / "scan.nii.gz"), "label": str(tmp_path / "mask.nii.gz")}
    for names, section in (
        (["inference.json", "paper_inference.json"], "preprocessing"),
        (["train.json", "paper_train.json"], "validate#preprocessing"),
    ):
        with pytest.raises(RuntimeError) as caught:
            parsed(names, section)(dict(case))  # type: ignore[operator]
        ours = own_error(caught.value)
        assert isinstance(ours, ScanGeometryError)
        assert "scan.nii.gz has 233×197×18" in str(ours)


def test_training(volume: np.ndarray, paths: dict[str, str]) -> None:
    data: dict[str, object] = dict(paths)
    for transform in parsed(["train.json", "paper_train.json"], "train#deterministic_transforms"):  # type: ignore[attr-defined]
        data = transform(data)
    np.testing.assert_allclose(data["image"][0].numpy(), expected(volume), atol=1e-6)  # type: ignore[index]
    assert data["label"].shape == (1, 224, 192, 189)  # type: ignore[attr-defined]
    # The box of the mask, moved by the crop: rows are Y, columns X.
    rows, columns, planes = np.nonzero(data["label"][0].numpy())  # type: ignore[index]
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (115, 124, 98, 107)
    assert (planes.min(), planes.max()) == (90, 94)

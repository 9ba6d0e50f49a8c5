"""
What MONAI Label itself does, for which docs/monai_label.md says how we deal with it.

A test here that fails after an upgrade of MONAI Label means that we may do with less.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai import transforms
from monai.data import MetaTensor

from shared_nets.annotation.prepare import OTHER_TASKS
from shared_nets.data import Spacingd
from tests.conftest import NETWORKS

bundle_task = pytest.importorskip(
    "monailabel.tasks.infer.bundle", reason="`make test-monailabel` installs MONAI Label"
)
restoring = pytest.importorskip("monailabel.transform.post")
writing = pytest.importorskip("monailabel.transform.writer")

pytestmark = pytest.mark.long


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64])
def test_only_some_masks_can_be_written(dtype: torch.dtype) -> None:
    mask = MetaTensor(torch.ones(4, 5, 6, dtype=dtype), affine=torch.eye(4))
    write, case = writing.Writer(), {"pred": mask, "image_path": "a.nii.gz"}
    if dtype == torch.uint8:
        path, _ = write(case)
        assert nib.load(path).shape == (4, 5, 6)
        Path(path).unlink()
    else:
        with pytest.raises(Exception, match=r"(?i)type|template|key"):
            write(case)


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_a_name_changes_the_task(bundles: Mapping[str, Path], tmp_path: Path, task: str) -> None:
    assert bundle_task.BundleInferTask(str(bundles["cnnres"]), {}).type == "segmentation"
    shutil.copytree(bundles["cnnres"], tmp_path / f"stroke_{task}")
    assert bundle_task.BundleInferTask(str(tmp_path / f"stroke_{task}"), {}).type == task


def test_wrapped_weights_are_silently_not_loaded(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "cnnres_bundle"
    shutil.copytree(bundles["cnnres"], folder)
    weights = folder / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    key = next(key for key in state if state[key].ndim == 4)

    def loaded() -> torch.Tensor:
        network = bundle_task.BundleInferTask(str(folder), {})._get_network("cpu", {})
        assert isinstance(network, NETWORKS["cnnres"])
        return network.state_dict()[key]

    assert torch.equal(loaded(), state[key])
    torch.save({"state_dict": state}, weights)
    assert not torch.equal(loaded(), state[key])


def test_its_own_way_back_only_resizes(studies: Path) -> None:
    """A turned scan's mask gets the shape and affine of the file, and its voxels are not turned back."""
    path = studies / "permuted.nii.gz"
    scan = nib.load(path)
    turn = transforms.Compose(
        [transforms.LoadImaged("image", ensure_channel_first=True), transforms.Orientationd("image", "ARS")]
    )
    case = turn({"image": str(path)})
    case["pred"] = (case["image"] > 60).to(torch.uint8)
    made = restoring.Restored("pred", "image")(case)
    np.testing.assert_allclose(made["pred_meta_dict"]["affine"], scan.affine, atol=1e-4)
    assert made["pred"].shape == scan.shape
    assert not np.array_equal(made["pred"].numpy() > 0, scan.get_fdata() > 60)


def test_monais_spacing_fails_on_the_servers_path() -> None:
    image = MetaTensor(torch.rand(1, 8, 8, 8), affine=torch.eye(4), meta={"filename_or_obj": "a.nii.gz"})
    case = {"image": image, "image_path": "a.nii.gz"}
    with pytest.raises(AttributeError, match="'str' object has no attribute 'update'"):
        transforms.Spacingd("image", (2.0, 2.0, 2.0))(case)
    assert Spacingd("image", (2.0, 2.0, 2.0))(case)["image_path"] == "a.nii.gz"

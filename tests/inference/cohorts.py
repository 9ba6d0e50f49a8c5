"""Small cohorts: scans as files, a network that needs no weights, and whole runs over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    CastToTyped,
    Compose,
    CopyItemsd,
    Invertd,
    LoadImaged,
    Orientationd,
    Spacingd,
)
from torch import Tensor, nn

from shared_nets.errors import ScanIntensityError
from shared_nets.inference import Cohort, LesionWriter, SliceWindowInferer

AFFINE = np.array([[0, -1.25, 0, 20], [-1, 0, 0, 18], [0, 0, 3, -15], [0, 0, 0, 1.0]])  # axes P, L, S
VOXEL_ML = 1.25 * 3 / 1000


class Bright(nn.Module):
    """Lesion is what is brighter than 0.8; a value above 5 is a bug, one above 3 overflows."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 5:
            raise TypeError("unsupported operand\nwith details")
        if x.max() > 3:
            return x / 0 - x / 0
        return 100 * (x - 0.8)


class Second(Bright):
    """Does something when the second scan comes."""

    def __init__(self, then: Callable[[], Any]) -> None:
        super().__init__()
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        if x.amax() > 2:
            self.then()
        return super().forward(x.clip(max=1))


class RefuseNegative:
    """Stands for the checks of loading."""

    def __call__(self, case: Mapping[str, Any]) -> Mapping[str, Any]:
        if case["image"].min() < 0:
            raise ScanIntensityError(f"{case['name']}.nii.gz: it has negative\nvoxels; export it again.")
        return case


def save(
    folder: Path, name: str, lesions: tuple[tuple[slice, slice, slice], ...] = (), value: float = 1.0
) -> dict:
    """A head of 0.5 in air of 0, with lesions of a value, as a file; and the case that it is."""
    data = np.zeros((30, 30, 8), np.float32)
    data[3:27, 3:27, 1:7] = 0.5
    for lesion in lesions:
        data[lesion] = value
    path = folder / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return {"image": str(path), "name": name}


# The second axis runs to the left.
LEFT = (slice(5, 10), slice(18, 24), slice(2, 4))  # 60 voxels
RIGHT = (slice(5, 9), slice(4, 9), slice(3, 5))  # 40 voxels


def cohort(cases: list[dict], output: Path, network: nn.Module | None = None, **settings: Any) -> Cohort:
    """A run over scans as `save` makes them, by a real MONAI evaluator."""
    labels = (("L", "R"), ("P", "A"), ("I", "S"))
    before = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            RefuseNegative(),
            Orientationd("image", axcodes="ARS", labels=labels),
            Spacingd("image", pixdim=[1, 1, -1]),
        ]
    )
    after = Compose(
        [
            Activationsd("pred", sigmoid=True),
            Invertd("pred", transform=before, orig_keys="image", nearest_interp=False),
            CopyItemsd("pred", names="probability"),
            AsDiscreted("pred", threshold=0.5),
            CastToTyped("pred", dtype=torch.uint8),
        ]
    )
    handlers = settings.pop("handlers", ())
    settings = {"writer": LesionWriter(output, save_probability=True), **settings}
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        # What a config gives: a loader over all scans, whose length must not matter.
        val_data_loader=DataLoader(Dataset(cases, before)),
        network=network or Bright(),
        inferer=SliceWindowInferer((32, 32)),
        postprocessing=after,
        val_handlers=handlers,
    )
    return Cohort(evaluator, Dataset(cases, before), output, **settings)

"""What the bundles make of a scan before the network: the same of whatever scale and field of view it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from tests.commands import ROOT
from tests.heads import head, lesion_mask, write

CASES = [("xnet", ["T1w"]), ("cnnres", ["DWI", "FLAIR"])]


def preprocessed(name: str, image: list[str], label: Path, config: str, section: str) -> torch.Tensor:
    parser = ConfigParser()
    parser.read_config(ROOT / f"{name}_bundle" / "configs" / config)
    parser["spacing"] = [6.0, 6.0, -1.0]
    case: dict[str, Any] = {"image": image if len(image) > 1 else image[0], "label": str(label)}
    return parser.get_parsed_content(section)(case)["image"].as_tensor()


@pytest.mark.parametrize(("name", "modalities"), CASES)
@pytest.mark.parametrize(
    ("config", "section"), [("inference.json", "preprocessing"), ("train.json", "validate#preprocessing")]
)
def test_a_field_of_view_that_ends_in_the_head(
    tmp_path: Path, name: str, modalities: list[str], config: str, section: str
) -> None:
    """No slices are made up beyond it, which would take part in what is averaged and in the scale."""
    mask = lesion_mask(1)[:, :, 1:-1]
    label = write(tmp_path / "label.nii.gz", mask)
    made = []
    for offset in (0.0, -1000.0):
        scans = [head(kind, lesion_mask(1), seed=1)[:, :, 1:-1] + offset for kind in modalities]
        paths = [
            str(write(tmp_path / f"{kind}{offset:g}.nii.gz", s))
            for kind, s in zip(modalities, scans, strict=True)
        ]
        made.append(preprocessed(name, paths, label, config, section))
    assert made[0].shape[-1] == mask.shape[-1]
    assert all(bool(made[0][..., z].any()) for z in range(mask.shape[-1]))
    np.testing.assert_allclose(made[0], made[1], atol=1e-4)

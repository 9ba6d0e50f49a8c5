"""Masks against ones worked out by hand and by scipy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from shared_nets.errors import UsageError
from shared_nets.inference import HysteresisThresholdd, RemoveSmallLesionsd, check_run


def mask_of(probability: np.ndarray, **thresholds: float) -> np.ndarray:
    case = {"pred": MetaTensor(probability[None].astype(np.float32), affine=np.diag([2.0, 1.0, 5.0, 1.0]))}
    return np.asarray(HysteresisThresholdd("pred", **thresholds)(case)["pred"][0])


def test_a_lesion_stays_whole_if_it_is_sure_somewhere() -> None:
    probability = np.zeros((9, 5, 3))
    probability[1, 1:4, 1] = 0.6, 0.97, 0.5  # sure in the middle
    probability[2, 4, 2] = 0.55  # joined to it by a corner
    probability[6, 1:4, 1] = 0.7, 0.94, 0.7  # nowhere sure
    probability[8, 0, 0] = 0.49
    both, sure = (mask_of(probability, threshold=0.5, peak_threshold=peak) for peak in (0.5, 0.95))
    assert both.sum() == 7
    expected = np.zeros((9, 5, 3), bool)
    expected[1, 1:4, 1] = expected[2, 4, 2] = True
    np.testing.assert_array_equal(sure, expected)


def test_its_thresholds_belong_to_the_mask() -> None:
    probability = np.array([0.25, 0.5, 0.0, 0.75, 0.25])[:, None, None]
    assert mask_of(probability, threshold=0.5).ravel().tolist() == [0, 1, 0, 1, 0]
    assert mask_of(probability, threshold=0.25, peak_threshold=0.75).ravel().tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("peak_threshold", [0.0, 0.3, 0.9, 0.99, 1.0])
def test_masks_are_those_of_scipy(threshold: float, peak_threshold: float) -> None:
    noise = np.random.default_rng(7).normal(size=(24, 20, 16))
    probability = (1 / (1 + np.exp(-8 * ndimage.gaussian_filter(noise, 1.0)))).astype(np.float32)
    labels, number = ndimage.label(probability >= np.float32(threshold), np.ones((3, 3, 3)))
    peaks = ndimage.maximum(probability, labels, np.arange(1, number + 1))
    kept = 1 + np.flatnonzero(peaks >= np.float32(peak_threshold))
    found = mask_of(probability, threshold=threshold, peak_threshold=peak_threshold)
    np.testing.assert_array_equal(found, np.isin(labels, kept))


def test_grid_and_all_else_of_a_case_stay() -> None:
    affine = np.diag([2.0, 1.0, 5.0, 1.0])
    probability = MetaTensor(torch.full((1, 4, 4, 4), 0.7), affine=affine)
    case = {"pred": probability, "name": "a"}
    out = HysteresisThresholdd("pred", threshold=0.5, peak_threshold=0.9)(case)
    assert out["pred"].dtype == torch.uint8
    assert out["name"] == "a"
    assert int(out["pred"].sum()) == 0
    np.testing.assert_array_equal(out["pred"].affine, affine)
    assert bool((case["pred"] == 0.7).all())


def test_without_probabilities_there_is_no_mask() -> None:
    with pytest.raises(KeyError, match="pred"):
        HysteresisThresholdd("pred")({"image": 1})


@pytest.mark.parametrize("peak_threshold", [-0.1, 1.5, 98, float("nan"), "high", True, None])
def test_a_peak_is_a_probability(peak_threshold: Any, tmp_path: Any) -> None:
    with pytest.raises(UsageError, match="peak_threshold is a probability, from 0 to 1, not"):
        check_run(tmp_path / "out", peak_threshold=peak_threshold)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 5.0)])
def test_small_lesions_go_by_volume(spacing: tuple[float, float, float]) -> None:
    affine = np.diag([*spacing, 1.0])
    mask = np.zeros((20, 24, 16), np.uint8)
    mask[14:18, 5:10, 2:8] = 1  # 120 voxels
    mask[1:4, 3:6, 3:5] = 1  # 18 voxels
    voxel_ml = math.prod(spacing) / 1000
    case = {"pred": MetaTensor(mask[None], affine=affine), "name": "a", "image_path": "kept"}
    for voxels, left in ((0, 138), (17, 138), (18, 138), (18.5, 120), (120, 120), (121, 0)):
        out = RemoveSmallLesionsd("pred", smallest_ml=voxels * voxel_ml)(case)
        assert int(out["pred"].sum()) == left
        assert out["pred"].dtype == torch.uint8
        np.testing.assert_array_equal(out["pred"].affine, affine)
        assert out["image_path"] == "kept"
    assert int(case["pred"].sum()) == 138


def test_a_small_part_that_shares_a_corner_stays() -> None:
    mask = np.zeros((1, 6, 6, 6), np.uint8)
    mask[0, 1:4, 1:4, 1:4] = 1
    mask[0, 4, 4, 4] = 1
    case = {"pred": MetaTensor(mask, affine=np.eye(4))}
    assert int(RemoveSmallLesionsd("pred", smallest_ml=0.028)(case)["pred"].sum()) == 28

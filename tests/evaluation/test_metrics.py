"""Metrics against values counted by hand, MONAI, SciPy, and what must hold for any two masks."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import ConfusionMatrixMetric, DiceMetric, MeanIoU
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from shared_nets.errors import MaskError, ScanGeometryError, ScanMismatchError, StrokeSegError
from shared_nets.evaluation import METRICS, case_metrics, reference_lesions
from tests.heads import oblique

MM1 = np.eye(4)
UNITLESS = ("dice", "iou", "precision", "recall", "lesion_f1")


def box(*corners: tuple[slice, ...], shape: tuple[int, int, int] = (12, 10, 8)) -> NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    for corner in corners:
        mask[corner] = 1
    return mask


def blobs(seed: int, shape: tuple[int, int, int] = (18, 15, 12), share: float = 0.08) -> NDArray[np.uint8]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    return (noise > np.quantile(noise, 1 - share)).astype(np.uint8)


S = np.s_
FAR = (-90, 31, 7)
"""Where an affine may start, far from 0."""


def test_two_boxes_counted_by_hand() -> None:
    # 4×4×4 against the same moved by 2 along x, voxels of 2×1×3 mm = 0.006 mL.
    metrics = case_metrics(box(S[4:8, 2:6, 2:6]), box(S[2:6, 2:6, 2:6]), np.diag([2.0, 1, 3, 1]))
    assert metrics == pytest.approx(
        {
            "dice": 0.5,
            "iou": 32 / 96,
            "precision": 0.5,
            "recall": 0.5,
            "lesion_f1": 1,
            "hd95_mm": 4,  # a quarter of each surface's voxels lies two voxels of 2 mm outside
            "volume_difference_ml": 0,
            "false_positive_ml": 32 * 0.006,
            "reference_ml": 64 * 0.006,
            "predicted_ml": 64 * 0.006,
            "reference_lesions": 1,
            "predicted_lesions": 1,
            "true_positive_lesions": 1,
            "false_positive_lesions": 0,
        }
    )
    assert tuple(metrics) == METRICS
    assert all(type(value) is float for value in metrics.values())


def test_precision_and_recall_are_not_exchanged() -> None:
    metrics = case_metrics(box(S[2:6, 2:6, 2:4]), box(S[2:6, 2:6, 2:6]), MM1)
    assert (metrics["precision"], metrics["recall"]) == (1, 0.5)
    assert metrics["volume_difference_ml"] == pytest.approx(0.032)
    assert metrics["false_positive_ml"] == 0


def test_lesions_counted_by_hand() -> None:
    reference = box(S[0:2, 0:2, 0:2], S[5:7, 0:2, 0:2], S[9:12, 8:10, 5:8])
    # Touches the first lesion by one voxel, fills the third, and marks two places without a lesion.
    pred = box(S[1:4, 1:2, 1:2], S[9:12, 8:10, 5:8], S[0:1, 9:10, 7:8], S[5:6, 5:6, 7:8])
    metrics = case_metrics(pred, reference, MM1)
    assert metrics["reference_lesions"] == 3
    assert metrics["predicted_lesions"] == 4
    assert metrics["true_positive_lesions"] == 2
    assert metrics["false_positive_lesions"] == 2
    assert metrics["lesion_f1"] == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
    assert [(round(v, 6), found) for v, found in reference_lesions(pred, reference, MM1)] == [
        (0.018, True),
        (0.008, True),
        (0.008, False),
    ]


def test_one_prediction_over_two_lesions_finds_both() -> None:
    metrics = case_metrics(box(S[0:9, 0:1, 0:1]), box(S[0:2, 0:1, 0:1], S[6:8, 0:1, 0:1]), MM1)
    assert (metrics["true_positive_lesions"], metrics["lesion_f1"]) == (2, 1)


def test_voxels_that_touch_by_a_corner_are_one_lesion() -> None:
    diagonal = box(S[1:2, 1:2, 1:2], S[2:3, 2:3, 2:3])
    assert case_metrics(diagonal, diagonal, MM1)["reference_lesions"] == 1


NOTHING, SOMETHING = box(), box(S[2:6, 2:6, 2:6])


def test_no_lesion_and_none_predicted_is_full_agreement() -> None:
    metrics = case_metrics(NOTHING, NOTHING, MM1)
    assert [metrics[key] for key in UNITLESS] == [1] * 5
    assert math.isnan(metrics["hd95_mm"])
    assert [metrics[key] for key in METRICS if key not in (*UNITLESS, "hd95_mm")] == [0] * 8


@pytest.mark.parametrize(("pred", "label"), [(SOMETHING, NOTHING), (NOTHING, SOMETHING)])
def test_one_empty_mask_is_no_agreement(pred: NDArray[Any], label: NDArray[Any]) -> None:
    metrics = case_metrics(pred, label, MM1)
    assert [metrics[key] for key in UNITLESS] == [0] * 5
    assert math.isnan(metrics["hd95_mm"])
    assert metrics["false_positive_ml"] == pytest.approx(0.001 * pred.sum())
    assert metrics["volume_difference_ml"] == pytest.approx(0.064)
    assert metrics["true_positive_lesions"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_overlaps_are_monais(seed: int) -> None:
    pred, label = blobs(seed), blobs(seed + 1 if seed else 0)
    ours = case_metrics(pred, label, MM1)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (pred, label)]
    dice = DiceMetric(ignore_empty=False)(*tensors)
    iou = MeanIoU(ignore_empty=False)(*tensors)
    confusion = ConfusionMatrixMetric(metric_name=["precision", "recall"])
    confusion(*tensors)
    precision, recall = confusion.aggregate()
    for key, theirs in (("dice", dice), ("iou", iou), ("precision", precision), ("recall", recall)):
        assert ours[key] == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize(("pred", "label"), list(itertools.product([NOTHING, SOMETHING], repeat=2)))
def test_empty_masks_are_scored_as_monai_does_when_it_keeps_them(
    pred: NDArray[Any], label: NDArray[Any]
) -> None:
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (pred, label)]
    ours = case_metrics(pred, label, MM1)
    assert ours["dice"] == DiceMetric(ignore_empty=False)(*tensors).item()
    assert ours["iou"] == MeanIoU(ignore_empty=False)(*tensors).item()


@pytest.mark.parametrize("seed", range(3))
def test_hausdorff_is_that_of_surface_points_in_world_space(seed: int) -> None:
    pred, label, affine = blobs(seed), blobs(seed + 10), oblique(np.diag([0.7, 1.3, 4.0, 1.0]), 33, FAR)

    def surface(mask: NDArray[np.uint8]) -> NDArray[np.float64]:
        edge = mask.astype(bool) & ~ndimage.binary_erosion(mask)
        return np.argwhere(edge) @ affine[:3, :3].T + affine[:3, 3]

    a, b = surface(pred), surface(label)
    directed = [np.percentile(cKDTree(y).query(x)[0], 95) for x, y in ((a, b), (b, a))]
    assert case_metrics(pred, label, affine)["hd95_mm"] == pytest.approx(max(directed), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_lesion_counts_are_scipys(seed: int) -> None:
    pred, label = blobs(seed, share=0.04), blobs(seed + 20, share=0.04)
    components, n = ndimage.label(label, np.ones((3, 3, 3)))
    found = {int(i) for i in np.unique(components[pred == 1])} - {0}
    metrics = case_metrics(pred, label, MM1)
    assert (metrics["reference_lesions"], metrics["true_positive_lesions"]) == (n, len(found))
    listed = reference_lesions(pred, label, MM1)
    assert sum(lesion.overlaps for lesion in listed) == len(found)
    sizes = sorted(ndimage.sum_labels(label, components, range(1, n + 1)) / 1000, reverse=True)
    assert [lesion.volume_ml for lesion in listed] == pytest.approx(sizes)


@pytest.mark.parametrize("seed", range(5))
def test_what_holds_for_any_two_masks(seed: int) -> None:
    pred, label = blobs(seed, share=0.02 * (seed + 1)), blobs(seed + 5)
    one, other = case_metrics(pred, label, MM1), case_metrics(label, pred, MM1)
    for key in ("dice", "iou", "hd95_mm", "volume_difference_ml"):
        assert one[key] == pytest.approx(other[key])
    assert (one["precision"], one["reference_ml"]) == (other["recall"], other["predicted_ml"])
    assert one["iou"] == pytest.approx(one["dice"] / (2 - one["dice"]))
    assert all(0 <= one[key] <= 1 for key in UNITLESS)
    same = case_metrics(label, label, MM1)
    assert [same[key] for key in UNITLESS] == [1] * 5
    assert same["hd95_mm"] == same["false_positive_ml"] == same["volume_difference_ml"] == 0


def test_voxel_size_changes_volumes_and_distances_only() -> None:
    pred, label = blobs(0), blobs(1)
    small, large = (
        case_metrics(pred, label, oblique(np.diag([1.0, 1.0, 1.0, 1.0]), 33, FAR)),
        case_metrics(pred, label, oblique(np.diag([2.0, 2.0, 2.0, 1.0]), 33, FAR)),
    )
    for key in METRICS:
        factor = 8 if key.endswith("_ml") else 2 if key.endswith("_mm") else 1
        assert large[key] == pytest.approx(factor * small[key])


def test_volume_of_sheared_voxels_is_the_determinant() -> None:
    affine = np.array([[1.0, 0.5, 0, 0], [0, 2, 0.25, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    assert case_metrics(SOMETHING, SOMETHING, affine)["reference_ml"] == pytest.approx(64 * 6 / 1000)


def test_all_48_orientations_of_the_grid_give_the_same_values() -> None:
    pred, label, sizes = blobs(0), blobs(1), (0.8, 1.0, 5.0)
    upright = case_metrics(pred, label, np.diag([*sizes, 1.0]))
    for order in itertools.permutations(range(3)):
        affine = np.diag([*(sizes[axis] for axis in order), 1.0])
        for count in range(4):
            for flips in itertools.combinations(range(3), count):
                turned = [np.flip(mask.transpose(order), flips) for mask in (pred, label)]
                assert case_metrics(*turned, affine) == pytest.approx(upright)


def test_every_kind_of_array_gives_the_same_values() -> None:
    pred, label = blobs(0), blobs(1)
    expected = case_metrics(pred, label, MM1)
    for kind in (np.float64, np.int16, np.bool_):
        assert case_metrics(pred.astype(kind), label, MM1) == expected
    tensors = torch.from_numpy(pred), torch.from_numpy(label).bool(), torch.eye(4)
    assert case_metrics(*tensors) == expected
    assert case_metrics(np.asfortranarray(pred), label, MM1) == expected


def one_voxel(value: float) -> NDArray[np.float32]:
    mask = NOTHING.astype(np.float32)
    mask[3, 3, 3] = value
    return mask


@pytest.mark.parametrize("value", [0.5, 2, 255, -1, 1e-6, 1.0001])
def test_a_mask_that_is_not_binary_is_refused(value: float) -> None:
    with pytest.raises(MaskError, match=rf"sub-01: the reference is not binary \(it holds {value:g}\)"):
        case_metrics(SOMETHING, one_voxel(value), MM1, "sub-01")
    with pytest.raises(MaskError, match="the prediction is not binary"):
        case_metrics(one_voxel(value), SOMETHING, MM1, "sub-01")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_mask_with_nan_is_refused(value: float) -> None:
    with pytest.raises(MaskError, match="sub-01: the prediction holds NaN or infinite"):
        case_metrics(one_voxel(value), SOMETHING, MM1, "sub-01")


@pytest.mark.parametrize("shape", [(12, 10), (1, 12, 10, 8), ()])
def test_a_mask_of_another_dimension_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MaskError, match=rf"the reference is {len(shape)}-D"):
        case_metrics(SOMETHING, np.zeros(shape, np.uint8), MM1)


@pytest.mark.parametrize("shape", [(12, 10, 7), (10, 12, 8), (1, 1, 1)])
def test_masks_of_two_sizes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(
        ScanMismatchError, match="sub-01: the prediction has 12×10×8 voxels and the reference"
    ):
        case_metrics(SOMETHING, np.zeros(shape, np.uint8), MM1, "sub-01")


@pytest.mark.parametrize(
    "affine", [np.eye(3), np.diag([1.0, 1, 0, 1]), np.full((4, 4), np.nan), np.diag([np.inf, 1, 1, 1])]
)
def test_an_affine_without_volume_is_refused(affine: NDArray[Any]) -> None:
    with pytest.raises(ScanGeometryError, match="sub-01: the affine is not an invertible 4×4 matrix"):
        case_metrics(SOMETHING, SOMETHING, affine, "sub-01")


def test_messages_are_one_sentence() -> None:
    for pred in (one_voxel(2), one_voxel(math.nan), np.zeros((2, 2)), np.zeros((2, 2, 2))):
        with pytest.raises(StrokeSegError) as caught:
            reference_lesions(pred, SOMETHING, MM1, "sub-01")
        message = str(caught.value)
        assert message.startswith("sub-01: ")
        assert message.endswith(".")
        assert "\n" not in message
        assert ". " not in message

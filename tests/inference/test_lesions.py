"""Lesion measurements against volumes and sides worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, inv_ornt_aff

from shared_nets.inference import head_midline, label_lesions, measure_lesions
from tests.heads import oblique

ORIENTATIONS = [
    [[axis, flip] for axis, flip in zip(axes, flips, strict=True)]
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


FAR = (300, -40, 12)
"""Where an affine may start, far from 0."""


def boxes(*corners: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros((20, 24, 16), np.uint8)
    for box in corners:
        mask[box] = 1
    return mask


RIGHT = (slice(14, 18), slice(5, 10), slice(2, 8))  # 120 voxels
LESS_RIGHT = (slice(14, 17), slice(5, 11), slice(2, 8))  # 108 voxels
LEFT = (slice(1, 4), slice(3, 6), slice(3, 5))  # 18 voxels
SMALL_LEFT = (slice(1, 3), slice(3, 6), slice(3, 5))  # 12 voxels


def test_two_boxes() -> None:
    affine = np.diag([2.0, 3.0, 5.0, 1.0])  # 30 mm³
    mask = boxes(RIGHT, LEFT)
    probability = np.where(mask, 0.75, 0.25).astype(np.float32)
    found = measure_lesions(mask, probability, affine, midline_x=20.0)
    assert found.volume_ml == pytest.approx(138 * 0.030)
    assert found.largest_ml == pytest.approx(120 * 0.030)
    assert found.lesion_count == 2
    assert found.max_probability == 0.75
    assert found.side == "both"
    # The voxels' centres are at x = 2 i; the midline at 20 lies between the boxes.
    assert (found.left_ml, found.right_ml) == pytest.approx((18 * 0.030, 120 * 0.030))
    right, left = (31.0, 21.0, 22.5), (4.0, 12.0, 17.5)
    mean = (120 * np.array(right) + 18 * np.array(left)) / 138
    assert (found.centroid_x_mm, found.centroid_y_mm, found.centroid_z_mm) == pytest.approx(tuple(mean))
    assert found.mean_probability == 0.75


def test_each_lesion_and_its_number_in_the_label_map() -> None:
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    mask = boxes(LEFT, RIGHT)
    probability = mask * np.linspace(0.5, 1, 20)[:, None, None]  # by the first axis
    found = measure_lesions(mask, probability, affine, midline_x=20.0).lesions
    assert [(lesion.lesion, lesion.side) for lesion in found] == [(1, "right"), (2, "left")]
    assert [lesion.volume_ml for lesion in found] == pytest.approx([3.6, 0.54])
    centres = [(lesion.centroid_x_mm, lesion.centroid_y_mm, lesion.centroid_z_mm) for lesion in found]
    np.testing.assert_allclose(centres, [(31, 21, 22.5), (4, 12, 17.5)])
    assert [lesion.mean_probability for lesion in found] == pytest.approx([0.5 + 15.5 / 38, 0.5 + 2 / 38])
    assert [lesion.max_probability for lesion in found] == pytest.approx([0.5 + 17 / 38, 0.5 + 3 / 38])
    labels = label_lesions(mask[None])
    np.testing.assert_array_equal(labels, boxes(RIGHT) + 2 * boxes(LEFT))
    assert label_lesions(boxes()).max() == 0


def test_voxels_on_the_midline_count_half_on_either_side() -> None:
    found = measure_lesions(boxes((slice(3, 6), slice(0, 1), slice(0, 1))), None, np.eye(4), 4.0)
    assert (found.left_ml, found.right_ml) == pytest.approx((0.0015, 0.0015))
    assert found.volume_ml == pytest.approx(0.003)


def test_a_sphere_has_its_volume() -> None:
    grid = np.indices((60, 60, 60)) - 30
    mask = ((grid * 0.5) ** 2).sum(axis=0) <= 12**2  # 12 mm at 0.5 mm voxels
    found = measure_lesions(mask[None], None, oblique(np.diag([0.5, 0.5, 0.5, 1.0]), 33, FAR), 0.0)
    assert found.volume_ml == pytest.approx(4 / 3 * math.pi * 1.2**3, rel=0.01)
    assert found.lesion_count == 1
    assert math.isnan(found.max_probability)


@pytest.mark.parametrize(
    ("second", "count"), [((1, 1, 1), 1), ((1, 1, 0), 1), ((1, 0, 0), 1), ((2, 0, 0), 2), ((2, 1, 1), 2)]
)
def test_voxels_that_share_a_corner_are_one_lesion(second: tuple[int, int, int], count: int) -> None:
    mask = np.zeros((5, 5, 5), bool)
    mask[1, 1, 1] = True
    mask[tuple(np.add(second, 1))] = True
    assert measure_lesions(mask, None, np.eye(4), 0.0).lesion_count == count


@pytest.mark.parametrize("ornt", ORIENTATIONS, ids=str)
@pytest.mark.parametrize("world", ["straight", "oblique"])
def test_side_is_the_patients_in_all_48_axis_orders(ornt: list[list[int]], world: str) -> None:
    straight = np.diag([1.0, 1.5, 2.0, 1.0])
    affine = oblique(straight, 15, FAR) if world == "oblique" else straight
    shape = (20, 24, 16)
    middle = float((affine @ [9.5, 11.5, 7.5, 1])[0])
    turned_affine = affine @ inv_ornt_aff(np.array(ornt), shape)
    head = MetaTensor(torch.ones(1, *apply_orientation(np.ones(shape), ornt).shape), affine=turned_affine)
    midline = head_midline(head)
    assert midline == pytest.approx(middle)
    for mask, side in (
        (boxes(RIGHT), "right"),
        (boxes((slice(0, 4), slice(12, 17), slice(2, 8))), "left"),
        (boxes(RIGHT, (slice(0, 4), slice(12, 17), slice(2, 8))), "both"),
        (boxes(), "none"),
    ):
        turned = apply_orientation(mask, ornt)
        found = measure_lesions(turned, turned / 2, turned_affine, midline)
        assert found.side == side
        assert found.volume_ml == pytest.approx(mask.sum() * 0.003)


@pytest.mark.parametrize(
    ("lesions", "side"),
    [((RIGHT, SMALL_LEFT), "right"), ((LESS_RIGHT, SMALL_LEFT), "right"), ((RIGHT, LEFT), "both")],
)
def test_a_tenth_on_the_other_side_is_still_one_side(lesions: tuple, side: str) -> None:
    # 12 of 132 voxels are 9 %; 12 of 120 are 10 %; 18 of 138 are 13 %.
    assert measure_lesions(boxes(*lesions), None, np.eye(4), 9.5).side == side


def test_side_goes_by_the_head_not_by_the_scanner() -> None:
    # The patient lies 60 mm to the scanner's right: a left lesion has positive x.
    affine = np.eye(4)
    affine[0, 3] = 50
    image = torch.zeros(1, 20, 24, 16)
    image[:, 2:18, 2:22] = 0.5
    image[:, 2:6] *= 2  # a bright side does not pull the midline
    midline = head_midline(MetaTensor(image, affine=affine))
    assert midline == pytest.approx(59.5)
    assert (
        measure_lesions(boxes((slice(4, 8), slice(4, 9), slice(3, 6))), None, affine, midline).side == "left"
    )


def test_midline_of_two_channels_and_of_nothing() -> None:
    image = torch.zeros(2, 20, 24, 16)
    assert head_midline(image, np.eye(4)) == pytest.approx(9.5)
    image[1, 4:9] = 0.5
    assert head_midline(image, np.eye(4)) == pytest.approx(6)


def test_an_empty_mask() -> None:
    found = measure_lesions(torch.zeros(1, 4, 4, 4), torch.full((1, 4, 4, 4), 0.125), np.eye(4), 0.0)
    assert (found.volume_ml, found.lesion_count, found.largest_ml) == (0, 0, 0)
    assert found.side == "none"
    assert found.max_probability == 0.125


def test_a_lesion_on_the_midline_alone_is_on_both_sides() -> None:
    mask = np.zeros((3, 3, 3))
    mask[1] = 1
    assert measure_lesions(mask, None, np.eye(4), 1.0).side == "both"


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4, 4), (1, 4, 4, 4, 1)])
def test_what_is_no_volume(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not of shape"):
        measure_lesions(np.zeros(shape), None, np.eye(4), 0.0)


def test_midline_needs_an_affine() -> None:
    with pytest.raises(ValueError, match="affine"):
        head_midline(torch.ones(1, 4, 4, 4))


def test_labels_do_not_depend_on_the_order_in_memory_or_on_what_lies_around() -> None:
    mask = np.random.default_rng(0).random((9, 8, 7)) < 0.1
    labels = label_lesions(mask)
    assert np.array_equal(label_lesions(np.asfortranarray(mask)), labels)
    assert np.array_equal(label_lesions(np.pad(mask, 3)), np.pad(labels, 3))

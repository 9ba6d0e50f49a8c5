"""Coordinates and random fields, against closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from shared_nets.simulation.fields import plane_coordinates, rotation_matrix, sample, smooth_field, widen


def test_planes_have_their_spacing_and_centre_and_run_anterior_and_right() -> None:
    centre = np.array([3.0, -18.0, 40.0])
    planes = plane_coordinates((5, 7), 2.0, centre, np.eye(3), (-1.0, 1.0)).numpy()
    assert planes.shape == (2, 5, 7, 3)
    np.testing.assert_allclose(planes.mean((0, 1, 2)), centre, atol=1e-5)
    np.testing.assert_allclose(planes[0, 1, 0] - planes[0, 0, 0], [0, 2, 0], atol=1e-5)
    np.testing.assert_allclose(planes[0, 0, 1] - planes[0, 0, 0], [2, 0, 0], atol=1e-5)
    np.testing.assert_allclose(planes[1, 0, 0] - planes[0, 0, 0], [0, 0, 2], atol=1e-5)


def test_sampling_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(2, 7, 8, 9)).astype(np.float32)
    affine = np.eye(4)
    affine[:3] = np.column_stack([rotation_matrix(np.array([10, 20, 30])) * [1.5, 2.0, 3.0], [4, -5, 6]])
    points = rng.uniform(-2, 10, (200, 3))
    ours = sample(
        torch.from_numpy(volume),
        affine,
        torch.from_numpy(points @ affine[:3, :3].T + affine[:3, 3]).float(),
    )
    theirs = [ndimage.map_coordinates(channel, points.T, order=1, mode="grid-constant") for channel in volume]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("knot_mm", [6.0, 14.0, 55.0])
def test_fields_have_about_unit_deviation_and_hills_of_the_knots_size(knot_mm: float) -> None:
    rng = np.random.default_rng(1)
    planes = plane_coordinates((56, 48), 4.0, np.array([0.0, -18.0, 5.0]), np.eye(3))
    # A plane on the knots varies more than one between: many draws.
    fields = torch.cat([smooth_field(rng, planes, knot_mm, channels=4)[:, 0] for _ in range(100)])
    assert fields.std() == pytest.approx(1, abs=0.1)
    assert abs(fields.mean()) < 0.1
    far = int(2.5 * knot_mm / 4) + 1  # pixels: further than two knots apart nothing is shared
    if far < 40:
        assert abs((fields[:, 20, 0] * fields[:, 20, far]).mean()) < 0.25
    assert (fields[:, 20, 24] * fields[:, 21, 24]).mean() > 0.3


def test_fields_follow_the_seed_and_channels_differ() -> None:
    planes = plane_coordinates((20, 20), 4.0, np.zeros(3), np.eye(3))
    one, other, third = (smooth_field(np.random.default_rng(s), planes, 12.0, 2) for s in (5, 5, 6))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert not torch.equal(one[0], one[1])


def test_rotations_are_orthonormal_and_turn_x_to_y_to_z() -> None:
    turned = rotation_matrix(np.array([10.0, -25.0, 40.0]))
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turned) == pytest.approx(1)
    np.testing.assert_allclose(rotation_matrix(np.array([0, 0, 90.0])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    # x first, then z: y goes to z and stays there.
    np.testing.assert_allclose(rotation_matrix(np.array([90.0, 0, 90.0])) @ [0, 1, 0], [0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5])
def test_widening_magnifies_its_centre_and_leaves_what_is_far(amount: float) -> None:
    centre, radii = np.array([14.0, 18.0, 8.0]), np.array([10.0, 12.0, 14.0])
    middle = torch.tensor(centre, dtype=torch.float32)
    near, far = middle + torch.tensor([0.1, 0, 0]), middle + torch.tensor([0.0, 80.0, 0])
    assert torch.allclose(widen(middle, centre, radii, amount), middle)
    assert (widen(near, centre, radii, amount) - middle)[0].item() == pytest.approx(
        0.1 * (1 - amount), rel=1e-2
    )
    assert torch.allclose(widen(far, centre, radii, amount), far, atol=1e-4)


def test_widening_never_folds_space() -> None:
    line = torch.zeros(400, 3)
    line[:, 0] = torch.linspace(-60, 60, 400)
    moved = widen(line, np.zeros(3), np.array([9.0, 9.0, 9.0]), 0.65)
    assert (moved[1:, 0] > moved[:-1, 0]).all()

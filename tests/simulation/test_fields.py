"""Coordinates and random fields, against closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from shared_nets.simulation.fields import grown, plane_coordinates, rotation_matrix, sample, smooth_field


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


FAR_MM = 24.0


def ball_closeness(radius_mm: float) -> tuple[torch.Tensor, np.ndarray]:
    """24 mm less the distance from a ball about the origin, at 1 mm, and the affine."""
    axis = np.arange(-45.0, 46.0)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    closeness = FAR_MM - np.clip(radius - radius_mm, 0, FAR_MM)
    affine = np.eye(4)
    affine[:3, 3] = -45
    return torch.from_numpy(closeness[None].astype(np.float32)), affine


def a_line(first: float, last: float) -> torch.Tensor:
    """A row of points along x, as the coordinates of a plane."""
    line = torch.zeros(1, 1, 300, 3)
    line[..., 0] = torch.linspace(first, last, 300)
    return line


@pytest.mark.parametrize("growth_mm", [0.0, 3.0, 8.0])
def test_a_structure_grows_by_as_much_as_asked_and_leaves_what_is_far(growth_mm: float) -> None:
    closeness, affine = ball_closeness(8.0)
    line = a_line(0, 40)
    moved = grown(line, closeness, affine, torch.full((1, 1, 300), growth_mm), FAR_MM)
    radius = moved[0, 0, :, 0]
    edge = line[0, 0, radius > 8.0, 0].min().item()
    # d - g (1 - d / 24)² = 0 at the new edge, d beyond the old one.
    expected = 8 + np.roots([growth_mm / FAR_MM**2, -(2 * growth_mm / FAR_MM + 1), growth_mm]).real.min()
    assert edge == pytest.approx(expected if growth_mm else 8, abs=0.5)
    far = line[0, 0, :, 0] > 8 + FAR_MM
    assert torch.equal(moved[0, 0, far], line[0, 0, far])


def test_growth_never_folds_space() -> None:
    closeness, affine = ball_closeness(6.0)
    moved = grown(a_line(4, 40), closeness, affine, torch.full((1, 1, 300), 11.0), FAR_MM)
    outside = moved[0, 0, moved[0, 0, :, 0] > 6.5, 0]
    assert (outside[1:] > outside[:-1]).all()
    assert outside[-1] == pytest.approx(40)

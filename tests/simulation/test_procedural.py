"""Procedural lesions: of the size that was drawn, in one hemisphere, where such strokes lie."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from shared_nets.simulation import LesionShape, procedural_lesion
from shared_nets.simulation.procedural import border_zone, cerebellar, lacune, territory

Kind = Callable[[np.random.Generator], LesionShape]
NUMBER = 40


def drawn(kind: Kind) -> list[LesionShape]:
    return [kind(np.random.default_rng(seed)) for seed in range(NUMBER)]


def voxels_mm(shape: LesionShape) -> np.ndarray:
    voxels = np.argwhere(shape.mask[0].numpy())
    return voxels @ shape.affine[:3, :3].T + shape.affine[:3, 3]


@pytest.mark.parametrize("kind", [territory, border_zone, cerebellar])
def test_large_ones_have_log_normal_volumes_within_bounds(kind: Kind) -> None:
    volumes = np.array([shape.volume_ml for shape in drawn(kind)])
    assert volumes.min() >= 0.09
    assert volumes.max() <= 300
    # The median of a log-normal sample of 40 lies within a factor of two, twice three standard errors.
    assert 6 < np.median(volumes) < 25
    assert volumes.max() > 3 * volumes.min()


def test_lacunes_measure_3_to_15_mm() -> None:
    # Half axes vary by a quarter around half of that; 30 mm would be no lacune.
    lengths = np.array([np.ptp(voxels_mm(shape), axis=0).max() + 1 for shape in drawn(lacune)])
    assert lengths.min() < 6
    assert 9 < lengths.max() < 30


@pytest.mark.parametrize("kind", [territory, cerebellar])
def test_infarcts_stay_in_one_hemisphere_and_sides_are_even(kind: Kind) -> None:
    sides = []
    for shape in drawn(kind):
        x = voxels_mm(shape)[:, 0]
        assert (x >= 0).all() or (x <= 0).all()
        sides.append(x.mean() > 0)
    assert 0.2 < np.mean(sides) < 0.8


def test_a_territory_widens_towards_the_surface() -> None:
    wider = 0
    for shape in drawn(territory):
        points = voxels_mm(shape)
        distance = np.linalg.norm(points - [20 * np.sign(points[:, 0].mean()), -15, 14], axis=1)
        wider += (distance > np.median([distance.min(), distance.max()])).mean() > 0.5
    assert wider > 0.8 * NUMBER


def test_cerebellar_ones_lie_low_and_at_the_back() -> None:
    for shape in drawn(cerebellar):
        _, y, z = voxels_mm(shape).mean(0)
        assert y < -30
        assert z < -15


def test_border_zones_lie_above_the_deep_nuclei() -> None:
    heights = [voxels_mm(shape)[:, 2].mean() for shape in drawn(border_zone)]
    assert np.median(heights) > 15


def test_all_kinds_come_and_a_seed_repeats_them() -> None:
    first, again = (procedural_lesion(np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.mask, again.mask)
    np.testing.assert_array_equal(first.affine, again.affine)
    volumes = [shape.volume_ml for shape in drawn(procedural_lesion)]
    assert min(volumes) < 1
    assert max(volumes) > 20

"""Scenes: the anatomy in the planes, deformed but whole, with lesions inside the brain only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared_nets.simulation import build_scene
from shared_nets.simulation.anatomy import FAR_MM
from tests.simulation import heads

ANATOMY = heads.brain()


@pytest.mark.parametrize("seed", range(8))
def test_a_scene_holds_fractions_distances_and_its_lesion(seed: int) -> None:
    scene = build_scene(
        np.random.default_rng(seed), ANATOMY, [heads.unmoved(heads.ball(20.0))], (56, 48), 4.0
    )
    planes = scene.depth.shape[0]
    assert planes in (1, 3)
    assert scene.tissues.shape == (3, planes, 56, 48)
    assert scene.tissues.min() >= 0
    assert scene.brain.max() <= 1 + 1e-5
    assert (scene.brain[scene.lesion > 0] > 0.3).all()
    assert scene.depth[scene.brain < 1e-3].min() > 0
    # The corners of the slice are far from any brain.
    torch.testing.assert_close(
        scene.depth[:, [0, 0, -1, -1], [0, -1, 0, -1]], torch.full((planes, 4), FAR_MM)
    )


def test_most_scenes_with_a_lesion_show_it() -> None:
    lesion = [heads.unmoved(heads.ball(20.0))]
    # The plane is chosen before the anatomy is deformed, so that some pass by.
    shown = [
        bool((build_scene(np.random.default_rng(seed), ANATOMY, lesion, (56, 48), 4.0).lesion > 0.5).any())
        for seed in range(30)
    ]
    assert np.mean(shown) > 0.75


def test_a_scene_without_lesions_has_none() -> None:
    scene = build_scene(np.random.default_rng(0), ANATOMY, [], (56, 48), 4.0)
    assert not scene.lesion.any()


@pytest.mark.parametrize("seed", [1, 2, 3])  # whose planes pass through both
def test_a_lesion_outside_the_brain_is_not_shown(seed: int) -> None:
    outside, across = (heads.unmoved(heads.ball(radius, (0.0, y, 5.0))) for radius, y in ((10, 95), (20, 65)))
    scene = build_scene(np.random.default_rng(seed), ANATOMY, [outside], (64, 64), 4.0)
    assert not scene.lesion.any()
    scene = build_scene(np.random.default_rng(seed), ANATOMY, [across], (64, 64), 4.0)
    assert scene.lesion.any()
    assert not scene.lesion[scene.brain <= 0.3].any()


def test_planes_pass_through_the_first_lesion() -> None:
    for seed in range(10):
        placed = [heads.unmoved(heads.ball(8.0, centre=(25.0, -20.0, z))) for z in (45.0, -30.0)]
        scene = build_scene(np.random.default_rng(seed), ANATOMY, placed, (56, 48), 4.0)
        assert 37 - 1e-3 <= scene.coordinates[..., 2].mean() <= 53 + 1e-3


def test_the_deformation_moves_no_small_lesion_out_of_the_planes() -> None:
    shown = []
    for seed in range(40):
        placed = [heads.unmoved(heads.ball(3.0, centre=(30.0, 20.0, 35.0)))]
        scene = build_scene(np.random.default_rng(seed), ANATOMY, placed, (56, 48), 3.0)
        shown.append(bool((scene.lesion > 0.4).any()))
    assert np.mean(shown) > 0.8  # half of them, at the height where it lay


def test_brains_differ_in_size_but_stay_brains() -> None:
    areas = []
    for seed in range(20):
        lesion = [heads.unmoved(heads.ball(3.0, centre=(20.0, -18.0, 5.0)))]  # fixes the plane
        scene = build_scene(np.random.default_rng(seed), ANATOMY, lesion, (56, 48), 4.0)
        areas.append((scene.brain > 0.5).float().mean(0).sum().item() * 16)
    expected = np.pi * heads.RADII_MM[0] * heads.RADII_MM[1]  # mm²
    assert np.mean(areas) == pytest.approx(expected, rel=0.1)
    assert 0.03 < np.std(areas) / expected < 0.25
    assert torch.tensor(areas).min() > 0.6 * expected


def test_beside_a_large_lesion_the_ventricle_is_wider_than_on_the_other_side() -> None:
    lesion = [heads.unmoved(heads.ball(18.0, centre=(40.0, -18.0, 5.0)))]  # 24 mL, right
    beside, opposite = 0.0, 0.0
    for seed in range(40):
        scene = build_scene(np.random.default_rng(seed), ANATOMY, lesion, (56, 48), 4.0)
        columns = scene.lesion.sum((0, 1))
        halves = scene.ventricle[..., :24].mean().item(), scene.ventricle[..., 24:].mean().item()
        right = int(columns[24:].sum() > columns[:24].sum())  # brains are mirrored half of the time
        beside, opposite = beside + halves[right], opposite + halves[1 - right]
    assert beside > 1.1 * opposite > 0


def test_ventricles_are_fluid() -> None:
    lesion = [heads.unmoved(heads.ball(3.0, centre=(20.0, -18.0, 5.0)))]  # slices at their height
    inside = []
    for seed in range(30):
        scene = build_scene(np.random.default_rng(seed), ANATOMY, lesion, (56, 48), 4.0)
        inside.append(scene.tissues[0][scene.ventricle > 0.99])
    assert len(torch.cat(inside)) > 5
    assert (torch.cat(inside) > 0.5).all()

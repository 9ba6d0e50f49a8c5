"""The stream of slices: reproducible, in range, with as many lesions as asked."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from shared_nets.errors import UsageError
from shared_nets.simulation import (
    LesionShape,
    Paint,
    Scene,
    SimulatedSlices,
    acute_contrast,
    slices,
    t1_contrast,
)
from tests.second_device import second_device
from tests.simulation import heads

ANATOMY, LESION = heads.brain(), heads.ball(18.0, centre=(30.0, -20.0, 10.0))


def stream(paint: Paint = t1_contrast, **options: Any) -> SimulatedSlices:
    return SimulatedSlices([ANATOMY], [LESION], paint, (48, 40), 4.0, **options)


def show_lesion(rng: np.random.Generator, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """A contrast that shows where the lesion is, and nothing else."""
    return scene.lesion[None], (scene.lesion > 0.5).float()


@pytest.mark.parametrize(("paint", "channels"), [(t1_contrast, 1), (acute_contrast, 2)])
def test_slices_have_their_shape_and_range(paint: Paint, channels: int) -> None:
    for item in itertools.islice(stream(paint), 20):
        assert item["image"].shape == (channels, 48, 40)
        assert item["label"].shape == (1, 48, 40)
        assert item["image"].dtype == item["label"].dtype == torch.float32
        assert item["image"].isfinite().all()
        assert item["image"].min() >= 0
        assert item["image"].max() <= 1
        assert set(item["label"].unique().tolist()) <= {0.0, 1.0}
        assert item["tissue"].shape == (48, 40)
        assert set(item["tissue"].unique().tolist()) <= set(range(5))


def test_the_same_seed_gives_the_same_slices_and_another_seed_others() -> None:
    one, again, other = (
        [item["image"] for item in itertools.islice(stream(seed=seed), 4)] for seed in (7, 7, 8)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_workers_draw_different_slices() -> None:
    loader = DataLoader(stream(), batch_size=1, num_workers=2)
    first, second = (batch["image"] for batch in itertools.islice(loader, 2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("has_head", [False, True])
@pytest.mark.parametrize("paint", [t1_contrast, acute_contrast])
def test_slices_are_simulated_where_the_anatomy_is_and_are_the_same_there(
    paint: Paint, has_head: bool
) -> None:
    anatomy = replace(ANATOMY, has_head=has_head)
    with second_device() as device:
        here, there = (
            SimulatedSlices([head], [LESION], paint, (24, 20), 8.0) for head in (anatomy, anatomy.to(device))
        )
        for seed in range(8, 20):  # among them every artefact and look-alike
            expected, item = (slices.draw(np.random.default_rng(seed)) for slices in (here, there))
            for key, value in item.items():
                assert value.device == device
                assert torch.equal(value.cpu(), expected[key])
        volumes = [slices.draw_volume(np.random.default_rng(0), 2, 30.0) for slices in (here, there)]
        for expected_part, part in zip(*volumes, strict=True):
            np.testing.assert_array_equal(torch.as_tensor(part).cpu(), expected_part)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("paint", [t1_contrast, acute_contrast])
def test_a_gpu_simulates_what_the_cpu_does_to_rounding(paint: Paint) -> None:
    here, there = (
        SimulatedSlices([head], [LESION], paint, (48, 40), 4.0) for head in (ANATOMY, ANATOMY.to("cuda"))
    )
    for seed in range(20):
        expected, item = (slices.draw(np.random.default_rng(seed)) for slices in (here, there))
        for key, value in item.items():  # blurs may be computed in TensorFloat-32
            far = (value.cpu().float() - expected[key].float()).abs() > 0.01
            assert far.float().mean() < 0.005


def test_a_volume_lies_where_its_affine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def show_place(rng: np.random.Generator, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
        """A contrast that shows where in the head each voxel is: x, y and z in metres, 0.5 being 0."""
        return (0.5 + scene.coordinates / 1000).movedim(-1, 0), scene.lesion

    monkeypatch.setattr(slices, "with_artefacts", lambda rng, image: image)
    image, label, affine = stream(show_place).draw_volume(np.random.default_rng(0), 5, 6.0)
    assert image.shape == (3, 40, 48, 5)
    assert label.shape == (40, 48, 5)
    assert abs(affine[0, 1]) > 0.1  # turned, or rotations could not be told apart
    for index in ((0, 0, 0), (39, 0, 4), (7, 47, 2)):
        place = 1000 * (image[(slice(None), *index)].double().numpy() - 0.5)
        np.testing.assert_allclose(affine[:3] @ [*index, 1], place, atol=1e-3)
    # As far apart as asked, and no mirror image.
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (4, 4, 6))
    assert np.linalg.det(affine[:3, :3]) > 0


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_share_without_lesion_is_as_asked(share: float) -> None:
    drawn = itertools.islice(stream(show_lesion, lesion_free=share), 150)
    without = np.mean([not item["image"].any() for item in drawn])
    assert without == pytest.approx(share, abs=0.1)


def test_lesions_are_on_either_side_equally_often() -> None:
    left = []
    for item in itertools.islice(stream(show_lesion, lesion_free=0.0), 200):
        columns = item["image"][0].sum(0)
        if columns.any():
            left.append(columns[:20].sum() > columns[20:].sum())
    assert np.mean(left) == pytest.approx(0.5, abs=0.12)


class EnoughError(Exception):
    """Ends a draw when its lesions are chosen."""


def test_large_lesions_are_drawn_more_often_but_not_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = heads.ball(6.0), heads.ball(18.0)
    drawn: list[int] = []

    def place(rng: np.random.Generator, shape: LesionShape) -> None:
        drawn.append(id(shape))

    def enough(*_: object) -> None:
        raise EnoughError

    monkeypatch.setattr(slices, "place", place)
    monkeypatch.setattr(slices, "build_scene", enough)
    monkeypatch.setattr(slices, "procedural_lesion", lambda rng: None)  # which takes its time
    both = SimulatedSlices([ANATOMY], [small, large], t1_contrast, (48, 40), 4.0, lesion_free=0.0)
    for seed in range(2000):
        with suppress(EnoughError):
            both.draw(np.random.default_rng(seed))
    share = drawn.count(id(large)) / (drawn.count(id(small)) + drawn.count(id(large)))
    assert share == pytest.approx(27**0.2 / (1 + 27**0.2), abs=0.03)  # 0.66; in proportion 0.96


@pytest.mark.parametrize(("anatomies", "lesions"), [([], [LESION]), ([ANATOMY], [])])
def test_nothing_to_draw_from_is_told(anatomies: list[Any], lesions: list[Any]) -> None:
    with pytest.raises(UsageError, match="at least one"):
        SimulatedSlices(anatomies, lesions, t1_contrast, (48, 40), 4.0)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_told(share: float) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        stream(lesion_free=share)

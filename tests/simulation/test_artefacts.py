"""Artefacts: what each does to a slice, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared_nets.simulation.artefacts import ghosted, moved, with_artefacts


def square() -> torch.Tensor:
    image = torch.zeros(1, 64, 64)
    image[:, 24:40, 24:40] = 1
    return image


def test_ghosts_stand_half_a_field_of_view_away() -> None:
    image = ghosted(square(), every=2, strength=0.2)
    ghost, head = image[0, 0, 32].item(), image[0, 32, 32].item()
    assert ghost == pytest.approx(0.1, abs=1e-5)  # half of the lines are 0.2 brighter
    assert head == pytest.approx(1.1, abs=1e-5)


def test_motion_of_all_lines_is_a_shift_and_of_none_nothing() -> None:
    torch.testing.assert_close(moved(square(), 3.0, 1.0), square().roll(3, -1), atol=1e-4, rtol=0)
    # The outermost line, half the sampling frequency, is the least there is.
    torch.testing.assert_close(moved(square(), 3.0, 0.0), square(), atol=0.05, rtol=0)


def test_motion_keeps_the_mean_and_blurs_edges() -> None:
    image = moved(square(), 2.0, 0.6)
    assert image.mean() == pytest.approx(square().mean().item(), rel=0.1)
    assert (image - square()).abs().max() > 0.05


def test_all_slices_of_a_measurement_have_the_same_artefacts() -> None:
    for seed in range(30):
        first, second = with_artefacts(np.random.default_rng(seed), square().repeat(2, 1, 1))
        assert torch.equal(first, second)


def test_some_slices_have_artefacts_most_have_none_and_missing_channels_stay_missing() -> None:
    slice_ = torch.cat([square(), torch.zeros(1, 64, 64)])
    made = [with_artefacts(np.random.default_rng(seed), slice_) for seed in range(400)]
    changed = [not torch.equal(image, slice_) for image in made]
    assert np.mean(changed) == pytest.approx(1 - 0.85**3, abs=0.06)  # 0.28 if one of the three never came
    for image in made:
        assert image.isfinite().all()
        assert image.min() >= 0
        assert not image[1].any()

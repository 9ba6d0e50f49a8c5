"""The pretraining's losses against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from shared_nets.training.pretraining_losses import detection_loss, tissue_loss


def test_the_loss_is_least_for_the_truth_and_hand_computed() -> None:
    label, white = torch.tensor([[[[1.0, 0.0]]]]), torch.full((1, 1, 2), 3)
    right, none, wrong = (
        detection_loss(20 * sign * (2 * label - 1), label, white).item() for sign in (1, 0, -1)
    )
    assert right == pytest.approx(0, abs=1e-4)
    assert right < none < wrong
    # p = 1/2: entropy (2 ln 2 + ln 2) / 2, Dice 1 - (2 · 0.5 + 1) / (1 + 1 + 1).
    assert none == pytest.approx(4 * 1.5 * 0.693147 + 0.3 / 3, abs=1e-4)


def test_ventricles_count_six_times_and_lesions_in_them_as_lesions() -> None:
    label, ventricle = torch.tensor([[[[1.0, 0.0]]]]), torch.full((1, 1, 2), 4)
    # (2 ln 2 + 6 ln 2) / 2.
    expected = 4 * 4 * 0.693147 + 0.3 / 3
    assert detection_loss(0 * label, label, ventricle).item() == pytest.approx(expected, abs=1e-4)


def test_tissues_under_a_lesion_are_not_learned() -> None:
    logits = torch.zeros(1, 5, 1, 2, requires_grad=True)
    label, tissue = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[2, 3]]], dtype=torch.uint8)
    loss = tissue_loss(logits, tissue, label)
    assert loss.item() == pytest.approx(1.609438 / 2, abs=1e-5)  # ln 5 for one pixel of two
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[..., 0].any()
    assert logits.grad[0, 3, 0, 1] < 0

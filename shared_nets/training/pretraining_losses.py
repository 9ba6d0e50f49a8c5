"""What pretraining minimises: the lesion's loss, and that of the healthy tissues learned beside it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from shared_nets.simulation.slices import FLUID, VENTRICLE

TISSUE_WEIGHT = 0.3
"""Of the tissues' cross entropy, beside 4 of the lesion's."""
FLUID_WEIGHT = 2.0
VENTRICLE_WEIGHT = 6.0


def detection_loss(logits: Tensor, label: Tensor, tissue: Tensor) -> Tensor:
    """
    Cross entropy, lesions and fluid weighted twice, ventricles six times, plus a little Dice over the batch.

    Cross entropy outweighs Dice: under Dice alone false positives grow with training. The widened ventricle
    beside a lesion, cisterns and fissures were taken for lesion before their weights.

    Args:
        logits: ``(N, 1, rows, columns)``.
        label: 0 or 1, of the same shape.
        tissue: ``(N, rows, columns)``, see `SimulatedSlices`.

    Returns:
        A scalar.
    """
    healthy = label == 0
    weight = 1 + label + (VENTRICLE_WEIGHT - 1) * ((tissue == VENTRICLE)[:, None] & healthy)
    weight = weight + (FLUID_WEIGHT - 1) * ((tissue == FLUID)[:, None] & healthy)
    entropy = F.binary_cross_entropy_with_logits(logits, label, weight=weight)
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * label).sum() + 1) / (probability.sum() + label.sum() + 1)
    return 4 * entropy + 0.3 * dice


def tissue_loss(logits: Tensor, tissue: Tensor, label: Tensor) -> Tensor:
    """
    Cross entropy of the healthy tissues, which keeps false positives down (SynthStroke, MELBA 2025).

    Args:
        logits: ``(N, tissues, rows, columns)``.
        tissue: ``(N, rows, columns)``, see `SimulatedSlices`.
        label: ``(N, 1, rows, columns)``; what is lesion does not count.

    Returns:
        A scalar.
    """
    entropy = F.cross_entropy(logits, tissue.long(), reduction="none")
    return (entropy * (label[:, 0] == 0)).mean()

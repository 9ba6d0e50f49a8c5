"""How unsure a probability map is, as one number."""

from __future__ import annotations

from torch import Tensor

SMALLEST_ML = 1.0  # doubt about far less than this is no doubt


def expected_disagreement(probability: Tensor, voxel_ml: float) -> float:
    """
    One minus the Dice to be expected between two masks drawn at random from the probabilities.

    For such masks the expected overlap is Σp² and the expected size Σp; 1 mL is added to both, so that a
    scan without lesion, where both are next to nothing, counts as sure.

    Args:
        probability: any shape, 0 to 1.
        voxel_ml: volume of one voxel in mL.

    Returns:
        0, sure everywhere, to 1.
    """
    values = probability.double()
    overlap, size = float((values**2).sum()) * voxel_ml, float(values.sum()) * voxel_ml
    return 1 - (overlap + SMALLEST_ML) / (size + SMALLEST_ML)

"""Artefacts of how a slice is measured, line by line in k-space: ringing, ghosts and motion."""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms import GibbsNoise
from monai.utils import convert_to_tensor
from torch import Tensor

SHARE = 0.15
"""How often each artefact is drawn."""


def with_artefacts(rng: np.random.Generator, image: Tensor) -> Tensor:
    """
    Sometimes add Gibbs ringing, ghosting and motion to one measurement's slices: to all of them or none.

    Args:
        rng: source of randomness.
        image: one channel, ``(slices, rows, columns)``, 0 or more; zeros stay so.

    Returns:
        The same shape, 0 or more.
    """
    if rng.random() < SHARE:
        ringing = GibbsNoise(alpha=rng.uniform(0.2, 0.5))
        image = torch.cat([convert_to_tensor(ringing(slice_[None]), track_meta=False) for slice_ in image])
    if rng.random() < SHARE:
        image = ghosted(image, every=int(rng.integers(2, 5)), strength=rng.uniform(0.05, 0.25))
    if rng.random() < SHARE:
        share = rng.uniform(0.1, 0.7)
        image = moved(image, float(rng.uniform(0.5, 3)), share)
    return image.abs()


def ghosted(image: Tensor, every: int, strength: float) -> Tensor:
    """
    Ghosts along the rows, as from pulsation: every so many-th line of k-space is too bright.

    Args:
        image: ``(slices, rows, columns)``.
        every: which lines; there are as many images of the head as this.
        strength: by how much they are brighter, relative.
    """
    lines = torch.fft.fft2(image)
    lines[:, ::every] *= 1 + strength
    return torch.fft.ifft2(lines).abs()


def moved(image: Tensor, pixels: float, share: float) -> Tensor:
    """
    The head moves along the columns while the outer lines of k-space are measured.

    Args:
        image: ``(slices, rows, columns)``.
        pixels: how far it moves.
        share: of the lines, the outermost ones, are measured after.
    """
    lines = torch.fft.fft2(image)
    rows, columns = (torch.fft.fftfreq(n, device=image.device) for n in image.shape[-2:])
    outer = rows.abs() >= 0.5 * (1 - share)
    shift = torch.exp(-2j * torch.pi * pixels * columns)
    lines[:, outer] = lines[:, outer] * shift
    return torch.fft.ifft2(lines).abs()

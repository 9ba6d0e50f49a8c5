"""Acute stroke on DWI and FLAIR: bright on DWI, normal to bright on FLAIR; look-alikes left unlabelled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shared_nets.simulation.anatomy import CSF
from shared_nets.simulation.appearance import (
    Range,
    atrophied,
    blob,
    blur,
    scanned,
    surrounded,
    white_matter_spots,
)
from shared_nets.simulation.fields import pixel_size, smooth_field
from shared_nets.simulation.scenes import Scene

SKULL_BASE_MM = (
    (48.0, -18.0, -24.0),  # temporal base
    (52.0, -30.0, -18.0),  # over the petrous bone
    (40.0, 5.0, -28.0),  # temporal pole
    (9.0, 48.0, -14.0),  # frontal base
    (10.0, 62.0, 2.0),  # behind the frontal sinus
    (14.0, -98.0, -8.0),  # occipital pole
)
"""Where air in the skull base brightens DWI on both sides: right side, MNI mm."""
PIECE_MM = 8.0
"""Within this distance, brightness is compared with that of the lesion's own brightest pixel."""


def acute_contrast(rng: np.random.Generator, scene: Scene) -> tuple[Tensor, Tensor]:
    """
    Paint a scene as DWI and FLAIR with acute stroke.

    FLAIR is missing (all zero) in 40 % of slices, as inference asks about DWI alone in every case;
    DWI in 10 % of those that show on FLAIR; never both.

    Args:
        rng: source of randomness.
        scene: what lies in the planes.

    Returns:
        Image ``(2, planes, rows, columns)`` (DWI, FLAIR), about 0–1, and label ``(planes, rows, columns)``,
        0 or 1.
    """
    tissues = atrophied(rng, scene.tissues)
    dwi = _tissue(rng, scene, tissues, csf=(0.05, 0.4), grey=(0.85, 1.15), white=(0.7, 1.0))
    flair = _tissue(rng, scene, tissues, csf=(0.02, 0.35), grey=(0.9, 1.1), white=(0.65, 0.95))
    dwi, flair = _with_bright_ends(rng, scene, dwi, flair)
    dwi, flair = _with_look_alikes(rng, scene, dwi, flair)

    brightening, gain = _brightening(rng, scene, tissues[CSF])
    dwi = dwi + brightening
    # In the first hours FLAIR is still normal; then it brightens as much as old white-matter disease does.
    rise = rng.uniform(0, 0.1) if rng.random() < 0.3 else rng.uniform(0.2, 1.2)
    flair = flair * (1 + brightening / gain * rise)
    label = _drawn_by_readers(scene, brightening, gain)

    stripped = rng.random() < 0.4
    dwi = surrounded(rng, scene, dwi, stripped, scalp=(0.0, 0.5), skull=(0.0, 0.15), fluid=0.15)
    flair = surrounded(rng, scene, flair, stripped, scalp=(0.3, 1.6), skull=(0.02, 0.3), fluid=0.1)
    dwi = _with_susceptibility(rng, scene, dwi)
    # DWI is brightest in a large lesion or at the skull base, FLAIR in the scalp: where tissue comes to lie
    # between 0 and 1 differs much from scan to scan.
    level = rng.uniform(0.25, 0.8)
    if rng.random() < 0.7:  # the lesion itself is the brightest, and sets the scale
        level = min(level, rng.uniform(0.75, 1.3) / (1 + gain))
    # What another b-value or echo time does to DWI is a power of its intensities.
    dwi = scanned(rng, scene, dwi, level, gamma=0.3)
    flair = scanned(rng, scene, flair, level=rng.uniform(0.22, 0.8), gamma=0.2)
    return torch.stack(_as_delivered(rng, dwi, flair, rise > 0.3, scene.planes_per_slice)), label.float()


def _tissue(
    rng: np.random.Generator, scene: Scene, tissues: Tensor, csf: Range, grey: Range, white: Range
) -> Tensor:
    """Tissues at drawn intensities; deep nuclei and cortex have structure of their own, from the T1."""
    texture = smooth_field(rng, scene.coordinates, 12.0, 3) * rng.uniform(0, 0.06)
    levels = tissues.new_tensor([rng.uniform(*csf), rng.uniform(*grey), rng.uniform(*white)])
    image = (tissues * (levels[:, None, None, None] + texture)).sum(0)
    return image * (1 + (scene.scan - 0.8) * scene.brain * rng.uniform(-0.5, 0.2))


def _with_bright_ends(
    rng: np.random.Generator, scene: Scene, dwi: Tensor, flair: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Change the brightness of the cerebellum and of the gyri at the vertex: without, networks marked them.

    On DWI by up to as much as a lesion; on FLAIR by up to a half, as beside a coil.
    """
    y, z = scene.coordinates[..., 1], scene.coordinates[..., 2]
    cerebellum = torch.sigmoid((-30 - z) / 6) * torch.sigmoid((-35 - y) / 6)  # mm of MNI space
    vertex = torch.sigmoid((z - rng.uniform(45, 65)) / 6)
    dwi = dwi * (1 + cerebellum * rng.uniform(-0.05, 0.8)) * (1 + vertex * rng.uniform(-0.2, 0.8))
    return dwi, flair * (1 + cerebellum * rng.uniform(-0.2, 0.5)) * (1 + vertex * rng.uniform(-0.2, 0.4))


def _with_look_alikes(
    rng: np.random.Generator, scene: Scene, dwi: Tensor, flair: Tensor
) -> tuple[Tensor, Tensor]:
    """What is not acute: white-matter hyperintensities, their T2 shine-through on DWI, old cavities."""
    if rng.random() < 0.6:
        spots = white_matter_spots(rng, scene)
        flair = flair * (1 + spots * rng.uniform(0.2, 1.1))
        dwi = dwi * (1 + spots * rng.uniform(-0.1, 0.25))
    if rng.random() < 0.25:
        old = blob(rng, scene, radius_mm=rng.uniform(5, 25)) * (scene.brain > 0.5)
        rim = blur(old, 2.0) * (1 - old)
        flair = flair * (1 - old * rng.uniform(0.2, 0.9)) + rim * rng.uniform(0, 0.6)
        dwi = dwi * (1 - old * rng.uniform(0.2, 0.9))
    return dwi, flair


def _brightening(rng: np.random.Generator, scene: Scene, csf: Tensor) -> tuple[Tensor, float]:
    """What the lesion adds to DWI, patchy and less in fluid, and how much that is where it is whole."""
    soft = blur(scene.lesion, rng.uniform(0.3, 1.6))
    patchy = 1 + smooth_field(rng, scene.coordinates, 10.0)[0] * rng.uniform(0, 0.45)
    gain = float(np.exp(rng.normal(np.log(0.9), 0.5)))  # tissue being about 1
    return (soft * patchy.clip(0) * gain).clip(0) * (1 - 0.7 * csf.clip(0, 1)), gain


def _drawn_by_readers(scene: Scene, brightening: Tensor, gain: float) -> Tensor:
    """
    What is at least a third as bright as the piece it belongs to: readers draw the fading border too.

    The peak is that of the neighbourhood, since spots smaller than the blur never come near ``gain``.
    """
    reach = round(PIECE_MM / pixel_size(scene.coordinates))
    peak = F.max_pool2d(brightening, 2 * reach + 1, stride=1, padding=reach).clip(max=gain)
    return (brightening > 0.33 * peak) & (brightening > 0.18) & (scene.lesion > 0.3)


def _with_susceptibility(rng: np.random.Generator, scene: Scene, dwi: Tensor) -> Tensor:
    """
    Bright artefacts of DWI: paired at the skull base, thin arcs at the rim, all that lies near a neck coil.

    Nearly all that networks marked falsely lay at the skull base before these were simulated.
    """
    edge = torch.exp(-0.5 * (blur(scene.brain, 1.5) - 0.7).square() / 0.04) * (scene.brain > 0.2)
    field = smooth_field(rng, scene.coordinates, 14.0)[0]
    folded = torch.cat([scene.coordinates[..., :1].abs(), scene.coordinates[..., 1:]], dim=-1)
    for middle in SKULL_BASE_MM:
        if rng.random() < 0.7:
            centre = folded.new_tensor(middle + rng.normal(0, 5, 3))
            sizes = folded.new_tensor(rng.uniform(6, 16, 3) * [1, 1, 0.6])
            near = torch.exp(-0.5 * ((folded - centre) / sizes).square().sum(-1))
            if rng.random() < 0.5:  # sharply bounded, along the bone
                hugging = torch.exp(-0.5 * (scene.depth / rng.uniform(4, 12)).square())
                near = torch.sigmoid((near * hugging * (1 + 0.4 * field) - rng.uniform(0.3, 0.6)) * 25)
            left, right = (float(strength) for strength in rng.uniform(0.4, 1.0, 2))
            near = near * torch.where(scene.coordinates[..., 0] < 0, left, right)
            near = near * scene.brain * (1 + 0.5 * field).clip(0)
            dwi = dwi + near * rng.uniform(0.2, 2.5)
    if rng.random() < 0.4:
        dwi = dwi + edge * torch.sigmoid((field - rng.uniform(0.6, 1.6)) * 5) * rng.uniform(0.1, 0.9)
    if rng.random() < 0.75:
        low = torch.sigmoid((-rng.uniform(25, 55) - scene.coordinates[..., 2]) / 7)
        dwi = dwi * (1 + rng.uniform(0, 2.0) * low)
    return dwi


def _as_delivered(
    rng: np.random.Generator, dwi: Tensor, flair: Tensor, dwi_may_miss: bool, planes_per_slice: int
) -> tuple[Tensor, Tensor]:
    """
    One channel missing, or FLAIR misaligned.

    DWI may be missing only where the lesion shows on FLAIR.
    """
    missing = rng.random()
    if missing < 0.4:
        flair = torch.zeros_like(flair)
    elif missing < 0.5 and dwi_may_miss:
        dwi = torch.zeros_like(dwi)
    elif rng.random() < 0.5:
        flair = _misaligned(rng, flair, most_planes=max(1, planes_per_slice - 1))
    return dwi, flair


def _misaligned(rng: np.random.Generator, flair: Tensor, most_planes: int) -> Tensor:
    """
    FLAIR as resampled from its own grid, after the patient moved and with DWI distorted.

    It shows another height, is blurred, and a few pixels off. Where FLAIR alone showed the neck, or the brain
    was wider on it than on DWI, networks trained without marked what DWI shows there.

    Args:
        rng: source of randomness.
        flair: ``(planes, rows, columns)``.
        most_planes: how many planes the other height is away at most; none lies beyond the first and last.
    """
    heights = torch.arange(len(flair), device=flair.device) + int(rng.integers(-most_planes, most_planes + 1))
    flair = flair[heights.clip(0, len(flair) - 1)]
    flair = blur(flair, rng.uniform(0.2, 1.6))
    stretch = np.diag(np.exp(rng.normal(0, [0.02, 0.05])))  # columns, and rows, where DWI is distorted
    shift = 2 * rng.normal(0, 1.5, 2) / flair.shape[:0:-1]  # pixels, in units of grid_sample
    move = flair.new_tensor(np.column_stack([stretch, shift]))
    grid = F.affine_grid(move[None].expand(len(flair), -1, -1), [len(flair), 1, *flair.shape[1:]], False)
    return F.grid_sample(flair[:, None], grid, align_corners=False)[:, 0]

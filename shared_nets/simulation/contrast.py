"""Contrasts of simulated scenes: how a lesion looks on a chronic T1, and on acute DWI and FLAIR."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shared_nets.simulation.anatomy import FAR_MM
from shared_nets.simulation.fields import smooth_field
from shared_nets.simulation.slices import Scene, blur, closed


def t1_contrast(rng: np.random.Generator, scene: Scene) -> tuple[Tensor, Tensor]:
    """
    Chronic stroke on T1: cystic cores near CSF, gliotic rims, patchy damage; look-alikes left unlabelled.

    Tissue intensities are drawn anew for every slice in T1's order (CSF < grey < white), or the
    anatomy's own intensities are kept.

    Returns:
        Image ``(1, planes, rows, columns)``, about 0–1, and label ``(planes, rows, columns)``, 0 or 1.
    """
    csf = rng.uniform(0.08, 0.38)
    white = 1.0
    grey = csf + (white - csf) * rng.uniform(0.5, 0.82)
    tissues = _atrophied(rng, scene.tissues)
    own = scene.has_head or rng.random() < 0.35
    if own:
        healthy = scene.scan.clone()
        brain = scene.tissues.sum(0)
        white_level = 1.0
        healthy = healthy * (1 + (tissues[0] - scene.tissues[0]) * (csf - 0.7)).clip(0.1)
        csf, grey = 0.3, 0.7
    else:
        brain = scene.tissues.sum(0)
        texture = smooth_field(rng, scene.coordinates, 12.0, 3) * rng.uniform(0, 0.04)
        levels = torch.tensor([csf, grey, white])[:, None, None, None] + texture
        healthy = (tissues * levels).sum(0)
        # The template's own fine structure: deep nuclei, cerebellum.
        mean = (scene.tissues * torch.tensor([0.3, 0.72, 1.0])[:, None, None, None]).sum(0)
        healthy = healthy + (scene.scan - mean) * brain * rng.uniform(0, 0.8)
        white_level = 1.0
    healthy = _white_matter_spots(rng, scene, healthy, brain, grey)

    # How far the tissue is gone: cystic everywhere, or patchy with gliosis between.
    severity = torch.sigmoid((smooth_field(rng, scene.coordinates, 14.0)[0] + rng.uniform(-0.3, 3.0)) * 2.5)
    soft = blur(scene.lesion, rng.uniform(0.3, 1.4))
    amount = soft * severity
    core = csf * rng.uniform(0.7, 1.5)
    gliosis = csf + (grey - csf) * rng.uniform(0.4, 1.0)
    inner = torch.sigmoid((blur(scene.lesion, rng.uniform(1.0, 3.0)) - rng.uniform(0.45, 0.8)) * 14)
    damaged = inner * core + (1 - inner) * gliosis
    damaged = damaged * (1 + smooth_field(rng, scene.coordinates, 8.0)[0] * rng.uniform(0, 0.12))
    image = healthy + amount * (damaged - healthy)

    # A reader draws what shows: tissue visibly darker, and the sulci enclosed by it.
    visible = ((healthy - image) > 0.14 * (white_level - csf)) & (scene.lesion > 0.4)
    already_fluid = (tissues[0] > 0.6) & (scene.lesion > 0.5)
    label = (closed((visible | already_fluid).float(), 1) > 0.5) & (scene.lesion > 0.4)
    if visible.sum() < 0.25 * label.sum():
        label = visible
    image = _surround(rng, scene, image, brain, scalp=(0.7, 1.6), skull=(0.03, 0.35), fluid=csf)
    image = _scanner(rng, scene, image, level=rng.uniform(0.5, 0.97))
    return image[None], label.float()


def acute_contrast(rng: np.random.Generator, scene: Scene) -> tuple[Tensor, Tensor]:
    """
    Acute stroke on DWI and FLAIR: bright on DWI, from normal to bright on FLAIR; look-alikes left unlabelled.

    One channel in five is missing (all zero), never both.

    Returns:
        Image ``(2, planes, rows, columns)`` (DWI, FLAIR), about 0–1, and label ``(planes, rows, columns)``.
    """
    brain = scene.tissues.sum(0)
    tissues = _atrophied(rng, scene.tissues)
    below = torch.sigmoid((-30 - scene.coordinates[..., 2]) / 6) * torch.sigmoid(
        (-35 - scene.coordinates[..., 1]) / 6
    )

    def tissue_image(
        csf: tuple[float, float], grey: tuple[float, float], white: tuple[float, float]
    ) -> Tensor:
        texture = smooth_field(rng, scene.coordinates, 12.0, 3) * rng.uniform(0, 0.06)
        levels = torch.tensor([rng.uniform(*csf), rng.uniform(*grey), rng.uniform(*white)])
        image = (tissues * (levels.float()[:, None, None, None] + texture)).sum(0)
        # Deep nuclei and cortex have structure of their own.
        return image * (1 + (scene.scan - 0.8) * brain * rng.uniform(-0.5, 0.2))

    dwi = tissue_image((0.05, 0.4), (0.85, 1.15), (0.7, 1.0))
    flair = tissue_image((0.02, 0.35), (0.9, 1.1), (0.65, 0.95))
    dwi = dwi * (1 + below * rng.uniform(-0.05, 0.35))
    flair = flair * (1 + below * rng.uniform(-0.1, 0.15))

    # Not acute: white-matter hyperintensities, T2 shine-through, old cavities.
    if rng.random() < 0.6:
        spots = _spots(rng, scene, near_fluid=True)
        flair = flair * (1 + spots * rng.uniform(0.2, 1.1))
        dwi = dwi * (1 + spots * rng.uniform(-0.1, 0.25))
    if rng.random() < 0.25:
        old = _blob(rng, scene, rng.uniform(5, 25)) * (brain > 0.5)
        flair = flair * (1 - old * rng.uniform(0.2, 0.9)) + blur(old, 2.0) * (1 - old) * rng.uniform(0, 0.6)
        dwi = dwi * (1 - old * rng.uniform(0.2, 0.9))

    soft = blur(scene.lesion, rng.uniform(0.3, 1.6))
    patchy = 1 + smooth_field(rng, scene.coordinates, 10.0)[0] * rng.uniform(0, 0.45)
    gain = np.exp(rng.normal(np.log(0.9), 0.5))
    brightening = (soft * patchy.clip(0) * gain).clip(0) * (1 - 0.7 * tissues[0].clip(0, 1))
    dwi_lesion = dwi + brightening
    age = rng.uniform(-0.3, 1.0)
    flair_lesion = flair * (1 + brightening / gain * max(0.0, age) * rng.uniform(0.2, 0.9))

    # Label down to a third of the peak: readers draw the fading border too.
    label = (brightening > 0.33 * gain) & (brightening > 0.18) & (scene.lesion > 0.3)
    dwi_lesion = _surround(rng, scene, dwi_lesion, brain, scalp=(0.0, 0.5), skull=(0.0, 0.15), fluid=0.15)
    flair_lesion = _surround(rng, scene, flair_lesion, brain, scalp=(0.3, 1.6), skull=(0.02, 0.3), fluid=0.1)
    dwi_lesion = _susceptibility(rng, scene, dwi_lesion)

    tissue_level = rng.uniform(0.22, 0.62)
    dwi_lesion = _scanner(rng, scene, dwi_lesion, level=tissue_level)
    flair_lesion = _scanner(rng, scene, flair_lesion, level=rng.uniform(0.35, 0.75))
    missing = rng.random()
    if missing < 0.3:
        flair_lesion = torch.zeros_like(flair_lesion)
    elif missing < 0.36 and age > 0.4:
        dwi_lesion = torch.zeros_like(dwi_lesion)
    elif rng.random() < 0.4:
        # FLAIR comes from another grid: blurred by resampling, shifted by a registration error.
        flair_lesion = blur(flair_lesion, rng.uniform(0.4, 1.6))
        flair_lesion = torch.roll(flair_lesion, tuple(rng.integers(-1, 2, 2).tolist()), dims=(-2, -1))
    return torch.stack([dwi_lesion, flair_lesion]), label.float()


def _atrophied(rng: np.random.Generator, tissues: Tensor) -> Tensor:
    """Widen sulci: grey matter that borders on fluid turns partly into fluid."""
    amount = max(0.0, rng.normal(0.1, 0.35))
    near = blur(tissues[0], 1.5)
    lost = (tissues[1] * (near * 2.5 * amount)).clip(max=0.95 * tissues[1])
    return torch.stack([tissues[0] + lost, tissues[1] - lost, tissues[2]])


def _blob(rng: np.random.Generator, scene: Scene, radius_mm: float) -> Tensor:
    """A soft irregular blob somewhere in the slice, 0–1."""
    rows, columns = scene.depth.shape[-2:]
    middle = scene.coordinates[0, int(rng.uniform(0.2, 0.8) * rows), int(rng.uniform(0.25, 0.75) * columns)]
    distance = (scene.coordinates - middle).square().sum(-1).sqrt()
    distance = distance + smooth_field(rng, scene.coordinates, 10.0)[0] * radius_mm * 0.4
    return torch.sigmoid((radius_mm - distance) * 1.2)


def _spots(rng: np.random.Generator, scene: Scene, near_fluid: bool) -> Tensor:
    """Spots of white-matter disease, 0–1: caps around the ventricles and points in the white matter."""
    field = smooth_field(rng, scene.coordinates, rng.uniform(5, 14))[0]
    field = field + (3.0 * blur(scene.tissues[0], 4.0) if near_fluid else 0.0)
    return torch.sigmoid((field - rng.uniform(1.4, 2.6)) * 5) * scene.tissues[2]


def _white_matter_spots(
    rng: np.random.Generator, scene: Scene, image: Tensor, brain: Tensor, grey: float
) -> Tensor:
    """White-matter disease on T1: mildly dark, not a stroke."""
    if rng.random() > 0.4:
        return image
    return image + _spots(rng, scene, near_fluid=True) * (grey - image) * rng.uniform(0.3, 1.1)


def _surround(
    rng: np.random.Generator,
    scene: Scene,
    image: Tensor,
    brain: Tensor,
    scalp: tuple[float, float],
    skull: tuple[float, float],
    fluid: float,
) -> Tensor:
    """
    What lies around the brain: nothing (stripped), or fluid, skull and scalp in layers of random thickness.

    A real head keeps its own surroundings, unless it is stripped too.
    """
    inside = brain.clip(0, 1)
    if rng.random() < 0.3:
        return image * inside
    if scene.has_head:
        return inside * image + (1 - inside) * scene.scan * rng.uniform(*scalp)
    jitter = smooth_field(rng, scene.coordinates, 25.0)[0]
    depth = scene.depth * (1 + 0.12 * jitter) + 0.3 * smooth_field(rng, scene.coordinates, 12.0)[0]
    edges = np.cumsum([rng.uniform(0.5, 4), rng.uniform(2, 6), rng.uniform(0, 3), rng.uniform(2, 8)])
    marrow = rng.uniform(*skull) + rng.uniform(0, 0.4) * rng.uniform(*scalp) * (rng.random() < 0.5)
    levels = [fluid * rng.uniform(0.4, 1.2), rng.uniform(*skull), marrow, rng.uniform(*scalp)]
    texture = 1 + smooth_field(rng, scene.coordinates, 6.0)[0] * rng.uniform(0, 0.3)
    depth = torch.where(scene.depth > 0.95 * FAR_MM, torch.inf, depth)
    around = torch.zeros_like(image)
    for edge, level in zip(edges[::-1], levels[::-1], strict=True):
        around = torch.where(depth < edge, level * texture, around)
    if rng.random() < 0.3:
        # A defaced scan: the front of the head is cut away.
        cut = scene.coordinates[..., 1] > rng.uniform(40, 75)
        around = torch.where(cut & (scene.depth > 1), 0.0, around)
    return inside * image + (1 - inside) * around.clip(0)


def _susceptibility(rng: np.random.Generator, scene: Scene, dwi: Tensor) -> Tensor:
    """Bright spots and arcs of DWI where air meets brain: paired at the skull base, thin arcs at the rim."""
    edge = torch.exp(-0.5 * (blur(scene.tissues.sum(0), 1.5) - 0.7).square() / 0.04) * (
        scene.tissues.sum(0) > 0.2
    )
    low = torch.sigmoid((-8 - scene.coordinates[..., 2]) / 8)
    field = smooth_field(rng, scene.coordinates, 14.0)[0]
    mirrored = smooth_field(rng, scene.coordinates.abs(), 16.0)[0]
    if rng.random() < 0.7:
        dwi = dwi + (
            low * edge * torch.sigmoid((mirrored + 0.4 * field - rng.uniform(0.2, 1.0)) * 5)
        ) * rng.uniform(0.2, 1.6)
    if rng.random() < 0.4:
        dwi = dwi + edge * torch.sigmoid((field - rng.uniform(0.6, 1.6)) * 5) * rng.uniform(0.1, 0.9)
    return dwi


def _scanner(rng: np.random.Generator, scene: Scene, image: Tensor, level: float) -> Tensor:
    """Bias field, gamma, resolution and Rician noise; ``level`` is where tissue of intensity 1 ends up."""
    bias = torch.exp(smooth_field(rng, scene.coordinates, 90.0)[0] * rng.uniform(0, 0.18))
    image = image.clip(0) * bias * level
    image = image.clip(1e-4, 1.5) ** np.exp(rng.normal(0, 0.12))
    if rng.random() < 0.4:
        image = blur(image, rng.uniform(0.25, 0.9))
    if rng.random() < 0.2:
        image = image + rng.uniform(0.2, 0.8) * (image - blur(image, 1.0))
    sigma = rng.uniform(0, 0.05) * level / np.sqrt(len(image))
    real, imaginary = (torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32)) for _ in range(2))
    return ((image + sigma * real).square() + (sigma * imaginary).square()).sqrt()

"""Chronic stroke on T1: cystic cores near CSF, gliotic rims, patchy damage; look-alikes left unlabelled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shared_nets.simulation.anatomy import CSF, USUAL_FLUID, WHITE
from shared_nets.simulation.appearance import atrophied, blur, closed, scanned, surrounded, white_matter_spots
from shared_nets.simulation.fields import pixel_size, smooth_field
from shared_nets.simulation.scenes import Scene

TEMPLATE_LEVELS = (USUAL_FLUID, 0.72, 1.0)
"""CSF, grey and white matter in the anatomies' own T1 scans, white matter being 1."""
ENCLOSED_MM = 12.0
"""Sulci and spared tissue of up to this width, between damaged tissue, are drawn as part of the lesion."""
CAVUM_MM = (0.0, 6.0, 12.0)
CAVUM_RADII_MM = (4.0, 16.0, 6.0)
"""Cavum septi pellucidi: between the frontal horns in MNI space."""


def t1_contrast(rng: np.random.Generator, scene: Scene) -> tuple[Tensor, Tensor]:
    """
    Paint a scene as T1 with chronic stroke.

    Tissue intensities are drawn anew for every slice in T1's order (CSF < grey < white), or the anatomy's
    own are kept. In a trial, drawn ones found lesions better than the anatomies' own, with fewer false
    alarms; any order at all taught nothing in the same time.

    Args:
        rng: source of randomness.
        scene: what lies in the planes.

    Returns:
        Image ``(1, planes, rows, columns)``, about 0–1, and label ``(planes, rows, columns)``, 0 or 1.
    """
    csf = rng.uniform(0.08, 0.38)
    grey = csf + (1 - csf) * rng.uniform(0.5, 0.82)
    tissues = atrophied(rng, scene.tissues)
    if scene.has_head or rng.random() < 0.35:
        csf, grey = scene.fluid, 0.7
        healthy = _own_tissue(scene, tissues, csf)
    else:
        healthy = _drawn_tissue(rng, scene, tissues, csf, grey)
    if rng.random() <= 0.4:
        healthy = healthy + white_matter_spots(rng, scene) * (grey - healthy) * rng.uniform(0.3, 1.1)

    if rng.random() < 0.3:
        healthy = healthy + _harmless_fluid(rng, scene) * (csf - healthy)

    image = _with_lesion(rng, scene, healthy, csf, grey)
    label = _visible_lesion(scene, (healthy - image) / (1 - csf), tissues[CSF])
    image = surrounded(rng, scene, image, rng.random() < 0.3, scalp=(0.7, 1.6), skull=(0.03, 0.35), fluid=csf)
    image = scanned(rng, scene, image, level=rng.uniform(0.35, 0.97))
    return image[None], label.float()


def _own_tissue(scene: Scene, tissues: Tensor, csf: float) -> Tensor:
    """The anatomy's own T1, darker where grey matter has turned to fluid."""
    return scene.scan * (1 + (tissues[CSF] - scene.tissues[CSF]) * (csf - 0.7)).clip(0.1)


def _drawn_tissue(rng: np.random.Generator, scene: Scene, tissues: Tensor, csf: float, grey: float) -> Tensor:
    """Tissues at given intensities (white matter 1), with some of the anatomy's own fine structure."""
    texture = smooth_field(rng, scene.coordinates, 12.0, 3) * rng.uniform(0, 0.04)
    levels = tissues.new_tensor([csf, grey, 1.0])[:, None, None, None] + texture
    # What tissue fractions do not tell: deep nuclei, cerebellum.
    expected = (scene.tissues * tissues.new_tensor(TEMPLATE_LEVELS)[:, None, None, None]).sum(0)
    return (tissues * levels).sum(0) + (scene.scan - expected) * scene.brain * rng.uniform(0, 0.8)


def _harmless_fluid(rng: np.random.Generator, scene: Scene) -> Tensor:
    """Wide perivascular spaces, dots of fluid in white matter; sometimes a cavum between the ventricles."""
    dots = torch.sigmoid((smooth_field(rng, scene.coordinates, 3.0)[0] - rng.uniform(1.6, 2.4)) * 6)
    fluid = dots * scene.tissues[WHITE] * rng.uniform(0.3, 1)
    if rng.random() < 0.2:
        middle, radii = dots.new_tensor([CAVUM_MM, CAVUM_RADII_MM])
        offset = (scene.coordinates - middle) / radii
        fluid = fluid + torch.sigmoid((1 - offset.square().sum(-1).sqrt()) * 6) * scene.brain
    return fluid.clip(0, 1)


def _with_lesion(rng: np.random.Generator, scene: Scene, healthy: Tensor, csf: float, grey: float) -> Tensor:
    """
    Replace tissue in the lesion: a cyst with a gliotic border, or gliosis with small cavities.

    With one smooth cyst in nearly every lesion, networks missed the large share of real ones that is dark
    grey and speckled.
    """
    # How far the tissue is gone: everywhere, or in patches with healthier tissue between.
    severity = torch.sigmoid((smooth_field(rng, scene.coordinates, 14.0)[0] + rng.uniform(-0.3, 3.0)) * 2.5)
    pixel = pixel_size(scene.coordinates)
    amount = blur(scene.lesion, rng.uniform(0.6, 2.8) / pixel) * severity * (1 - scene.ventricle)
    cyst = csf if rng.random() < 0.5 else csf * rng.uniform(0.7, 1.5)
    gliosis = csf + (grey - csf) * rng.uniform(0.4, 1.0)
    # How likely the tissue is gone for fluid: more so in the middle, and by chance here and there.
    gone = blur(scene.lesion, rng.uniform(2.0, 6.0) / pixel)
    if rng.random() < 0.6:  # a small lesion has its middle, too: lacunes are holes
        gone = gone / gone.amax((-1, -2), keepdim=True).clip(min=0.05)
    border = rng.uniform(0.2, 0.8)
    if rng.random() < 0.5:
        gone = gone + smooth_field(rng, scene.coordinates, rng.uniform(4, 10))[0] * rng.uniform(0.1, 0.5)
        border = rng.uniform(0.2, 1.5)
    inner = torch.sigmoid((gone - border) * 14)
    damaged = inner * cyst + (1 - inner) * gliosis
    damaged = damaged * (1 + smooth_field(rng, scene.coordinates, 8.0)[0] * rng.uniform(0, 0.12))
    return healthy + amount * (damaged - healthy).clip(max=0)  # fluid stays fluid


def _visible_lesion(scene: Scene, darkening: Tensor, csf: Tensor) -> Tensor:
    """
    What a reader would draw: tissue visibly darker than it was, and what is enclosed by it.

    Labels of what cannot be seen (a quarter of the masks' voxels in a trial) teach false positives.

    Args:
        scene: what lies in the planes.
        darkening: healthy minus painted intensity, in units of white matter minus CSF.
        csf: fraction of fluid, atrophy included.

    Returns:
        bool, ``(planes, rows, columns)``.
    """
    visible = (darkening > 0.14) & (scene.lesion > 0.4)
    fluid_before = (csf > 0.6) & (scene.lesion > 0.5)
    reach = max(1, round(ENCLOSED_MM / 2 / pixel_size(scene.coordinates)))
    label = closed(visible | fluid_before, reach) & (scene.lesion > 0.4)
    # Where nearly all of a slice's is fluid, the lesion is a sulcus: only tissue counts.
    is_sulcus = visible.sum((-1, -2), keepdim=True) < 0.25 * label.sum((-1, -2), keepdim=True)
    label = torch.where(is_sulcus, visible, label)
    # A mask may reach into the ventricle; the reader leaves it out.
    return label & (scene.ventricle < 0.5)

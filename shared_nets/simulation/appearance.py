"""What the contrasts share: atrophy, look-alikes of lesions, what lies around the brain, and the scanner."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shared_nets.simulation.anatomy import CSF, FAR_MM, GREY, WHITE
from shared_nets.simulation.fields import smooth_field
from shared_nets.simulation.scenes import Scene

Range = tuple[float, float]
"""Least and most of an intensity that is drawn uniformly; white matter is about 1."""


def atrophied(rng: np.random.Generator, tissues: Tensor) -> Tensor:
    """
    Widen sulci: grey matter that borders on fluid turns partly into fluid.

    Args:
        rng: source of randomness.
        tissues: ``(3, planes, rows, columns)``: fractions of CSF, grey and white matter.

    Returns:
        The fractions after, of the same sum.
    """
    amount = max(0.0, rng.normal(0.1, 0.35))
    near = blur(tissues[CSF], 1.5)
    lost = (tissues[GREY] * (near * 2.5 * amount)).clip(max=0.95 * tissues[GREY])
    return torch.stack([tissues[CSF] + lost, tissues[GREY] - lost, tissues[WHITE]])


def white_matter_spots(rng: np.random.Generator, scene: Scene) -> Tensor:
    """
    White-matter disease: caps around the ventricles and spots in the white matter, no stroke.

    Returns:
        How much of it there is, 0–1, ``(planes, rows, columns)``.
    """
    field = smooth_field(rng, scene.coordinates, rng.uniform(5, 14))[0] + 3.0 * blur(scene.tissues[CSF], 4.0)
    return torch.sigmoid((field - rng.uniform(1.4, 2.6)) * 5) * scene.tissues[WHITE]


def blob(rng: np.random.Generator, scene: Scene, radius_mm: float) -> Tensor:
    """
    A soft irregular ball somewhere in the slice.

    Returns:
        0–1, ``(planes, rows, columns)``.
    """
    rows, columns = scene.depth.shape[-2:]
    plane = int(rng.integers(len(scene.coordinates)))
    middle = scene.coordinates[
        plane, int(rng.uniform(0.2, 0.8) * rows), int(rng.uniform(0.25, 0.75) * columns)
    ]
    distance = (scene.coordinates - middle).square().sum(-1).sqrt()
    distance = distance + smooth_field(rng, scene.coordinates, 10.0)[0] * radius_mm * 0.4
    return torch.sigmoid((radius_mm - distance) * 1.2)


def surrounded(
    rng: np.random.Generator,
    scene: Scene,
    image: Tensor,
    stripped: bool,
    scalp: Range,
    skull: Range,
    fluid: float,
) -> Tensor:
    """
    Put around the brain what lies there: nothing if it is stripped, or fluid, skull and scalp.

    A real head keeps its own surroundings, unless it is stripped too.

    Args:
        rng: source of randomness.
        scene: the planes.
        image: the brain, ``(planes, rows, columns)``; what it shows elsewhere is replaced.
        stripped: whether all but the brain was cut away; of one case's channels, all are or none.
        scalp: intensity of the scalp.
        skull: intensity of the skull.
        fluid: intensity of the fluid under the skull.
    """
    inside = scene.brain.clip(0, 1)
    if stripped:
        return image * inside
    if scene.has_head:
        return inside * image + (1 - inside) * scene.scan * rng.uniform(*scalp)
    return inside * image + (1 - inside) * _layers(rng, scene, scalp, skull, fluid)


def _layers(rng: np.random.Generator, scene: Scene, scalp: Range, skull: Range, fluid: float) -> Tensor:
    """Fluid, skull with marrow, and scalp in layers of random thickness; sometimes defaced."""
    jitter = smooth_field(rng, scene.coordinates, 25.0)[0]
    depth = scene.depth * (1 + 0.12 * jitter) + 0.3 * smooth_field(rng, scene.coordinates, 12.0)[0]
    # Outer edges in mm, of fluid, inner skull, marrow and scalp.
    edges = np.cumsum([rng.uniform(0.5, 4), rng.uniform(2, 6), rng.uniform(0, 3), rng.uniform(2, 8)])
    marrow = rng.uniform(*skull) + rng.uniform(0, 0.4) * rng.uniform(*scalp) * (rng.random() < 0.5)
    levels = [fluid * rng.uniform(0.4, 1.2), rng.uniform(*skull), marrow, rng.uniform(*scalp)]
    texture = 1 + smooth_field(rng, scene.coordinates, 6.0)[0] * rng.uniform(0, 0.3)
    depth = torch.where(scene.depth > 0.95 * FAR_MM, torch.inf, depth)
    around = _neck(rng, scene, rng.uniform(*scalp)) if rng.random() < 0.7 else torch.zeros_like(scene.depth)
    for edge, level in zip(edges[::-1], levels[::-1], strict=True):
        around = torch.where(depth < edge, level * texture, around)
    if rng.random() < 0.3:  # defaced: the front of the head is cut away
        cut = scene.coordinates[..., 1] > rng.uniform(40, 75)
        around = torch.where(cut & (scene.depth > 1), 0.0, around)
    return around.clip(0)


def _neck(rng: np.random.Generator, scene: Scene, level: float) -> Tensor:
    """Muscle and fat under the skull base, in patches, within the outline of a neck."""
    middle = np.array([0, -25]) + rng.normal(0, 5, 2)  # mm of MNI space
    radii = rng.uniform([55, 65], [80, 95])
    here = scene.coordinates[..., :2].double()
    away = (here - here.new_tensor(middle)) / here.new_tensor(radii)
    outline = torch.sigmoid((1 - away.float().square().sum(-1)) * 12)
    below = torch.sigmoid((-rng.uniform(40, 60) - scene.coordinates[..., 2]) / 4)
    patches = smooth_field(rng, scene.coordinates, rng.uniform(5, 9))[0] * rng.uniform(0.2, 0.7)
    return outline * below * level * rng.uniform(0.2, 0.9) * (1 + patches).clip(0)


def scanned(
    rng: np.random.Generator, scene: Scene, image: Tensor, level: float, gamma: float = 0.15
) -> Tensor:
    """
    What a scanner makes of it: bias field, gamma, resolution, sharpening and Rician noise.

    Args:
        rng: source of randomness.
        scene: the planes.
        image: intensities ``(planes, rows, columns)``, white matter about 1.
        level: where an intensity of 1 ends up before the exponent.
        gamma: deviation of the logarithm of the exponent that intensities are raised to.

    Returns:
        Intensities of the same shape, 0 or more, tissue within 0–1.
    """
    air = image <= 0
    bias = torch.exp(smooth_field(rng, scene.coordinates, 90.0)[0] * min(rng.exponential(0.15), 0.6))
    image = image.clip(0) * bias * level
    exponent = np.exp(rng.normal(0, gamma))
    image = image.clip(1e-4, 1.5) ** exponent
    if rng.random() < 0.4:
        image = blur(image, rng.uniform(0.25, 0.9))
    if rng.random() < 0.2:
        image = image + rng.uniform(0.2, 0.8) * (image - blur(image, 1.0))
    # Mostly little noise, sometimes so much that small lesions drown. Planes of a thick slice are averaged
    # later, which must not average the noise away.
    usual = min(rng.exponential(0.025), 0.12) * level**exponent
    sigma = usual if rng.random() < 0.8 else rng.uniform(0.02, 0.15)
    sigma *= np.sqrt(scene.planes_per_slice)
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32)
    real, imaginary = torch.from_numpy(noise).to(image.device)
    noisy = ((image + sigma * real).square() + (sigma * imaginary).square()).sqrt()
    # Brains that were cut out, and many delivered heads, have air of exactly 0.
    return torch.where(air, 0.0, noisy) if rng.random() < 0.5 else noisy


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur in the slice, zeros outside, of ``(..., rows, columns)``; ``sigma`` in pixels."""
    if sigma < 0.25:
        return image
    reach = int(np.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = image.reshape(-1, 1, *image.shape[-2:])
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0)), kernel[None, None, None])
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach)), kernel[None, None, :, None])
    return flat.reshape(image.shape)


def closed(mask: Tensor, reach: int) -> Tensor:
    """
    Morphological closing of a mask in the slice: gaps as wide as twice the reach are filled.

    Args:
        mask: bool, ``(planes, rows, columns)``.
        reach: pixels by which the mask grows and shrinks again.
    """
    size = 2 * reach + 1
    grown = F.max_pool2d(mask.float(), size, stride=1, padding=reach)
    return -F.max_pool2d(-grown, size, stride=1, padding=reach) > 0.5

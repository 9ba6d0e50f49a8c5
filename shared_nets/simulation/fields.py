"""Coordinates and smooth random fields: where in the head every pixel of a simulated slice lies."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F

FIELD_ORIGIN_MM = (-120.0, -150.0, -120.0)
"""Lowest corner of the box that random fields fill: any head in MNI space, with margin; 0 outside."""
FIELD_SIZE_MM = (240.0, 280.0, 240.0)
"""Size of that box."""
GRADIENT_MM = 1.0
"""Step of the differences that tell in which direction a structure lies."""
GROWTH_STEPS = 4
"""Steps in which a structure grows."""
TRILINEAR_STD = 0.544
"""Standard deviation of trilinear samples between knots of unit variance: √(2/3) for each axis."""


def plane_coordinates(
    shape: tuple[int, int],
    spacing: float,
    centre: NDArray[np.float64],
    rotation: NDArray[np.float64],
    offsets: tuple[float, ...] = (0.0,),
) -> Tensor:
    """
    World coordinates of the pixels of parallel axial planes.

    Args:
        shape: rows (towards anterior) and columns (towards the right) of a slice.
        spacing: pixel size in mm.
        centre: where the middle of the slice lies, x, y, z in mm.
        rotation: 3×3 rotation of the planes about ``centre``.
        offsets: distance of each plane from ``centre`` along the slice axis, in mm.

    Returns:
        ``(planes, rows, columns, 3)``: x (right), y (anterior), z (superior) in mm.
    """
    rows, columns = ((np.arange(n) - (n - 1) / 2) * spacing for n in shape)
    z, y, x = np.meshgrid(np.asarray(offsets), rows, columns, indexing="ij")
    local = np.stack([x, y, z], axis=-1)
    return torch.from_numpy((local @ rotation.T + centre).astype(np.float32))


def pixel_size(coordinates: Tensor) -> float:
    """Distance of neighbouring pixels in mm, of ``(planes, rows, columns, 3)`` in mm."""
    return float((coordinates[0, 0, 1] - coordinates[0, 0, 0]).norm())


def sample(volume: Tensor, affine: NDArray[np.float64], coordinates: Tensor) -> Tensor:
    """
    Values of a volume at world coordinates, trilinear, zero outside.

    Args:
        volume: ``(channels, X, Y, Z)``.
        affine: 4×4, voxel indices of ``volume`` to mm.
        coordinates: ``(..., 3)`` in mm.

    Returns:
        ``(channels, ...)``.
    """
    # From mm to grid_sample's units, -1 to 1 from the first voxel's centre to the last one's, Z first.
    to_grid = 2 * np.linalg.inv(affine)[:3] / (np.array(volume.shape[1:])[:, None] - 1)
    to_grid[:, 3] -= 1
    turned = coordinates.new_tensor(to_grid[::-1].copy())
    grid = torch.addmm(turned[:, 3], coordinates.reshape(-1, 3), turned[:, :3].T).reshape(1, 1, 1, -1, 3)
    values = F.grid_sample(volume[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return values.reshape(volume.shape[0], *coordinates.shape[:-1])


def smooth_field(rng: np.random.Generator, coordinates: Tensor, knot_mm: float, channels: int = 1) -> Tensor:
    """
    A smooth random field of about unit standard deviation, at world coordinates.

    Args:
        rng: source of randomness.
        coordinates: ``(planes, rows, columns, 3)`` in mm.
        knot_mm: distance of the field's random knots: the size of its hills.
        channels: independent fields to draw.

    Returns:
        ``(channels, planes, rows, columns)``.
    """
    knots = [int(np.ceil(size / knot_mm)) + 3 for size in FIELD_SIZE_MM]
    noise = torch.from_numpy(rng.standard_normal((channels, *knots), dtype=np.float32))
    affine = np.diag([knot_mm, knot_mm, knot_mm, 1.0])
    affine[:3, 3] = np.asarray(FIELD_ORIGIN_MM) - rng.uniform(0, knot_mm, 3)
    # The field is smooth: a third of the knots' distance is fine enough to sample it at.
    step = max(1, int(knot_mm / (3 * pixel_size(coordinates))))
    coarse = sample(noise.to(coordinates.device), affine, coordinates[:, ::step, ::step])
    fine = F.interpolate(coarse, size=coordinates.shape[1:3], mode="bilinear", align_corners=True)
    return fine / TRILINEAR_STD


def rotation_matrix(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 3×3 rotation by three angles in degrees about the fixed axes x, then y, then z."""
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()


def grown(
    coordinates: Tensor, closeness: Tensor, affine: NDArray[np.float64], growth: Tensor, far_mm: float
) -> Tensor:
    """
    Let a structure grow into what surrounds it, as a ventricle does: nearby coordinates are drawn to it.

    What lies at its border is pushed by the whole growth, what is further away by less, and nothing from
    ``far_mm`` on; so tissue is compressed but neither lost nor folded.

    Args:
        coordinates: ``(planes, rows, columns, 3)`` in mm.
        closeness: ``(1, X, Y, Z)``: ``far_mm`` less the distance from the structure in mm, 0 or more.
        affine: 4×4, voxel indices of ``closeness`` to mm.
        growth: ``(planes, rows, columns)``: in mm, 0 or more.
        far_mm: where the push ends.

    Returns:
        The moved coordinates.
    """
    pull = growth * (sample(closeness, affine, coordinates)[0] / far_mm).square()
    near = pull > 0  # most of a head is not, and stays where it is
    pull, points = pull[near], coordinates[near]
    # No step, and one along each axis.
    steps = GRADIENT_MM * torch.eye(4, device=coordinates.device)[:, None, 1:]
    # In short steps, as the way to the nearest point bends, and ends at the structure.
    for _ in range(GROWTH_STEPS if len(points) else 0):
        here, *beyond = sample(closeness, affine, points + steps)[0]
        slope = torch.stack([(value - here) / GRADIENT_MM for value in beyond], dim=-1)
        # To the border and half a step in, not through the structure.
        length = torch.minimum(pull / GROWTH_STEPS, far_mm - here + GRADIENT_MM / 2)
        points = points + slope * length[..., None]
    moved = coordinates.clone()
    moved[near] = points
    return moved

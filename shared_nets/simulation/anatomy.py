"""Anatomies to paint lesions into: tissue maps and intensities of real heads in a common space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cc3d
import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

# Channels of `Anatomy.maps`.
CSF, GREY, WHITE, SCAN, DEPTH = range(5)
# Centre of the ICBM152 brain's bounding box, mm; brains from other spaces are moved there.
BRAIN_CENTRE_MM = np.array([0.0, -18.0, 5.0])
# The depth map saturates here: further out is air.
FAR_MM = 24.0


@dataclass
class Anatomy:
    """
    A head without visible lesion.

    Attributes:
        name: where it comes from.
        maps: ``(5, X, Y, Z)`` float32: fractions of CSF, grey and white matter (0–1), the scan scaled so
            that white matter is 1, and the distance from the brain in mm (0 inside, at most 24).
        affine: 4×4, voxel to mm; RAS, near MNI space.
        has_head: whether the scan shows skull, face and neck.
    """

    name: str
    maps: Tensor
    affine: np.ndarray
    has_head: bool


def icbm_anatomy() -> Anatomy:
    """The ICBM152 2009a template of the nilearn package: T1 with grey and white matter maps, brain only."""
    from nilearn import datasets

    folder = Path(datasets.__file__).parent / "data"
    t1, grey, white = (
        nib.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
        for kind in ("t1", "gm", "wm")
    )
    gm, wm = (np.asarray(image.dataobj, dtype=np.float32) / 255 for image in (grey, white))
    scan = np.asarray(t1.dataobj, dtype=np.float32)
    brain = ndimage.binary_fill_holes(scan > 0)
    csf = np.clip(1 - gm - wm, 0, 1) * brain
    return _anatomy("icbm152", scan, np.stack([csf, gm, wm]), t1.affine, has_head=False)


def scan_anatomy(path: str | Path, has_head: bool = False) -> Anatomy:
    """
    An anatomy from a T1-weighted scan: tissue maps by a mixture of three Gaussians over the brain.

    Args:
        path: NIfTI file; brain only, or a head when ``has_head``.
        has_head: the scan shows skull and face; the brain is then found by morphology.
    """
    image = nib.as_closest_canonical(nib.load(path))
    scan = np.clip(np.asarray(image.dataobj, dtype=np.float32), 0, None)
    brain = (
        _brain_of_head(scan, image.header.get_zooms()) if has_head else scan > 0.02 * np.percentile(scan, 99)
    )
    brain = ndimage.binary_fill_holes(cc3d.largest_k(brain, k=1) > 0)
    centre = nib.affines.apply_affine(image.affine, np.argwhere(brain)[[0, -1]].mean(0))
    corners = np.argwhere(brain)
    centre = nib.affines.apply_affine(image.affine, (corners.min(0) + corners.max(0)) / 2)
    affine = image.affine.copy()
    affine[:3, 3] += BRAIN_CENTRE_MM - centre
    tissues = _tissue_maps(scan, brain)
    return _anatomy(Path(path).name, scan, tissues, affine, has_head)


def _anatomy(name: str, scan: np.ndarray, tissues: np.ndarray, affine: np.ndarray, has_head: bool) -> Anatomy:
    """Scale the scan to its white matter and add the distance from the brain."""
    white_level = np.median(scan[tissues[WHITE] > 0.8])
    brain = tissues.sum(0) > 0.5
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
    pad = np.ceil(FAR_MM / spacing).astype(int) if not has_head else np.zeros(3, int)
    widths = [(int(p), int(p)) for p in pad]
    affine = affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ pad
    brain, scan = np.pad(brain, widths), np.pad(scan, widths)
    tissues = np.pad(tissues, [(0, 0), *widths])
    depth = np.minimum(ndimage.distance_transform_edt(~brain, sampling=spacing), FAR_MM)
    maps = np.concatenate([tissues, scan[None] / white_level, depth[None]]).astype(np.float32)
    return Anatomy(name, torch.from_numpy(maps), affine, has_head)


def _tissue_maps(scan: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Posterior of CSF, grey and white matter under three Gaussians, ordered as in T1: CSF < grey < white."""
    from sklearn.mixture import GaussianMixture

    values = scan[brain]
    values = np.clip(values, *np.percentile(values, [0.5, 99.5]))[:, None]
    starts = np.percentile(values, [5, 45, 85])[:, None]
    mixture = GaussianMixture(3, means_init=starts, random_state=0).fit(
        values[:: max(1, len(values) // 50_000)]
    )
    order = np.argsort(mixture.means_.ravel())
    maps = np.zeros((3, *scan.shape), np.float32)
    maps[:, brain] = mixture.predict_proba(values)[:, order].T
    return maps


def _brain_of_head(scan: np.ndarray, zooms: tuple[float, ...]) -> np.ndarray:
    """A rough brain of a T1-weighted head: erode away the scalp, keep the largest piece, grow it back."""
    level = np.percentile(scan[scan > 0.1 * np.percentile(scan, 99)], [25, 97])
    tissue = (scan > level[0]) & (scan < level[1])
    depth = ndimage.distance_transform_edt(tissue, sampling=zooms)
    core = cc3d.largest_k(depth > 5, k=1) > 0
    grown = ndimage.distance_transform_edt(~core, sampling=zooms) < 7
    return ndimage.binary_closing(grown, iterations=3)

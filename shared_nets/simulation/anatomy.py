"""Anatomies to paint lesions into: tissue maps and intensities of real heads in a common space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cc3d
import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from shared_nets.affine import voxel_ml
from shared_nets.data.loading import read_scan
from shared_nets.errors import ScanGeometryError, UsageError

CSF, GREY, WHITE, SCAN, CLOSENESS, LEFT_VENTRICLE, RIGHT_VENTRICLE = range(7)
"""Channels of `Anatomy.maps`."""
BRAIN_CENTRE_MM = (0.0, -18.0, 5.0)
"""Centre of the ICBM152 brain's bounding box in MNI space; brains from other spaces are moved there."""
FAR_MM = 24.0
"""Where distances from the brain saturate: scalp lies within (outer layers end at 21 mm), air beyond."""
VENTRICLES_MM = ((14.0, 18.0, 8.0), (18.0, -12.0, 20.0), (25.0, -40.0, 10.0), (30.0, -18.0, -14.0))
"""Right lateral ventricle in MNI space, by eye in ICBM152: frontal horn, body, trigone, temporal horn."""
VENTRICLE_RADII_MM = ((13.0, 20.0, 14.0), (15.0, 20.0, 13.0), (14.0, 20.0, 14.0), (9.0, 18.0, 7.0))
"""Half axes of the ellipsoids around these in which fluid is ventricle; the Sylvian fissure lies outside."""
USUAL_FLUID = 0.3
"""Fluid's intensity on T1, white matter being 1, where a scan shows no ventricle."""
LEAST_BRAIN_ML = 300.0
"""Less is no adult brain, which has 900 mL and more: the brain was not found."""


@dataclass(frozen=True)
class Anatomy:
    """
    A head without visible lesion.

    Attributes:
        name: where it comes from.
        maps: ``(7, X, Y, Z)`` float32: fractions of CSF, grey and white matter (0–1), the scan scaled so
            that white matter is 1, and `FAR_MM` less the distance in mm, so that what lies beyond the
            volume, sampled as 0, is far: from the brain's surface (negative inside), and from the left
            and the right lateral ventricle (0 inside).
        affine: 4×4, voxel to mm; RAS, near MNI space.
        has_head: whether the scan shows skull, face and neck.
        fluid: intensity of the lateral ventricles in the scan, white matter being 1.
    """

    name: str
    maps: Tensor
    affine: NDArray[np.float64]
    has_head: bool
    fluid: float

    def to(self, device: torch.device | str) -> Anatomy:
        """The same with its maps on a device; what is simulated from them is computed there too."""
        return replace(self, maps=self.maps.to(device))


def icbm_anatomy() -> Anatomy:
    """
    The ICBM152 2009a template that the nilearn wheel holds: T1 with grey and white matter maps, brain only.

    Source: Fonov et al., "Unbiased average age-appropriate atlases for pediatric studies", NeuroImage 2011.

    Returns:
        197×233×189 voxels of 1 mm, and the 24 mm of air around them that the distance map needs.

    Raises:
        UsageError: if nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise UsageError(_needs("nilearn")) from error

    folder = Path(str(datasets.__file__)).parent / "data"
    t1, grey, white = (
        read_scan(str(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"))
        for kind in ("t1", "gm", "wm")
    )
    scan = t1.array[0]
    tissue = np.concatenate([grey.array, white.array]) / 255
    csf = np.clip(1 - tissue[0] - tissue[1], 0, 1) * ndimage.binary_fill_holes(scan > 0)
    return anatomy_of("icbm152", scan, np.concatenate([csf[None], tissue]), t1.affine)


def scan_anatomy(path: str | Path, has_head: bool = False) -> Anatomy:
    """
    An anatomy from a T1-weighted scan: tissue maps by a mixture of three Gaussians over the brain.

    Args:
        path: NIfTI file of a scan without lesions, about aligned with MNI space; its brain is shifted there.
        has_head: whether the scan shows skull and face, not the brain alone; the brain is then found by
            morphology.

    Raises:
        StrokeSegError: the subclass that tells what is wrong with the file.
        ScanGeometryError: also if there are not 300 mL of brain in it.
        UsageError: if scikit-learn is not installed.
    """
    volume = read_scan(str(path))
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.array[0], volume.affine))
    scan = np.clip(np.asarray(image.dataobj), 0, None)
    brain = _brain_of_head(scan, image.affine) if has_head else scan > 0.02 * np.percentile(scan, 99)
    brain = ndimage.binary_fill_holes(cc3d.largest_k(brain, k=1) > 0)
    brain_ml = brain.sum() * voxel_ml(image.affine)
    if brain_ml < LEAST_BRAIN_ML:
        shown = "a whole head" if has_head else "the brain alone"
        raise ScanGeometryError(
            f"{path} shows {brain_ml:.0f} mL of brain when taken for {shown}, too little for an adult: "
            f"check its has_head, or leave it out."
        )
    corners = np.argwhere(brain)
    centre = nib.affines.apply_affine(image.affine, (corners.min(0) + corners.max(0)) / 2)
    affine = image.affine.copy()
    affine[:3, 3] += BRAIN_CENTRE_MM - centre
    return anatomy_of(Path(path).name, scan, _tissue_maps(scan, brain), affine, has_head)


def anatomy_of(
    name: str,
    scan: NDArray[np.float32],
    tissues: NDArray[np.float32],
    affine: NDArray[np.float64],
    has_head: bool = False,
) -> Anatomy:
    """
    An anatomy from a T1-weighted scan and its tissue maps.

    Args:
        name: where it comes from.
        scan: ``(X, Y, Z)``, 0 or more, in any unit.
        tissues: ``(3, X, Y, Z)``: fractions of CSF, grey and white matter, 0–1.
        affine: 4×4, voxel to mm; RAS, near MNI space.
        has_head: whether ``scan`` shows skull, face and neck. Brains alone get 24 mm of air around them.
    """
    level = np.median(scan[tissues[WHITE] > 0.8])
    brain = tissues.sum(0) > 0.5
    spacing = nib.affines.voxel_sizes(affine)
    affine = affine.copy()
    if not has_head:
        margin = np.ceil(FAR_MM / spacing).astype(int)
        widths = [(int(n), int(n)) for n in margin]
        brain, scan = np.pad(brain, widths), np.pad(scan, widths)
        tissues = np.pad(tissues, [(0, 0), *widths])
        affine[:3, 3] -= affine[:3, :3] @ margin
    outside = ndimage.distance_transform_edt(~brain, sampling=spacing)
    inside = ndimage.distance_transform_edt(brain, sampling=spacing)
    depth = np.clip(outside - inside, -FAR_MM, FAR_MM)
    ventricles = _ventricles(tissues[CSF], affine)
    near = [FAR_MM - _distance(part, spacing)[None] for part in ventricles]
    pure = scan[(ventricles[0] | ventricles[1]) & (tissues[CSF] > 0.95)]
    fluid = float(np.median(pure) / level) if len(pure) else USUAL_FLUID
    maps = np.concatenate([tissues, scan[None] / level, FAR_MM - depth[None], *near]).astype(np.float32)
    # In memory the maps of a voxel lie side by side, then the voxels of an axial slice: sampling one is eight
    # times as fast as from the usual order.
    sliced = torch.from_numpy(maps).permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    return Anatomy(name, sliced, affine, has_head, fluid)


def _ventricles(
    csf: NDArray[np.float32], affine: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Left and right lateral ventricle: fluid where MNI space has them."""
    axes = (affine[i, i] * np.arange(n) + affine[i, 3] for i, n in enumerate(csf.shape))  # RAS
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    inside = np.zeros(csf.shape, bool)
    for middle, radii in zip(VENTRICLES_MM, VENTRICLE_RADII_MM, strict=True):
        offsets = zip((np.abs(x), y, z), middle, radii, strict=True)
        inside |= sum(((a - m) / r) ** 2 for a, m, r in offsets) < 1
    fluid = inside & (csf > 0.5)
    return fluid & (x < 0), fluid & (x >= 0)


def _distance(part: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from a part in mm, 0 inside, `FAR_MM` at most and where there is none."""
    if not part.any():
        return np.full(part.shape, FAR_MM)
    return np.clip(ndimage.distance_transform_edt(~part, sampling=spacing), 0, FAR_MM)


def _tissue_maps(scan: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Posterior of CSF, grey and white matter under three Gaussians, ordered as in T1: CSF < grey < white."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise UsageError(_needs("scikit-learn")) from error

    values = scan[brain]
    values = np.clip(values, *np.percentile(values, [0.5, 99.5]))[:, None]
    mixture = GaussianMixture(3, means_init=np.percentile(values, [5, 45, 85])[:, None], random_state=0)
    mixture.fit(values[:: max(1, len(values) // 50_000)])  # 50,000 voxels place three Gaussians well enough
    order = np.argsort(mixture.means_.ravel())
    maps = np.zeros((3, *scan.shape), np.float32)
    maps[:, brain] = mixture.predict_proba(values)[:, order].T
    return maps


def _brain_of_head(scan: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """
    A rough brain of a T1-weighted head: erode away the scalp, keep the largest piece, grow it back.

    Soft tissue is what is neither dark (skull, air) nor among the brightest (fat); 5 mm of erosion cut the
    bridges between scalp and brain, and growing by 7 mm closes the sulci over.
    """
    spacing = nib.affines.voxel_sizes(affine)
    dark, bright = np.percentile(scan[scan > 0.1 * np.percentile(scan, 99)], [25, 97])
    depth = ndimage.distance_transform_edt((scan > dark) & (scan < bright), sampling=spacing)
    core = cc3d.largest_k(depth > 5, k=1) > 0
    grown = ndimage.distance_transform_edt(~core, sampling=spacing) < 7
    return ndimage.binary_closing(grown, iterations=3)


def _needs(package: str) -> str:
    return (
        f"Simulating lesions needs {package}, which is not installed: "
        f'install the extra with pip install "shared_nets[simulation]".'
    )

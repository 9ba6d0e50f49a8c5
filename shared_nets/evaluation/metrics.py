"""
How well a predicted lesion mask agrees with a reference, per volume and on the scan's own grid.

Empty masks, the same for every overlap: reference and prediction both empty is full agreement, 1; only
one of them empty is none, 0. So dice, iou, precision, recall and lesion_f1 are defined for every case,
and a scan without lesion counts. Only the Hausdorff distance is undefined, NaN, when a mask is empty.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import cc3d
import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from nibabel.affines import voxel_sizes
from numpy.typing import ArrayLike, NDArray

from shared_nets.affine import voxel_ml
from shared_nets.arrays import as_array
from shared_nets.errors import MaskError, ScanGeometryError, ScanMismatchError, times

METRICS = (
    "dice",
    "iou",
    "precision",
    "recall",
    "lesion_f1",
    "hd95_mm",
    "volume_difference_ml",
    "false_positive_ml",
    "reference_ml",
    "predicted_ml",
    "reference_lesions",
    "predicted_lesions",
    "true_positive_lesions",
    "false_positive_lesions",
)
"""The keys of `case_metrics`, in the order of the table's columns."""

UNDEFINED_WHEN_EMPTY = ("hd95_mm",)
"""The metrics that may be NaN."""

BoolArray = NDArray[np.bool_]


class ReferenceLesion(NamedTuple):
    """One connected component (26-neighbourhood) of a mask that is compared with another."""

    volume_ml: float
    """Volume in mL."""
    overlaps: bool
    """Whether at least one of its voxels lies in the other mask."""


def case_metrics(
    pred: ArrayLike, label: ArrayLike, affine: ArrayLike, name: str = "mask"
) -> dict[str, float]:
    """
    All metrics of one volume.

    ========================== =============================================================== =====
    key                        what                                                            unit
    ========================== =============================================================== =====
    ``dice``                   2·|P∩R| / (|P| + |R|)                                           0–1
    ``iou``                    |P∩R| / |P∪R|                                                   0–1
    ``precision``              |P∩R| / |P|                                                     0–1
    ``recall``                 |P∩R| / |R|                                                     0–1
    ``lesion_f1``              2·TP / (2·TP + FP + FN) over lesions                            0–1
    ``hd95_mm``                larger of the two directed 95th percentiles of surface distance mm
    ``volume_difference_ml``   | |P| − |R| |                                                   mL
    ``false_positive_ml``      |P∖R|                                                           mL
    ``reference_ml``           |R|                                                             mL
    ``predicted_ml``           |P|                                                             mL
    ``reference_lesions``      connected components of R                                       count
    ``predicted_lesions``      connected components of P                                       count
    ``true_positive_lesions``  lesions of R of which at least one voxel is predicted (TP)      count
    ``false_positive_lesions`` lesions of P without a voxel in R (FP)                          count
    ========================== =============================================================== =====

    Lesions are counted as the ISLES 2022 challenge does: 26-neighbourhood, one common voxel is enough,
    and a missed lesion (FN) is one of R without a predicted voxel.

    Args:
        pred: predicted mask ``(X, Y, Z)``, 0 and 1 only.
        label: reference mask of the same shape, 0 and 1 only.
        affine: 4×4 voxel-to-world matrix in mm of the grid both are on.
        name: what to call the case in error messages.

    Returns:
        A value for each of `METRICS`; only ``hd95_mm`` may be NaN.

    Raises:
        MaskError: if a mask is not 3-D, or holds NaN or anything but 0 and 1.
        ScanMismatchError: if the masks differ in shape.
        ScanGeometryError: if the affine is not an invertible 4×4 matrix.
    """
    predicted, reference, matrix = checked(pred, label, affine, name)
    ml = voxel_ml(matrix)
    n_pred, n_ref = int(predicted.sum()), int(reference.sum())
    common = int((predicted & reference).sum())

    found = [lesion.overlaps for lesion in lesions(reference, predicted, ml)]
    real = [lesion.overlaps for lesion in lesions(predicted, reference, ml)]
    hits, misses, false = sum(found), found.count(False), real.count(False)

    both_empty = n_pred + n_ref == 0
    values = (
        ratio(2 * common, n_pred + n_ref, both_empty),
        ratio(common, n_pred + n_ref - common, both_empty),
        ratio(common, n_pred, both_empty),
        ratio(common, n_ref, both_empty),
        ratio(2 * hits, 2 * hits + false + misses, both_empty),
        hausdorff95_mm(predicted, reference, matrix),
        abs(n_pred - n_ref) * ml,
        (n_pred - common) * ml,
        n_ref * ml,
        n_pred * ml,
        len(found),
        len(real),
        hits,
        false,
    )
    return {key: float(value) for key, value in zip(METRICS, values, strict=True)}


def reference_lesions(
    pred: ArrayLike, label: ArrayLike, affine: ArrayLike, name: str = "mask"
) -> list[ReferenceLesion]:
    """
    The reference's lesions with their volumes, and whether each was found: largest first.

    Args:
        pred: predicted mask ``(X, Y, Z)``, 0 and 1 only.
        label: reference mask of the same shape, 0 and 1 only.
        affine: 4×4 voxel-to-world matrix in mm of the grid both are on.
        name: what to call the case in error messages.

    Returns:
        One `ReferenceLesion` for each connected component of the reference; ``overlaps`` tells that it was
        found.

    Raises:
        MaskError, ScanMismatchError, ScanGeometryError: as `case_metrics`.
    """
    predicted, reference, matrix = checked(pred, label, affine, name)
    return sorted(lesions(reference, predicted, voxel_ml(matrix)), reverse=True)


def ratio(part: int, whole: int, both_empty: bool) -> float:
    """``part / whole``, but 1 when both masks are empty, and 0 when there is nothing to divide by."""
    if both_empty:
        return 1.0
    return part / whole if whole else 0.0


def lesions(mask: BoolArray, other: BoolArray, ml: float) -> list[ReferenceLesion]:
    """
    The connected components of one mask, and which of them touch another.

    Args:
        mask: mask ``(X, Y, Z)`` whose components are wanted.
        other: mask of the same shape.
        ml: volume of a voxel in mL.

    Returns:
        One `ReferenceLesion` for each component of ``mask``, in no particular order.
    """
    components, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    shared = np.bincount(components[other], minlength=count + 1)[1:]
    return [ReferenceLesion(float(size * ml), bool(hit)) for size, hit in zip(sizes, shared > 0, strict=True)]


def hausdorff95_mm(pred: BoolArray, label: BoolArray, affine: NDArray[np.float64]) -> float:
    """
    The 95 % Hausdorff distance by MONAI: the larger of the two directed 95th percentiles.

    Args:
        pred: mask ``(X, Y, Z)``.
        label: mask of the same shape.
        affine: 4×4 voxel-to-world matrix in mm; distances follow its voxel sizes.

    Returns:
        Distance in mm, or NaN when a mask is empty.
    """
    if not (pred.any() and label.any()):
        return float("nan")
    a, b = (torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (pred, label))
    spacing = [float(size) for size in voxel_sizes(affine)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6's, about its own call within
        distance = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
    return distance.item()


def checked(
    pred: ArrayLike, label: ArrayLike, affine: ArrayLike, name: str
) -> tuple[BoolArray, BoolArray, NDArray[np.float64]]:
    """
    Masks as booleans and the affine as float64, or an error that says what is wrong with them.

    Args:
        pred: predicted mask, array or tensor.
        label: reference mask, array or tensor.
        affine: voxel-to-world matrix, array or tensor.
        name: what to call the case in error messages.

    Raises:
        MaskError, ScanMismatchError, ScanGeometryError: as `case_metrics`.
    """
    predicted, reference = as_mask(pred, f"{name}: the prediction"), as_mask(label, f"{name}: the reference")
    if predicted.shape != reference.shape:
        raise ScanMismatchError(
            f"{name}: the prediction has {times(predicted.shape)} voxels and the reference "
            f"{times(reference.shape)}; resample one onto the other's grid."
        )
    matrix = as_array(affine).astype(np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or voxel_ml(matrix) == 0:
        raise ScanGeometryError(
            f"{name}: the affine is not an invertible 4×4 matrix, so volumes and distances have no unit; "
            f"correct the file's header."
        )
    return predicted, reference, matrix


def as_mask(values: ArrayLike, what: str) -> BoolArray:
    """``values`` as a boolean ``(X, Y, Z)`` array, or a `MaskError` that calls them ``what``."""
    array = as_array(values)
    if array.ndim != 3:
        raise MaskError(f"{what} is {array.ndim}-D; give one mask (X, Y, Z).")
    if array.dtype == np.bool_:
        return array
    if not np.isfinite(array).all():
        raise MaskError(f"{what} holds NaN or infinite values; save it with 0 and 1 only.")
    mask = array == 1
    if (odd := array[~mask & (array != 0)]).size:
        raise MaskError(f"{what} is not binary (it holds {odd[0]:g}); save it with 0 and 1 only.")
    return mask

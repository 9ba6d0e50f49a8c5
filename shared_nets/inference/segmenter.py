"""One scan at a time, in Python: a file or an image in memory in, mask and probability out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from nibabel.spatialimages import SpatialImage

from shared_nets.bundles import Model, bundle_folder, check_settings, plain_path
from shared_nets.data.formats import Scan
from shared_nets.errors import UsageError, own_error
from shared_nets.inference.check import check_limits, check_network
from shared_nets.inference.engine import run_engine
from shared_nets.inference.outputs import on_grid_of, scan_grid
from shared_nets.inference.ranges import ranges_beside
from shared_nets.versions import check_version


class Segmentation(NamedTuple):
    """
    What :class:`LesionSegmenter` finds, on the scan's own grid.

    Args:
        mask: 1 where lesion is, else 0; uint8.
        probability: of lesion, 0–1; float32.

    Both are MetaTensors (1, X, Y, Z) if the scan was one, else nibabel images (X, Y, Z) with its header.
    """

    mask: Any
    probability: Any


class LesionSegmenter:
    """
    Draws the lesions of one scan at a time: a bundle's inference.json, without files.

    ::

        mask, probability = LesionSegmenter("xnet").predict("sub-01_T1w.nii.gz")

    The network is loaded once; masks equal those of ``strokeseg predict`` and ``monai.bundle run`` voxel for
    voxel. What is odd about a scan is told as a :class:`~shared_nets.errors.ScanWarning`.

    Args:
        model: ``"xnet"`` (chronic, T1-weighted) or ``"cnnres"`` (acute, DWI and FLAIR).
        bundle: another bundle's folder.
        weights: another weights file.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; by default the GPU when there is one.
        backend: what computes the network, see :func:`~shared_nets.inference.for_inference`.
        threshold: probability from which on a voxel is lesion, 0–1.
        peak_threshold: lesions in which no voxel has at least this probability are dropped, 0–1.
        smallest_lesion_ml: lesions below this volume in mL are dropped.
        smoothing_mm: average logits over neighbouring slices, by a Gaussian of this standard deviation.
        mirror: take the mean of each slice's logits and its left-right mirror image's.
        dwi_decides: for ``cnnres``: what does not show on DWI alone is no lesion, so that FLAIR can take
            lesions away, but add none.
        cpu_precision: see :func:`~shared_nets.inference.for_inference`.

    What is None is as inference.json has it.

    Raises:
        UsageError: if there is no such model, bundle, backend or setting, a number is out of range, or the
            CPU or the backend cannot compute in the precision.
        WeightsError: if the weights are missing, corrupt, unsafe or of another architecture.
        DeviceError: if this machine has no such device.
    """

    def __init__(
        self,
        model: str = "xnet",
        *,
        bundle: str | Path | None = None,
        weights: str | Path | None = None,
        device: torch.device | str | None = None,
        backend: str | None = None,
        threshold: float | None = None,
        peak_threshold: float | None = None,
        smallest_lesion_ml: float | None = None,
        smoothing_mm: float | None = None,
        mirror: bool | None = None,
        dwi_decides: bool | None = None,
        cpu_precision: str | None = None,
    ) -> None:
        names = [known.value for known in Model]
        if model not in names:
            raise UsageError(f"{model}: no model has this name; use {' or '.join(names)}.")
        folder = bundle_folder(Model(model).value, Path(plain_path(bundle)) if bundle else None)
        settings: dict[str, Any] = {
            "weights": plain_path(weights) if weights else None,
            "device": device,
            "backend": backend,
            "threshold": threshold,
            "peak_threshold": peak_threshold,
            "smallest_lesion_ml": smallest_lesion_ml,
            "smoothing_mm": smoothing_mm,
            "mirror": mirror,
            "dwi_decides": dwi_decides,
            "cpu_precision": cpu_precision,
        }
        settings = {key: value for key, value in settings.items() if value is not None}
        check_version(folder)
        check_settings(folder, settings)
        config = ConfigParser()
        config.read_config(folder / "configs" / "inference.json")
        config.update(settings)
        # Nothing is searched for and nothing written.
        config.update({"bundle_root": str(folder), "scans": [], "handlers": []})
        self.model = Model(model)
        with _own_errors():
            precision = config.get_parsed_content("cpu_precision", default="float32")
            weights, device, backend = map(config.get_parsed_content, ("weights", "device", "backend"))
            check_network(weights, device, backend, precision)
            threshold, smallest = map(config.get_parsed_content, ("threshold", "smallest_lesion_ml"))
            peak, smoothing = (
                config.get_parsed_content(name, default=0.0) for name in ("peak_threshold", "smoothing_mm")
            )
            check_limits(threshold, smallest, peak, smoothing)
            self.weights = Path(weights)
            self.ranges = Path(config.get_parsed_content("ranges", default=ranges_beside(weights)))
            self.preprocessing = config.get_parsed_content("preprocessing")
            self.evaluator = config.get_parsed_content("evaluator")
        # The engine's state is one scan's: threads would get each other's masks.
        self._one_at_a_time = Lock()

    def predict(
        self,
        image: Scan | Sequence[Scan | None] | None = None,
        *,
        dwi: Scan | None = None,
        flair: Scan | None = None,
    ) -> Segmentation:
        """
        Segment one scan. Several threads may call it; the network works for one of them at a time.

        Args:
            image: a path (NIfTI, MHA, NRRD, or the folder of a DICOM series), a nibabel image, or a
                MetaTensor (X, Y, Z) or (channels, X, Y, Z) whose affine leads to RAS mm. For ``cnnres`` also
                a pair [DWI, FLAIR] of these, None for one that is missing, or one image with both as volumes.
            dwi: for ``cnnres``, in place of ``image``: the DWI, on whose grid the result lies.
            flair: for ``cnnres``: the FLAIR, on any grid.

        Returns:
            mask and probability on the grid of the scan (of the DWI, where there is one).

        Raises:
            UsageError: if the scan is given in no such way.
            StrokeSegError: the subclass that tells what is wrong with the scan.
        """
        if (image is None) == (dwi is None and flair is None):
            raise UsageError("Give one scan: as image, or for cnnres with dwi=, flair= or both.")
        if image is None and self.model is not Model.cnnres:
            raise UsageError("dwi= and flair= go with cnnres: give a T1 scan as image.")
        given = [dwi, flair] if image is None else image
        with _own_errors():
            case = self.preprocessing({"image": _as_paths(given), "name": "scan"})
            with self._one_at_a_time:
                finished = run_engine(self.evaluator, case)
        mask, probability = finished["pred"], finished["probability"]
        scan = given if not isinstance(given, (list, tuple)) else next(s for s in given if s is not None)
        if isinstance(scan, MetaTensor):
            return Segmentation(*(MetaTensor(t.to(scan.device), meta=scan.meta) for t in (mask, probability)))
        grid = scan if isinstance(scan, SpatialImage) else scan_grid(finished["image"])
        return Segmentation(*(on_grid_of(grid, t.cpu().numpy()) for t in (mask, probability)))


def _as_paths(given: Any) -> Any:
    """Paths as text, images as they are."""
    if isinstance(given, (list, tuple)):
        return [_as_paths(one) for one in given]
    return os.path.expanduser(given) if isinstance(given, (str, os.PathLike)) else given


@contextmanager
def _own_errors() -> Iterator[None]:
    """Our own errors as they are, out of what MONAI wraps them in."""
    try:
        yield
    except Exception as error:
        ours = own_error(error)
        if ours is None or ours is error:
            raise
        raise type(ours)(str(ours)) from error

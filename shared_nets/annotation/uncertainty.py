"""Active learning: which scan the network is least sure of."""

from __future__ import annotations

import logging
from math import inf
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from shared_nets.affine import voxel_ml
from shared_nets.annotation.disagreement import expected_disagreement
from shared_nets.errors import UsageError, own_error

logger = logging.getLogger(__name__)


class UncertaintyScoring(ScoringMethod):
    """
    Notes with each scan that has no final label how unsure a bundle's network is of it.

    A scan is scored anew when the weights have changed. One that cannot be is left out, with the reason in
    the server's log.

    Args:
        key: the entry of the scan's information in the datastore.
        task: MONAI Label's inference task of the bundle, one that writes no file.
    """

    def __init__(self, key: str, task: Any) -> None:
        super().__init__("How unsure the network is of its mask, from 0 (sure) to 1")
        self.key = key
        self.task = task

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, int]:
        """
        Args:
            request: may hold ``device`` and ``max_samples``, the most scans to score; without, all.
            datastore: MONAI Label's store of scans and labels.

        Returns:
            How many scans were ``scored``, ``skipped`` as up to date, and ``failed``.

        Raises:
            UsageError: if ``max_samples`` is no number.
        """
        most = most_scans(request)
        weights = Path(self.task.get_path()).stat().st_mtime_ns
        count = {"scored": 0, "skipped": 0, "failed": 0}
        for image in sorted(datastore.get_unlabeled_images()):
            if datastore.get_image_info(image).get(self.key, {}).get("weights") == weights:
                count["skipped"] += 1
                continue
            if count["scored"] >= most:
                break
            try:
                score = self._score(datastore.get_image_uri(image), request)
            except Exception as error:  # whatever one scan leads to: the others are scored
                told = own_error(error)
                logger.warning("Not scored: %s", told or f"{image}: {error!r}", exc_info=told is None)
                count["failed"] += 1
                continue
            datastore.update_image_info(image, {self.key: {"score": score, "weights": weights}})
            count["scored"] += 1
        return count

    def _score(self, path: str, request: dict[str, Any]) -> float:
        asked = {"image": path, "logging": "error"} | {k: v for k, v in request.items() if k == "device"}
        _, data = self.task(request=asked)
        probability = data["probability"]
        return expected_disagreement(torch.as_tensor(probability), voxel_ml(probability.affine.cpu()))


def most_scans(request: dict[str, Any]) -> float:
    """The most scans that a request wants scored, which its sender may have as text, or empty for all."""
    asked = request.get("max_samples")
    try:
        return inf if asked in (None, "") else float(asked)
    except (TypeError, ValueError) as error:
        raise UsageError(f"max_samples is {asked!r}: give a number of scans, or leave it out.") from error


class MostUncertain(Strategy):
    """
    The scan without a final label that the network is least sure of; the first by name before any is scored.

    Args:
        key: where `UncertaintyScoring` notes its score.
    """

    def __init__(self, key: str) -> None:
        super().__init__("The scan the network is least sure of")
        self.key = key

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any] | None:
        """
        Args:
            request: may hold ``label_tag`` and ``labels``, as MONAI Label's own strategies take them.
            datastore: MONAI Label's store of scans and labels.

        Returns:
            ``id`` and ``weight``, the score, of the scan; None if all have labels.
        """
        images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        if not images:
            return None
        scores = {
            image: datastore.get_image_info(image).get(self.key, {}).get("score", -1.0) for image in images
        }
        best = max(images, key=lambda image: scores[image])
        return {"id": best, "weight": scores[best]}

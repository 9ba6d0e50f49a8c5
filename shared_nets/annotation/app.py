"""The app that MONAI Label's server runs; imports MONAI Label, which only its server has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask

from shared_nets import NOTICE
from shared_nets.annotation.prepare import bundles_to_serve
from shared_nets.annotation.uncertainty import MostUncertain, UncertaintyScoring

DESCRIPTION = f"Stroke lesions on brain MRI. {NOTICE}"


class TrainTask(BundleTrainTask):
    """MONAI Label's training of a bundle, with what 3D Slicer may ask of it."""

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """
        Args:
            request: MONAI Label's settings of a training. An empty ``run_id``, which Slicer sends, means the
                bundle's own: taken literally it names the whole config, and the bundle is trained twice.
            datastore: MONAI Label's store of scans and labels.
        """
        return super().__call__({**request, "run_id": request.get("run_id") or "run"}, datastore)

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[Any]) -> None:
        if pretrained:  # without, MONAI Label asks whether a file without a name exists
            super()._load_checkpoint(model_pytorch, pretrained, train_handlers)


class LesionApp(MONAILabelApp):
    """
    Every bundle under the app's ``model`` folder, for segmentation and for training, with active learning.

    Strategies for the next scan: ``random``, ``first``, and for each bundle ``BUNDLE_uncertainty``, by the
    scoring method of the same name, which is run on request, or with ``auto_scoring``.

    A bundle made for another version of this package is not served; the reason stands in the server's log and
    in the description that ``/info`` gives. Bundles may be added while the server runs: ``POST /reload``
    makes it look again.

    Args:
        app_dir: the app's folder.
        studies: the scans: a folder or the address of a DICOMweb server.
        conf: the server's ``--conf`` settings. ``models``: names of bundles to serve, with commas; all by
            default. ``auto_scoring true``: score all scans without a final label when the server starts, and
            anew after training and whenever a next scan is asked for; takes as long as segmenting them.

    Raises:
        UsageError: if ``models`` names a bundle that is not there, or no bundle can be served.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundles, refused = bundles_to_serve(Path(app_dir, "model"), conf.get("models", ""))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Stroke lesions",
            description=" ".join([DESCRIPTION, *refused]),
        )
        self._auto_update_scoring = conf.get("auto_scoring", "false").lower() == "true"

    def init_infers(self) -> dict[str, Any]:
        """The bundles' inference.json."""
        return {name: BundleInferTask(folder, self.conf) for name, folder in self.bundles.items()}

    def init_trainers(self) -> dict[str, Any]:
        """The bundles' train.json."""
        # MONAI Label's training process adds to this variable without looking whether it is there.
        os.environ.setdefault("PYTHONPATH", "")
        return {name: TrainTask(folder, self.conf) for name, folder in self.bundles.items()}

    def init_strategies(self) -> dict[str, Any]:
        """Ways to choose the next scan."""
        by_uncertainty = {
            f"{name}_uncertainty": MostUncertain(f"{name}_uncertainty") for name in self.bundles
        }
        return {"random": Random(), "first": First(), **by_uncertainty}

    def init_scoring_methods(self) -> dict[str, Any]:
        """What the strategies go by."""
        tasks = {
            name: BundleInferTask(folder, self.conf, skip_writer=True)
            for name, folder in self.bundles.items()
        }
        return {
            f"{name}_uncertainty": UncertaintyScoring(f"{name}_uncertainty", task)
            for name, task in tasks.items()
        }

"""A bundle's training and evaluation, fold by fold: stopped at any moment, it goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from monai.bundle import ConfigWorkflow

from shared_nets.data import read_folds
from shared_nets.errors import UsageError, WeightsError
from shared_nets.files import write_bytes
from shared_nets.release.weights import save_weights
from shared_nets.training.record import environment, file_digest


@dataclass(frozen=True)
class Experiment:
    """
    A cross-validation of a bundle.

    Attributes:
        bundle: the bundle's folder.
        data: a data list whose items have a ``fold``, or any data set of the bundle, then split in five.
        output: gets a folder a fold: ``models``, ``trained.json``, ``evaluation/metrics.csv``.
        recipes: config files laid over train.json, in order.
        settings: further values by their id in train.json.
        weights: what is evaluated: ``"best"`` in validation or of the ``"last"`` epoch. The best epoch is
            chosen on the very fold that is evaluated then, which flatters.
        silent: further values that change nothing but what is said: ``quiet``, ``debug``.
    """

    bundle: Path
    data: Path
    output: Path
    recipes: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "last"
    silent: Mapping[str, Any] = field(default_factory=dict)

    def run(self, folds: Sequence[int] | None = None) -> pd.DataFrame:
        """
        Train and evaluate every fold that is not finished.

        Args:
            folds: which; all by default.

        Returns:
            A row a case, as `metrics.csv`, with its ``fold``.

        Raises:
            UsageError: if the output holds an experiment with other settings.
            StrokeSegError: if a fold cannot be trained.
        """
        self.check_settings()
        parts = []
        for fold in read_folds(self.data) if folds is None else folds:
            table = self.fold_folder(fold) / "evaluation" / "metrics.csv"
            # The summary is written when all cases have been evaluated.
            if not table.with_name("summary.csv").is_file():
                self.train(fold)
                self.evaluate(fold)
            parts.append(pd.read_csv(table).assign(fold=fold))
        return pd.concat(parts, ignore_index=True)

    def fold_folder(self, fold: int) -> Path:
        """Where a fold's files are."""
        return self.output / f"fold{fold}"

    def check_settings(self) -> None:
        """Write ``experiment.json``, or refuse to mix runs of different settings in one folder."""
        settings = {
            "bundle": self.bundle.name,
            "data": str(self.data.resolve()),
            "data_sha256": file_digest(self.data) if self.data.is_file() else None,
            "recipes": {path.name: file_digest(path) for path in self.recipes},
            "settings": dict(self.settings),
            "weights": self.weights,
        }
        path = self.output / "experiment.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            differ = [key for key in settings if before.get(key) != settings[key]]
            if differ:
                raise UsageError(
                    f"{self.output} holds an experiment with other {' and '.join(differ)}: choose another "
                    f"--output, or repeat its settings (experiment.json) to go on with it."
                )
        else:
            write_bytes(path, json.dumps({**settings, **environment()}, indent=1).encode())

    def train(self, fold: int) -> None:
        """Train one fold, from its last epoch on when it has one."""
        folder = self.fold_folder(fold)
        if (folder / "trained.json").is_file():
            return
        checkpoint = folder / "models" / "last.ckpt"
        workflow = self.workflow(["train.json"], fold, output_dir=str(folder), resume=checkpoint.is_file())
        start = time.monotonic()
        epochs = read_last(checkpoint)["trainer"]["epoch"] if checkpoint.is_file() else 0
        if epochs < workflow.parser.get_parsed_content("max_epochs"):
            run(workflow)
        last = read_last(checkpoint)
        save_weights(last["network"], folder / "models" / "last.safetensors")
        trained = dict(last["trainer"]) | {
            "seconds_since_start_or_resume": round(time.monotonic() - start, 1),
            "resumed_after_epoch": epochs,
            "batch": workflow.parser.get_parsed_content("scans_per_batch")
            * workflow.parser.get_parsed_content("slices_per_scan"),
        }
        write_bytes(folder / "trained.json", json.dumps(trained).encode())

    def evaluate(self, fold: int, weights: Path | None = None, name: str = "evaluation") -> Path:
        """
        Evaluate weights on a fold's validation cases; a case that fails is a row of the table.

        Args:
            fold: which.
            weights: the file; by default what the fold's training left.
            name: of the folder for the table.

        Returns:
            The table.
        """
        folder = self.fold_folder(fold)
        trained = folder / "models" / ("model.pt" if self.weights == "best" else "last.safetensors")
        workflow = self.workflow(
            ["train.json", "evaluate.json"],
            fold,
            output_dir=str(folder / name),
            weights=str(weights or trained),
        )
        try:
            run(workflow)
        except SystemExit:  # failed cases have been told, and are rows
            if not (folder / name / "summary.csv").is_file():
                raise
        return folder / name / "metrics.csv"

    def workflow(self, configs: Sequence[str], fold: int, **settings: Any) -> ConfigWorkflow:
        """The bundle's workflow for one fold; the recipes lie between train.json and evaluate.json."""
        train, *more = (str(self.bundle / "configs" / name) for name in configs)
        return ConfigWorkflow(
            config_file=[train, *map(str, self.recipes), *more],
            workflow_type="train",
            bundle_root=str(self.bundle),
            dataset_dir=str(self.data),
            fold=fold,
            **settings,
            **self.settings,
            **self.silent,
        )


def run(workflow: ConfigWorkflow) -> None:
    """A workflow from its beginning to its end."""
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def read_last(checkpoint: Path) -> dict[str, Any]:
    """A training's ``last.ckpt``."""
    try:
        content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        content["trainer"]["epoch"], content["network"]
    except Exception as error:
        raise WeightsError(
            f"{checkpoint} cannot be read: delete the fold's folder to train it anew."
        ) from error
    return content

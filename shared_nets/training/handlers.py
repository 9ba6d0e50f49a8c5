"""Handlers of the training engine: the state to resume from, and progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from tqdm import tqdm

from shared_nets.errors import UsageError, WeightsError


def checkpoint_folder(bundle_root: str, output_dir: str) -> str:
    """
    Where training writes ``model.pt`` (the best weights so far) and ``last.pt`` (what resuming needs).

    ``models`` in the output folder, so that the shipped weights are never overwritten unasked; inside
    MONAI Label, which reads ``models/model.pt`` back after training, the bundle's own ``models``. The
    shipped weights can be restored from ``models/model.safetensors``.

    Args:
        bundle_root: the bundle's folder.
        output_dir: the run's folder.
    """
    in_monai_label = "monailabel" in sys.modules or "MONAI_LABEL_APP_DIR" in os.environ
    return str(Path(bundle_root if in_monai_label else output_dir) / "models")


class LastCheckpoint:
    """
    Saves all that a run needs to go on, after every epoch, and goes on from it when asked to.

    The file is written under a temporary name and renamed, so a killed run leaves the last whole one.
    """

    def __init__(self, folder: str, state: Mapping[str, Any], resume: bool = False) -> None:
        """
        Args:
            folder: where ``last.pt`` is kept.
            state: objects with ``state_dict`` and ``load_state_dict``: network, optimizer, scheduler.
            resume: start from ``last.pt``.
        """
        self.path = Path(folder) / "last.pt"
        self.state = state
        self.resume = resume

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Write ``last.pt``; among several processes, the first does."""
        if idist.get_rank() > 0:
            return
        content = {name: thing.state_dict() for name, thing in self.state.items()}
        content["trainer"] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save(content, part)
        os.replace(part, self.path)

    def load(self, engine: Engine) -> None:
        """
        Read ``last.pt``.

        Raises:
            WeightsError: if it is not there or does not fit.
            UsageError: if it already has all the epochs asked for.
        """
        if not self.path.is_file():
            raise WeightsError(f"{self.path}: there is no run to resume; start one without resume.")
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            for name, thing in self.state.items():
                thing.load_state_dict(content[name])
            done = content["trainer"]
        except Exception as error:
            raise WeightsError(
                f"{self.path}: cannot be resumed from ({type(error).__name__}); was it made with other settings?"
            ) from error
        if done["epoch"] >= (engine.state.max_epochs or 0):
            raise UsageError(
                f"{self.path}: this run already has {done['epoch']} epochs; raise max_epochs to go on."
            )
        engine.state.epoch, engine.state.iteration = done["epoch"], done["iteration"]


class Progress:
    """One progress bar over the whole training: iterations done, time left, loss and validation Dice."""

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.stop)
        engine.add_event_handler(Events.TERMINATE, self.stop)

    def start(self, engine: Engine) -> None:
        """Open the bar."""
        total = (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
        self.bar = tqdm(total=total or None, unit="batch", dynamic_ncols=True)
        self.bar.update(engine.state.iteration)

    def step(self, engine: Engine) -> None:
        """Move the bar by one iteration."""
        output = engine.state.output
        loss = (output[0] if isinstance(output, list) else output)["loss"]
        self.bar.set_description(
            f"epoch {engine.state.epoch}/{engine.state.max_epochs}, loss {float(loss):.4f}"
        )
        self.bar.update(1)

    def stop(self, engine: Engine) -> None:
        """Close the bar."""
        self.bar.close()

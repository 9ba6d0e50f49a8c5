"""Handlers of the training engine: the weights kept, the state to resume from, and progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.handlers import EarlyStopHandler
from monai.utils import set_determinism
from numpy.random import SeedSequence
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from shared_nets.errors import UsageError, WeightsError
from shared_nets.weights import check_finite, save_state, save_weights

BEST = "model.pt"
"""The weights of the best epoch."""

LAST = "last.ckpt"
"""What a run goes on from. Not ``last.pt``: MONAI Label would offer it as weights."""
_NEVER = -1  # MONAI's best_metric_epoch before the first validation


def checkpoint_folder(bundle_root: str, output_dir: str) -> str:
    """
    Where training writes ``model.pt`` (the best weights so far) and ``last.ckpt`` (what resuming needs).

    ``models`` in the output folder, so that the shipped weights are never overwritten unasked; inside
    MONAI Label, which reads ``models/model.pt`` back after training, the bundle's own ``models``. The
    shipped weights can be restored from ``models/model.safetensors``.

    Args:
        bundle_root: the bundle's folder.
        output_dir: the run's folder.
    """
    return str(Path(bundle_root if in_monai_label() else output_dir) / "models")


def in_monai_label() -> bool:
    """Whether this process is MONAI Label's, or was started by it."""
    return "monailabel" in sys.modules or "MONAI_LABEL_APP_DIR" in os.environ


class Checkpoints:
    """
    Keeps the best weights and all that a run needs to go on, and goes on from it when asked to.

    After every epoch ``last.ckpt`` is written, and ``model.pt``, a plain state dict, when the validation's
    key metric is the best so far, or every time as long as nothing has been validated. Both are written under
    a temporary name and renamed, so a killed run leaves the last whole ones. Among several processes the
    first writes.

    Args:
        folder: where both are kept.
        network: its weights are ``model.pt``.
        state: further objects with ``state_dict`` and ``load_state_dict``: optimizer, scheduler.
        validator: the engine that validates, in a handler that stands before this one; None when nothing is.
        resume: start from ``last.ckpt``.
    """

    def __init__(
        self,
        folder: str,
        network: nn.Module,
        state: Mapping[str, Any],
        validator: Engine | None = None,
        resume: bool = False,
    ) -> None:
        self.best = Path(folder) / BEST
        self.last = Path(folder) / LAST
        self.network = network
        self.state = {"network": network, **state}
        self.validator: Any = validator  # MONAI adds to its state
        self.resume = resume
        self.kept = 0  # the last epoch in last.ckpt
        self.asked = self._asked()

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.tell_how_to_go_on)

    def tell_how_to_go_on(self, engine: Engine, error: BaseException) -> None:
        """Say in an interruption's message what is kept of the run."""
        if isinstance(error, KeyboardInterrupt):
            done = (
                f"{self.last} holds the run up to epoch {self.kept}: go on with --resume True."
                if self.kept
                else "no epoch was finished, and nothing is kept."
            )
            error.args = (f"Interrupted in epoch {engine.state.epoch}; {done}",)
        raise error

    def save(self, engine: Engine) -> None:
        """
        Write the files of the epoch just done.

        Raises:
            WeightsError: if weights have become NaN or infinite.
            OutputError: if a file cannot be written.
        """
        if idist.get_rank() > 0:
            self.kept = engine.state.epoch
            return
        before = f"{self.last} holds the epoch before" if self.last.is_file() else "nothing is kept"
        check_finite(self.network.state_dict(), "the network", f"{before}: train with a lower learning rate")
        if self.validator is None or self.validator.state.best_metric_epoch in (_NEVER, engine.state.epoch):
            save_weights(self.network.state_dict(), self.best)
        content = {name: thing.state_dict() for name, thing in self.state.items()}
        content["asked"] = self.asked
        content["trainer"] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        if self.validator is not None:
            best = self.validator.state
            content["best"] = {"metric": float(best.best_metric), "epoch": best.best_metric_epoch}
        save_state(content, self.last)
        self.kept = engine.state.epoch

    def load(self, engine: Engine) -> None:
        """
        Read ``last.ckpt``.

        Raises:
            WeightsError: if it is not there or does not fit.
            UsageError: if it already has all the epochs asked for, or was made with another learning rate or
                weight decay, with a schedule of another length, or with more or fewer batches an epoch.
        """
        if not self.last.is_file():
            raise WeightsError(f"{self.last}: there is no run to resume; start one without resume.")
        try:
            content = torch.load(self.last, map_location="cpu", weights_only=True)
            for name, thing in self.state.items():
                thing.load_state_dict(content[name])
            done, best, asked = content["trainer"], content.get("best"), content["asked"]
        except Exception as error:
            raise WeightsError(
                f"{self.last}: it cannot be resumed from ({type(error).__name__}); "
                f"start without resume, or with the settings it was made with."
            ) from error
        if done["epoch"] >= (engine.state.max_epochs or 0):
            raise UsageError(
                f"{self.last}: this run already has {done['epoch']} epochs; raise max_epochs to go on."
            )
        batches = done["iteration"] // done["epoch"]
        if batches != engine.state.epoch_length:
            raise UsageError(
                f"{self.last}: this run has {batches} batches an epoch, not {engine.state.epoch_length}: "
                f"resume it with the same settings and number of GPUs, or start anew from its weights "
                f"(--pretrained)."
            )
        for name, value in asked.items():
            if value != self.asked.get(name):
                raise UsageError(
                    f"{self.last}: this run has the {name} {value}, not {self.asked.get(name)}: resume it "
                    f"with that, or start anew from its weights (--pretrained)."
                )
        engine.state.epoch, engine.state.iteration = done["epoch"], done["iteration"]
        self.kept = done["epoch"]
        if self.validator is not None and best is not None:
            # Or the first validation would pass for the best one.
            self.validator.state.best_metric = best["metric"]
            self.validator.state.best_metric_epoch = best["epoch"]

    def _asked(self) -> dict[str, Any]:
        """What a checkpoint brings back, whatever is asked for: rate, decay, the schedule, its length."""
        asked: dict[str, Any] = {}
        for thing in self.state.values():
            if isinstance(thing, torch.optim.Optimizer):
                asked["learning_rate"] = thing.defaults["lr"]
                asked["weight_decay"] = max(group.get("weight_decay", 0.0) for group in thing.param_groups)
            elif isinstance(thing, LRScheduler):
                asked["schedule"] = type(thing).__name__
                asked["schedule's number of batches"] = getattr(thing, "total_steps", None)
        return asked


class SeededEpochs:
    """
    Makes what an epoch draws depend on the seed and the epoch alone.

    So a run that was broken off and resumed draws what an unbroken one would have drawn.

    Args:
        dataset: the training set, whose ``transform`` is MONAI's ``Compose``.
        seed: the run's seed.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)

    def start(self, engine: Engine) -> None:
        """Seed the order of the samples, the augmentation and dropout of the epoch that begins."""
        # Processes that learn together must draw differently, and so must neighbouring seeds.
        seed = int(SeedSequence([self.seed, engine.state.epoch, idist.get_rank()]).generate_state(1)[0])
        set_determinism(seed)
        self.dataset.transform.set_random_state(seed)


class EarlyStop(EarlyStopHandler):
    """
    MONAI's handler, with a state: a resumed run stops when the unbroken one would have.

    Without a trainer, as where a federated client runs the engines itself, there is nothing to stop.
    """

    def __call__(self, engine: Engine) -> None:
        """Judge the validation that has ended."""
        if self._handler is not None:
            self._handler(engine)

    def state_dict(self) -> dict[str, Any]:
        """How many validations were no better, and the best score; nothing without a trainer."""
        if self._handler is None:
            return {}
        return {"counter": self._rule.counter, "best_score": self._rule.best_score}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there; a run that had stopped, stops before another epoch."""
        if self._handler is None or not state:
            return
        self._rule.counter, self._rule.best_score = state["counter"], state["best_score"]
        if self._rule.counter >= self._rule.patience:
            self._rule.trainer.terminate()

    @property
    def _rule(self) -> Any:
        return self._handler  # ignite's, there since set_trainer


class Progress:
    """
    One progress bar over the whole training (batches done, time left, loss, validation), then a summary.

    Args:
        folder: where the weights are, for the summary.
        validator: the engine that validates; None when nothing is.
    """

    def __init__(self, folder: str, validator: Engine | None = None) -> None:
        self.weights = Path(folder) / BEST
        self.validator: Any = validator

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.tell_validation)
        engine.add_event_handler(Events.COMPLETED, self.stop)

    def start(self, engine: Engine) -> None:
        """Open the bar."""
        total = (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
        self.bar = tqdm(total=total or None, initial=engine.state.iteration, unit="batch", dynamic_ncols=True)

    def step(self, engine: Engine) -> None:
        """Move the bar by one batch."""
        output: Any = engine.state.output
        loss = (output[0] if isinstance(output, list) else output)["loss"]
        epoch = f"epoch {engine.state.epoch}/{engine.state.max_epochs}"
        self.bar.set_description(f"{epoch}, loss {float(loss):.4f}", refresh=False)
        self.bar.update()

    def tell_validation(self, engine: Engine) -> None:
        """Show the last and the best validation beside the bar."""
        if self.validator is not None and self.validator.state.metrics:
            last, best = _key_metric(self.validator), self.validator.state.best_metric
            self.bar.set_postfix_str(f"validation Dice {last:.3f}, best {float(best):.3f}")

    def stop(self, engine: Engine) -> None:
        """Close the bar; say what came out and where it is."""
        self.bar.close()
        epochs = engine.state.epoch
        print(f"Trained for {epochs} epoch{'' if epochs == 1 else 's'}{self._best()}.")
        print(f"Weights: {self.weights.resolve()}")

    def _best(self) -> str:
        if self.validator is None or self.validator.state.best_metric_epoch == _NEVER:
            return ", without validation"
        state = self.validator.state
        return f"; best validation Dice {float(state.best_metric):.3f} in epoch {state.best_metric_epoch}"


def _key_metric(validator: Any) -> float:
    return float(validator.state.metrics[validator.state.key_metric_name])

"""
Pretraining on simulated lesions: how the shipped weights were made.

``python -m shared_nets.training.pretrain --help`` shows the command. Initial weights follow from the
seed, slices from the seed and the number of processes that simulate; how many slices are seen in the given
minutes depends on the machine, so two runs come close but are not equal. A resumed run draws new slices: its
stream is seeded by the seed and the steps done. It may go on on another device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from math import cos, pi
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from numpy.random import SeedSequence
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader

from shared_nets.bundles import Model
from shared_nets.devices import check_device, local_device
from shared_nets.errors import UsageError, WeightsError, tell_errors_in_words
from shared_nets.networks import CNNRes, XNet
from shared_nets.precision import bfloat16_pays
from shared_nets.simulation import (
    Anatomy,
    LesionShape,
    Paint,
    SimulatedSlices,
    acute_contrast,
    anatomies_of,
    t1_contrast,
    training_masks,
)
from shared_nets.simulation.slices import TISSUES
from shared_nets.training.pretraining_losses import TISSUE_WEIGHT, detection_loss, tissue_loss
from shared_nets.training.processes import loader_workers
from shared_nets.training.speed import prepared
from shared_nets.weights import check_architecture, check_finite, load_into, save_state, save_weights

SAVE_SECONDS = 180
TELL_SECONDS = 60
WARMUP_STEPS = 100
"""Steps over which the learning rate rises, so that Adam's first estimates do no harm."""
AVERAGE_DECAY = 0.998
"""Of the exponential average of the weights, which is what is shipped: it covers the last 500 steps."""


@dataclass(frozen=True)
class Stage:
    """
    A part of the pretraining.

    Attributes:
        until: share of the time at which it ends; 1 for the last.
        spacing: pixel size in mm.
        shape: rows and columns of a slice.
        batch: slices a step.
    """

    until: float
    spacing: float
    shape: tuple[int, int]
    batch: int


@dataclass(frozen=True)
class Recipe:
    """
    What is trained, on which contrast, in which stages.

    Attributes:
        network: its class; called without arguments.
        paint: the contrast.
        stages: in order, the last one until 1.
        learning_rate: at its highest, of AdamW.
    """

    network: type[nn.Module]
    paint: Paint
    stages: tuple[Stage, ...]
    learning_rate: float


RECIPES = {
    # Slices of 2 mm cost a quarter of those of 1 mm, and a head still fits one window of 224×192 mm. Most of
    # the time goes to slices that hold the brain and little of the air around it, the rest to whole windows,
    # as inference has them.
    Model.xnet: Recipe(
        XNet,
        t1_contrast,
        (Stage(0.75, 2.0, (96, 80), 8), Stage(1.0, 2.0, (112, 96), 8)),
        learning_rate=1e-3,
    ),
    Model.cnnres: Recipe(
        CNNRes,
        acute_contrast,
        (Stage(0.75, 1.5, (128, 112), 8), Stage(1.0, 1.5, (160, 160), 8)),
        learning_rate=5e-4,
    ),
}


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def pretrain(
    model: Annotated[Model, typer.Option(help="Network to train.")],
    masks: Annotated[Path, typer.Option(help="Folder of stroke masks in MNI space.")],
    output: Annotated[Path, typer.Option(help="Checkpoint file; resumed from when it is there.")],
    minutes: Annotated[float, typer.Option(min=0, help="Length of the whole training.")] = 60.0,
    anatomies: Annotated[
        Path | None, typer.Option(help="Folder of T1 scans without lesions, with anatomies.json.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="model.pt or .safetensors to write when done, in half precision.")
    ] = None,
    pretrained: Annotated[
        Path | None, typer.Option(help="Weights to start from, .pt or .safetensors; at random without.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="At its highest; by default the recipe's, from scratch.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Such as cuda or cpu; the GPU by default when there is one.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, beside those of --workers.")] = 1,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that simulate: 1 by default, for a GPU all cores but 1."),
    ] = None,
    simulate_on_device: Annotated[
        bool, typer.Option("--simulate-on-device", help="Simulate on the GPU too, without other processes.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of initial weights and simulation.")] = 0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train a network on simulated lesions; the learning rate follows a cosine over the given minutes."""
    tell_errors_in_words(debug)
    if device is not None:
        check_device(device)
    place = local_device() if device is None else torch.device(device)
    if simulate_on_device and workers is not None:
        raise UsageError("--workers simulate on the CPU: leave them out with --simulate-on-device.")
    torch.set_num_threads(threads)
    shapes, heads = training_masks(masks), anatomies_of(anatomies)
    print(f"{len(heads)} anatomies, {len(shapes)} lesion shapes, {place}", flush=True)
    if simulate_on_device:
        heads, workers = [head.to(place) for head in heads], 0
    elif workers is None:
        workers = usual_workers(place)
    recipe = RECIPES[model]
    if learning_rate is not None:
        recipe = replace(recipe, learning_rate=learning_rate)
    train(recipe, heads, shapes, output, minutes, seed, pretrained, place, workers)
    if export is not None:
        export_average(recipe, output, export, heads, shapes, seed, device=place, workers=workers)
        print(f"Wrote {export}")


def usual_workers(device: torch.device) -> int:
    """Processes that simulate: one beside training on the CPU, every core but one for a GPU."""
    if device.type == "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def train(
    recipe: Recipe,
    anatomies: Sequence[Anatomy],
    lesions: Sequence[LesionShape],
    output: Path,
    minutes: float,
    seed: int = 0,
    pretrained: Path | None = None,
    device: torch.device | str = "cpu",
    workers: int = 1,
) -> None:
    """
    Train on simulated slices for a given time, or for what is left of it.

    Args:
        recipe: what to train, and how.
        anatomies: heads to draw from; slices are simulated on the device of their maps.
        lesions: lesion shapes to draw from.
        output: the checkpoint, written every three minutes and at the end; resumed from when it is there.
        minutes: length of the whole training, that before a resume included.
        seed: of initial weights and simulation.
        pretrained: weights to start from when ``output`` is not there.
        device: where the network trains.
        workers: processes that simulate, on the CPU; 0 simulates in this one, as anatomies on a GPU need it.

    Raises:
        WeightsError: if ``output`` is there and no checkpoint of this network's pretraining, or
            ``pretrained`` does not fit.
        OutputError: if it cannot be written.
    """
    torch.manual_seed(seed)
    run = Run(recipe, pretrained, device)
    if output.exists():
        run.load(output)
    else:
        run.save(output)  # now, so that a folder without permission is told before hours of work
    begun = time.monotonic() - 60 * run.minutes
    saved = shown = time.monotonic()
    losses: list[Tensor] = []
    while (progress := run.minutes / minutes if minutes else 1.0) < 1:
        stage = next(s for s in recipe.stages if progress < s.until)
        drawn = int(SeedSequence([seed, run.steps]).generate_state(1)[0])
        for batch in _batches(recipe, stage, anatomies, lesions, drawn, run.device, workers):
            losses.append(run.step(batch, min(progress, 1.0)))
            now = time.monotonic()
            run.minutes = (now - begun) / 60
            progress = run.minutes / minutes
            if now - shown > TELL_SECONDS:
                print(
                    f"{run.minutes:6.1f} min  step {run.steps:6d}  slices {run.slices:7d}  "
                    f"{stage.spacing:g} mm  loss {torch.stack(losses).mean():.4f}",
                    flush=True,
                )
                shown, losses = now, []
            if now - saved > SAVE_SECONDS or progress >= 1:
                run.save(output)
                saved = now
            if progress >= stage.until:
                break


def _batches(
    recipe: Recipe,
    stage: Stage,
    anatomies: Sequence[Anatomy],
    lesions: Sequence[LesionShape],
    seed: int,
    device: torch.device,
    workers: int,
) -> Iterator[Mapping[str, Tensor]]:
    """An endless stream of simulated batches, in memory from which a GPU fetches them if they go to one."""
    slices = SimulatedSlices(anatomies, lesions, recipe.paint, stage.shape, stage.spacing, seed=seed)
    workers = loader_workers(workers)
    loader = DataLoader(
        slices,
        batch_size=stage.batch,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda" and workers > 0,
    )
    return iter(loader)


class Run:
    """
    One training: network, running average of its weights, optimiser, and how far they are.

    Attributes:
        device: where the network is.
        steps: optimiser steps done.
        slices: slices seen.
        minutes: time spent.
    """

    def __init__(
        self, recipe: Recipe, pretrained: Path | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """
        Args:
            recipe: what to train, and at which learning rate.
            pretrained: weights to start from.
            device: where to train; initial weights are drawn on the CPU, the same for every device.
        """
        self.device = torch.device(device)
        self.learning_rate = recipe.learning_rate
        self.network = recipe.network()
        if pretrained is not None:
            load_into(self.network, pretrained)
        # Tissues are learned beside the lesion, from the last features, and not shipped.
        self.head = cast(nn.Conv2d, self.network.head)
        self.tissue_head = nn.Conv2d(self.head.in_channels, len(TISSUES), kernel_size=1).to(self.device)
        prepared(self.network.to(self.device), self.device)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))
        self.bfloat16 = bfloat16_pays(self.device)
        self.parameters = [*self.network.parameters(), *self.tissue_head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=recipe.learning_rate, weight_decay=1e-4)
        self.steps, self.slices, self.minutes = 0, 0, 0.0

    def step(self, batch: Mapping[str, Tensor], progress: float) -> Tensor:
        """
        One optimiser step.

        Args:
            batch: ``image`` ``(N, channels, rows, columns)``, ``label`` ``(N, 1, rows, columns)`` and
                ``tissue`` ``(N, rows, columns)``; see `SimulatedSlices`.
            progress: share of the training that is done, 0–1.

        Returns:
            The loss, a scalar on the device: nobody waits there for its value.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * schedule(self.steps, progress)
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        features: list[Tensor] = []
        precision = torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
        with precision, _inputs_of(self.head, features):
            logits = self.network(image)
            tissues = self.tissue_head(features[0])
        loss = detection_loss(logits.float(), batch["label"], batch["tissue"])
        loss = loss + TISSUE_WEIGHT * tissue_loss(tissues.float(), batch["tissue"], batch["label"])
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.steps += 1
        self.slices += len(image)
        return loss.detach()

    def save(self, path: Path) -> None:
        """Write all there is to go on from, in one piece, unless a weight has become NaN or infinite."""
        check_finite(self.network.state_dict(), "the network", f"{path} is of some minutes before")
        state = {
            "network": self.network.state_dict(),
            "tissue_head": self.tissue_head.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.steps,
            "slices": self.slices,
            "minutes": self.minutes,
        }
        save_state(state, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, of whatever device."""
        state = read_checkpoint(path)
        check_architecture(self.network, state["network"], path)
        self.network.load_state_dict(state["network"])
        self.tissue_head.load_state_dict(state["tissue_head"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.slices, self.minutes = state["step"], state["slices"], state["minutes"]


def schedule(step: int, progress: float) -> float:
    """
    Share of the learning rate: a linear warm-up over 100 steps, a cosine over the time, 1 % at least.

    Args:
        step: steps done.
        progress: share of the training that is done, 0–1.
    """
    return min(1.0, (step + 1) / WARMUP_STEPS) * max(0.5 * (1 + cos(pi * progress)), 0.01)


@contextmanager
def _inputs_of(module: nn.Module, inputs: list[Tensor]) -> Iterator[None]:
    """Inside, what goes into ``module`` is added to ``inputs``."""
    handle = module.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        yield
    finally:
        handle.remove()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """
    Read a checkpoint of a pretraining, running no code that the file may hold.

    Args:
        path: the file.

    Returns:
        ``network``, ``tissue_head``, ``average`` (the network's tensors under ``module.``, and
        ``n_averaged``) and ``optimizer``: state dicts; ``step``, ``slices`` and ``minutes``: how far it is.

    Raises:
        WeightsError: if it is missing, damaged, or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is not there: name the checkpoint of a pretraining.") from error
    except Exception as error:  # a damaged file raises whatever its broken part leads to
        raise WeightsError(
            f"{path} is damaged or no checkpoint of a pretraining: name another file, or move this one away."
        ) from error
    wanted = {"network", "tissue_head", "average", "optimizer", "step", "slices", "minutes"}
    if not isinstance(state, dict) or not wanted <= state.keys():
        raise WeightsError(
            f"{path} is no checkpoint of a pretraining (those hold {', '.join(sorted(wanted))}): "
            f"name another file, or move this one away."
        )
    return state


def export_average(
    recipe: Recipe,
    checkpoint: str | Path,
    output: str | Path,
    anatomies: Sequence[Anatomy],
    lesions: Sequence[LesionShape],
    seed: int = 0,
    batches: int = 100,
    device: torch.device | str = "cpu",
    workers: int = 1,
) -> None:
    """
    Write the averaged weights of a pretraining as a plain state dict in half precision, to be shipped.

    Batch norm's statistics in the checkpoint are the last weights', which do not fit their average, so they
    are taken anew from simulated slices of the last stage.

    Args:
        recipe: what was trained.
        checkpoint: what `train` wrote; it may still be training.
        output: a ``.pt`` or ``.safetensors`` file.
        anatomies: heads to draw from.
        lesions: lesion shapes to draw from.
        seed: of the slices for the statistics.
        batches: how many batches of them.
        device: where the statistics are computed; what is written has no device.
        workers: processes that simulate, see `train`.

    Raises:
        WeightsError: if ``checkpoint`` is none, or its weights are not finite.
        OutputError: if ``output`` cannot be written.
    """
    prefix = "module."
    average = read_checkpoint(checkpoint)["average"]
    device = torch.device(device)
    network = recipe.network().to(device)
    network.load_state_dict({k[len(prefix) :]: v for k, v in average.items() if k.startswith(prefix)})
    stream = _batches(recipe, recipe.stages[-1], anatomies, lesions, seed, device, workers)
    update_bn((batch["image"] for batch in islice(stream, batches)), network, device)
    save_weights(network.state_dict(), output, half=True)


if __name__ == "__main__":
    app()

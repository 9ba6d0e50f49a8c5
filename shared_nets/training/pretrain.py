"""
Pretraining on simulated lesions: how the shipped weights were made.

``python -m shared_nets.training.pretrain --help`` shows the command.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from shared_nets.networks import CNNRes, XNet
from shared_nets.simulation.anatomy import Anatomy, icbm_anatomy, scan_anatomy
from shared_nets.simulation.contrast import acute_contrast, t1_contrast
from shared_nets.simulation.lesions import LesionShape, read_masks
from shared_nets.simulation.slices import Paint, SimulatedSlices


@dataclass(frozen=True)
class Stage:
    """A part of the pretraining: until which share of the time, at which pixel size, on which slices."""

    until: float
    spacing: float
    shape: tuple[int, int]
    batch: int


@dataclass(frozen=True)
class Recipe:
    """What is trained, on which contrast, in which stages."""

    network: type[nn.Module]
    paint: Paint
    stages: tuple[Stage, ...]
    learning_rate: float


RECIPES = {
    # Most of X-Net's time at 2 mm, where a slice costs a quarter; the end at the 1 mm it is used at.
    "xnet": Recipe(
        XNet,
        t1_contrast,
        (Stage(0.55, 2.0, (112, 96), 8), Stage(1.0, 1.0, (224, 192), 4)),
        learning_rate=1e-3,
    ),
    "cnnres": Recipe(CNNRes, acute_contrast, (Stage(1.0, 1.5, (160, 160), 8),), learning_rate=5e-4),
}


def detection_loss(logits: Tensor, label: Tensor) -> Tensor:
    """
    Cross entropy, lesions weighted twice, plus a little Dice over the batch.

    Cross entropy outweighs Dice: under Dice alone false positives grow with training.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, label, pos_weight=logits.new_tensor(2.0))
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * label).sum() + 1) / (probability.sum() + label.sum() + 1)
    return 4 * entropy + 0.3 * dice


def anatomies_of(folder: Path | None) -> list[Anatomy]:
    """The ICBM template, and the T1-weighted scans that ``anatomies.json`` in ``folder`` lists."""
    anatomies = [icbm_anatomy()]
    if folder is not None:
        for entry in json.loads((folder / "anatomies.json").read_text()):
            anatomies.append(scan_anatomy(folder / entry["scan"], entry["has_head"]))
    return anatomies


def training_masks(folder: Path) -> list[LesionShape]:
    """Four masks in five, in order of their names; every fifth is kept for testing."""
    paths = sorted(folder.rglob("*.nii.gz"))
    return read_masks(path for i, path in enumerate(paths) if i % 5)


def loader(
    recipe: Recipe, stage: Stage, anatomies: Sequence[Anatomy], masks: Sequence[LesionShape], seed: int
) -> DataLoader[Any]:
    """An endless loader of simulated batches; one process of its own."""
    slices = SimulatedSlices(anatomies, masks, recipe.paint, stage.shape, stage.spacing, seed=seed)
    return DataLoader(slices, batch_size=stage.batch, num_workers=1, prefetch_factor=4)


def pretrain(
    model: Annotated[str, typer.Option(help="xnet or cnnres")],
    masks: Annotated[Path, typer.Option(help="folder of stroke masks in MNI space")],
    output: Annotated[Path, typer.Option(help="checkpoint file; resumed from when it is there")],
    minutes: Annotated[float, typer.Option(help="length of the whole training")] = 60.0,
    anatomies: Annotated[Path | None, typer.Option(help="folder of scans with anatomies.json")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    seed: Annotated[int, typer.Option(help="of weights and simulation")] = 0,
) -> None:
    """Train a network on simulated lesions; the learning rate follows a cosine over the given minutes."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    recipe = RECIPES[model]
    heads, shapes = anatomies_of(anatomies), training_masks(masks)
    print(f"{len(heads)} anatomies, {len(shapes)} lesion shapes", flush=True)

    network = recipe.network().to(memory_format=torch.channels_last)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
    step, slices_seen, spent = 0, 0, 0.0
    if output.exists():
        state = torch.load(output, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, slices_seen, spent = state["step"], state["slices"], state["minutes"]
    start, saved, shown, recent = time.monotonic() - 60 * spent, time.monotonic(), time.monotonic(), []

    progress = spent / minutes
    while progress < 1:
        stage = next(s for s in recipe.stages if progress < s.until)
        for batch in loader(recipe, stage, heads, shapes, seed=seed + step):
            progress = (time.monotonic() - start) / 60 / minutes
            warmup = min(1.0, (step + 1) / 100)
            cosine = 0.5 * (1 + torch.cos(torch.tensor(min(progress, 1.0) * torch.pi)).item())
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * warmup * max(cosine, 0.01)

            image = batch["image"].contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(image)
            loss = detection_loss(logits.float(), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(network)

            step, slices_seen = step + 1, slices_seen + len(image)
            recent.append(loss.item())
            if time.monotonic() - shown > 60:
                shown = time.monotonic()
                print(
                    f"{progress * minutes:6.1f} min  step {step:6d}  slices {slices_seen:7d}  "
                    f"{stage.spacing:g} mm  loss {sum(recent) / len(recent):.4f}",
                    flush=True,
                )
                recent.clear()
            if time.monotonic() - saved > 180 or progress >= 1:
                saved = time.monotonic()
                state = {
                    "network": network.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "slices": slices_seen,
                    "minutes": progress * minutes,
                }
                torch.save(state, f"{output}.part")
                os.replace(f"{output}.part", output)
            if progress >= stage.until:
                break


if __name__ == "__main__":
    typer.run(pretrain)

"""
X-Net's pretraining in short: beside a U-Net of its size, and with a part of the simulator left out.

    python benchmarks/pretraining_ablation.py --masks MASKS --anatomies ANATOMIES --chronic CHRONIC \\
        --healthy HEALTHY --runs RUNS --output docs/results/pretraining_xnet
    python benchmarks/pretraining_ablation.py ... --pretrained xnet_bundle/models/model.safetensors \\
        --output docs/results/ablation_xnet

Every variant begins with the same seed and sees as many slices: from random weights, of 4 mm, small enough
for a CPU; or, with ``--pretrained``, after the weights that are given, of the size their training began with,
which tells what they forget without a part. Judged on slices of the whole simulator, with masks kept apart,
and on real scans: what is marked on a chronic scan, in all and on its lesion's side, and what is marked,
falsely, on scans without stroke. Writes OUTPUT.csv, a row a variant and scan, and OUTPUT.md. Goes on in RUNS
where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import typer
from common import write_tables
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from shared_nets.bundles import Model, bundle_folder, run_inference
from shared_nets.evaluation.tables import statistics
from shared_nets.files import sha256
from shared_nets.networks import XNet
from shared_nets.simulation import (
    Anatomy,
    LesionShape,
    SimulatedSlices,
    anatomies_of,
    held_out_masks,
    read_masks,
    training_masks,
)
from shared_nets.training import pretrain
from shared_nets.weights import load_into

RECIPE = pretrain.RECIPES[Model.xnet]
FROM_RANDOM = pretrain.Stage(until=1.0, spacing=4.0, shape=(64, 48), batch=8)
FROM_WEIGHTS = replace(RECIPE.stages[0], until=1.0)
LEARNING_RATE = 5e-4
"""After weights that are given: half of what they began with."""
SIMULATION = "shared_nets.simulation"
T1 = f"{SIMULATION}.t1"
JUDGED = 1000
"""Slices that are drawn to judge on."""
JUDGED_SEED = 2**31
"""No training's: equal seeds draw equal heads, and the same slices where they show no lesion."""


UNET: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "features": [44, 88, 176, 352, 704, 44],
    "norm": "batch",
}


class UNet(BasicUNet):
    """MONAI's BasicUNet at X-Net's size, its last layer named as pretraining knows it."""

    def __init__(self) -> None:
        super().__init__(**UNET)

    @property
    def head(self) -> nn.Module:
        """The last convolution."""
        return self.final_conv


@dataclass(frozen=True)
class Variant:
    """
    The pretraining with something left out or replaced.

    Attributes:
        replaced: dotted names in the package, and what stands in their place.
        network: what is trained.
        network_def: the same for inference.json; None as it stands there.
        seed: added to that of the run.
    """

    replaced: tuple[tuple[str, Any], ...] = ()
    network: type[nn.Module] = XNet
    network_def: dict[str, Any] | None = None
    seed: int = 0

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the pretraining is this variant."""
        with ExitStack() as stack:
            for name, new in self.replaced:
                stack.enter_context(patch(name, new))
            yield


def nothing(_: np.random.Generator, scene: Any, *__: Any) -> Tensor:
    """No structure anywhere in a scene."""
    return torch.zeros_like(scene.depth)


VARIANTS = {
    "nothing": Variant(),
    "white-matter disease, harmless fluid, atrophy": Variant(
        (
            (f"{T1}.white_matter_spots", nothing),
            (f"{T1}._harmless_fluid", nothing),
            (f"{T1}.atrophied", lambda _, tissues: tissues),
        )
    ),
    "bias field, noise, blur, artefacts": Variant(
        (
            (f"{T1}.scanned", lambda _, __, image, level: image * level),
            (f"{SIMULATION}.slices.with_artefacts", lambda _, image: image),
        )
    ),
    "wide ventricles": Variant(
        ((f"{SIMULATION}.scenes._with_grown_ventricles", lambda _, __, inside, ___: inside),)
    ),
    "tissues learned beside the lesion": Variant((("shared_nets.training.pretrain.TISSUE_WEIGHT", 0.0),)),
    "nothing, another seed": Variant(seed=1),
}
FROM_RANDOM_ONLY = {
    "X-Net: a U-Net of its size": Variant(
        network=UNet,
        network_def={"_target_": "monai.networks.nets.BasicUNet", **UNET},
    ),
}


def main(
    masks: Annotated[Path, typer.Option(help="Folder of stroke masks in MNI space.")],
    chronic: Annotated[Path, typer.Option(help="Folder of T1 scans with a chronic stroke on the left.")],
    healthy: Annotated[Path, typer.Option(help="Folder of T1 scans without stroke.")],
    runs: Annotated[Path, typer.Option(help="Folder for weights and masks.")],
    output: Annotated[Path, typer.Option(help="Name of the tables, without ending.")],
    anatomies: Annotated[Path | None, typer.Option(help="T1 scans without lesions, anatomies.json.")] = None,
    pretrained: Annotated[Path | None, typer.Option(help="X-Net's weights to begin with.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this variant; repeatable.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of eight slices.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and slices.")] = 0,
) -> None:
    """Train and judge every variant; write the tables."""
    torch.set_num_threads(1)
    heads, shapes = anatomies_of(anatomies), training_masks(masks)
    kept = read_masks(held_out_masks(masks))
    rows: list[dict[str, Any]] = []
    stage = FROM_WEIGHTS if pretrained else FROM_RANDOM
    what = f"X-Net trained {'further' if pretrained else 'from random weights'} on "
    what += f"{steps * stage.batch} slices of {stage.spacing:g} mm."
    variants = VARIANTS if pretrained else VARIANTS | FROM_RANDOM_ONLY
    if only and not set(only) <= set(variants):
        raise typer.BadParameter(f"the variants are {'; '.join(variants)}.", param_hint="--only")
    for name, variant in variants.items():
        if only and name not in only:
            continue
        start = sha256(pretrained)[:8] if pretrained else "random"
        trained = f"{stage.spacing:g}_mm_{steps}_steps_seed_{seed}_from_{start}"
        weights = runs / trained / name.replace(" ", "_").replace(":", "") / "model.safetensors"
        if not weights.is_file():
            with variant.in_place():
                train(variant, stage, heads, shapes, steps, seed + variant.seed, weights, pretrained)
        rows += ({"left_out": name, **row} for row in judged(variant.network(), stage, weights, heads, kept))
        for kind, folder in (("chronic", chronic), ("without stroke", healthy)):
            rows += ({"left_out": name, **row} for row in drawn(variant, stage, weights, folder, kind))
        table = pd.DataFrame(rows)
        write_tables(table, markdown(table, what), output)


def train(
    variant: Variant,
    stage: pretrain.Stage,
    heads: list[Anatomy],
    shapes: list[LesionShape],
    steps: int,
    seed: int,
    weights: Path,
    pretrained: Path | None,
) -> None:
    """Train as X-Net is, over a number of steps instead of a time, and write the averaged weights."""
    torch.manual_seed(seed)
    rate = LEARNING_RATE if pretrained else RECIPE.learning_rate
    recipe = replace(RECIPE, network=variant.network, stages=(stage,), learning_rate=rate)
    run = pretrain.Run(recipe, pretrained)
    # Simulated in this process, where the variant is in place.
    batches = pretrain._batches(recipe, stage, heads, shapes, seed, run.device, workers=0)
    for batch in islice(batches, steps):
        run.step(batch, run.steps / steps)
    checkpoint = weights.with_suffix(".ckpt")
    run.save(checkpoint)
    pretrain.export_average(recipe, checkpoint, weights, heads, shapes, seed, batches=20, workers=0)


def judged(
    network: nn.Module, stage: pretrain.Stage, weights: Path, heads: list[Anatomy], kept: list[LesionShape]
) -> list[dict[str, Any]]:
    """A row for each slice of the whole simulator: pixels of lesion, Dice, and what is marked falsely."""
    load_into(network.eval(), weights)
    slices = SimulatedSlices(heads, kept, RECIPE.paint, stage.shape, stage.spacing, seed=JUDGED_SEED)
    rows = []
    with torch.no_grad():
        for number, one in enumerate(islice(slices, JUDGED)):
            mask, label = network(one["image"][None])[0] > 0, one["label"] > 0
            hits, marked, lesion = (int(part.sum()) for part in (mask & label, mask, label))
            row = {"scan": f"slice {number}", "lesion_pixels": lesion, "false_pixels": marked - hits}
            dice = 2 * hits / (marked + lesion) if lesion else np.nan
            rows.append({"kind": "simulated", **row, "dice": dice})
    return rows


def drawn(
    variant: Variant, stage: pretrain.Stage, weights: Path, folder: Path, kind: str
) -> list[dict[str, Any]]:
    """What is marked on the real scans of a folder, in mL, through the bundle's inference.json."""
    output = weights.parent / kind.replace(" ", "_")
    settings = {"weights": str(weights), "backend": "torch", "save_picture": False, "quiet": True}
    if stage == FROM_RANDOM:
        settings |= {"spacing": [stage.spacing, stage.spacing, -1.0], "window": list(stage.shape)}
    settings |= {"network_def": variant.network_def} if variant.network_def else {}
    run_inference(bundle_folder("xnet"), {**settings, "dataset_dir": str(folder), "output_dir": str(output)})
    found = pd.read_csv(output / "lesions.csv").set_index("scan")[["volume_ml", "left_ml", "lesion_count"]]
    return [{"kind": kind, "scan": scan, **row} for scan, row in found.to_dict("index").items()]


def markdown(table: pd.DataFrame, what: str) -> str:
    """A row a variant, under what was done."""
    lines = [
        what,
        "",
        "| left out | Dice, simulated | false pixels a slice | chronic scan, mL | of it left | pieces | "
        "mL a scan without stroke |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in table.groupby("left_out", sort=False):
        kinds = dict(list(rows.groupby("kind")))
        slices, stroke, healthy = kinds["simulated"], kinds["chronic"], kinds["without stroke"]
        dice = statistics(slices["dice"].dropna().to_numpy(), resamples=10_000, seed=0)
        lines.append(
            f"| {name} | {dice['mean']:.3f} ({dice['ci_low']:.3f}–{dice['ci_high']:.3f}) | "
            f"{slices['false_pixels'].mean():.1f} | {stroke['volume_ml'].mean():.1f} | "
            f"{stroke['left_ml'].mean():.1f} | {stroke['lesion_count'].mean():.0f} | "
            f"{healthy['volume_ml'].mean():.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)

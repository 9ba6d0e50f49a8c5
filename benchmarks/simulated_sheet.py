"""
A sheet of simulated slices with their lesions outlined, to look at beside real ones.

    python benchmarks/simulated_sheet.py --model xnet --masks MASKS --anatomies ANATOMIES \\
        --output docs/images/simulated_chronic.png

Slices as pretraining draws them in its last stage, with lesion; of two channels the first is on the left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import typer
from torch import Tensor

from shared_nets.bundles import Model
from shared_nets.simulation import SimulatedSlices, anatomies_of, training_masks
from shared_nets.training.pretrain import RECIPES

ROWS, COLUMNS = 4, 6
PANEL_INCHES = 1.6
SMALLEST_ML = 0.25
"""Of lesion in the slice, as if it were 4 mm thick: less can hardly be seen in so small a picture."""


def main(
    model: Annotated[Model, typer.Option(help="Which contrast.")],
    masks: Annotated[Path, typer.Option(help="Folder of stroke masks in MNI space.")],
    output: Annotated[Path, typer.Option(help="Picture to write.")],
    anatomies: Annotated[Path | None, typer.Option(help="T1 scans without lesions, anatomies.json.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the slices.")] = 0,
) -> None:
    """Draw 24 slices."""
    recipe = RECIPES[model]
    stage = recipe.stages[-1]
    slices = SimulatedSlices(
        anatomies_of(anatomies),
        training_masks(masks),
        recipe.paint,
        stage.shape,
        stage.spacing,
        lesion_free=0,
        seed=seed,
    )
    rows, columns = stage.shape
    channels = len(next(iter(slices))["image"])
    size = (COLUMNS * channels * PANEL_INCHES, ROWS * PANEL_INCHES * rows / columns)
    figure, panels = plt.subplots(ROWS, COLUMNS, figsize=size, facecolor="black")
    shown = with_lesion(slices, stage.spacing)
    for axes, one in zip(panels.flat, islice(shown, ROWS * COLUMNS), strict=True):
        image = one["image"].permute(1, 0, 2).flatten(1)
        axes.imshow(image, cmap="gray", origin="lower", vmin=0, vmax=float(image.quantile(0.995)))
        for channel in range(channels):
            extent = (channel * columns, (channel + 1) * columns - 1, 0, rows - 1)
            axes.contour(one["label"][0], [0.5], colors="orangered", linewidths=0.7, extent=extent)
        axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1, 0.02, 0.02)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


def with_lesion(slices: SimulatedSlices, spacing: float) -> Iterator[Mapping[str, Tensor]]:
    """The slices that show enough lesion to be seen."""
    for one in slices:
        if float(one["label"].sum()) * spacing**2 * 4 / 1000 > SMALLEST_ML:
            yield one


if __name__ == "__main__":
    typer.run(main)

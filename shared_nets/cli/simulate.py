"""`strokeseg simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_nets.bundles import Model
from shared_nets.cli.options import Debug
from shared_nets.errors import tell_errors_in_words


def simulate(
    model: Annotated[
        Model, typer.Option(case_sensitive=False, help="xnet: chronic, T1. cnnres: acute, DWI and FLAIR.")
    ],
    masks: Annotated[Path, typer.Option(help="Folder of stroke masks in MNI space.")],
    output: Annotated[Path, typer.Option(help="Folder for imagesTr, labelsTr and datalist.json.")],
    cases: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    anatomies: Annotated[
        Path | None, typer.Option(help="Folder of T1 scans without lesions, with anatomies.json.")
    ] = None,
    shape: Annotated[tuple[int, int, int], typer.Option(help="Rows, columns and slices of a volume.")] = (
        112,
        96,
        36,
    ),
    spacing: Annotated[
        tuple[float, float], typer.Option(help="Pixel size and distance of slices, in mm.")
    ] = (2.0, 4.0),
    folds: Annotated[int, typer.Option(min=2, help="Folds; no mask is in two of them.")] = 5,
    smallest_ml: Annotated[float, typer.Option(min=0, help="Least lesion volume of a case, in mL.")] = 1.0,
    held_out: Annotated[
        bool | None,
        typer.Option(
            "--held-out/--not-held-out",
            help="Only masks that pretraining keeps apart for testing, every fifth by name, or only others.",
            show_default="all",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same cases.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    debug: Debug = False,
) -> None:
    """
    Write simulated cases: real stroke masks painted into real anatomy, as a tree with a data list.

    For trying out a training or comparing networks where no labelled scans are at hand. Needs the extra
    `simulation`.
    """
    tell_errors_in_words(debug)
    from shared_nets.simulation import (
        acute_contrast,
        anatomies_of,
        held_out_masks,
        nifti_masks,
        simulate_dataset,
        t1_contrast,
    )

    kept = set(held_out_masks(masks))
    data_list = simulate_dataset(
        output,
        [mask for mask in nifti_masks(masks) if held_out in (None, mask in kept)],
        anatomies_of(anatomies),
        {Model.xnet: t1_contrast, Model.cnnres: acute_contrast}[model],
        cases,
        shape,
        spacing,
        folds,
        smallest_ml,
        seed,
        quiet,
    )
    print(f"Wrote {data_list}")

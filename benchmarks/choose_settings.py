"""
Thresholds, smoothing, mirroring and what FLAIR may do, on validation data: the defaults' table.

    strokeseg simulate --model xnet --masks MASKS --not-held-out --seed 1 --cases 15 --output THICK
    strokeseg simulate --model xnet --masks MASKS --not-held-out --seed 1 --cases 8 --output THIN \
        --shape 112 96 75 --spacing 2 2
    python benchmarks/choose_settings.py --model xnet --dataset THICK --dataset THIN --healthy HEALTHY \
        --output docs/results/settings_xnet

Writes OUTPUT.csv, a row a combination, and OUTPUT.md: mean Dice over the datasets' cases, and falsely marked
mL in them and in scans without lesions. The cases must not be those that the final results are told of.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import nibabel as nib
import numpy as np
import pandas as pd
import typer
from common import image_in, listed, write_tables
from numpy.typing import NDArray

from shared_nets import LesionSegmenter
from shared_nets.affine import voxel_ml
from shared_nets.bundles import Model, bundle_folder, read_inference_config
from shared_nets.data import find_cases
from shared_nets.evaluation.metrics import ratio
from shared_nets.inference.masks import hysteresis_mask, without_small_lesions

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
PEAK_THRESHOLDS = (0.0, 0.8, 0.9, 0.95, 0.98, 0.985, 0.99)
SMALLEST_ML = (0.0, 0.05, 0.2)
WAYS: dict[Model, list[dict[str, Any]]] = {
    Model.xnet: [
        *({"mirror": True, "smoothing_mm": mm} for mm in (0.0, 1.5, 2.0)),
        {"mirror": False, "smoothing_mm": 1.5},
    ],
    Model.cnnres: [{"mirror": False, "dwi_decides": False, "smoothing_mm": mm} for mm in (0.0, 0.75, 1.5)],
}  # fmt: skip
"""How the network is run."""

LIMITS = ("threshold", "peak_threshold", "smallest_lesion_ml")

Mask = NDArray[np.bool_]


def main(
    model: Annotated[Model, typer.Option(help="Which bundle.")],
    dataset: Annotated[
        list[Path],
        typer.Option(help="Labelled scans: a folder that `strokeseg simulate` wrote; may be repeated."),
    ],
    output: Annotated[Path, typer.Option(help="Name of the tables, without ending.")],
    healthy: Annotated[Path | None, typer.Option(help="Folder of scans without lesions.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Another bundle folder.")] = None,
) -> None:
    """Try all combinations and write the tables."""
    cases: list[tuple[Any, Path | None]] = [
        (image_in(folder, case), folder / case["label"])
        for folder in dataset
        for case in listed(folder, "training")
    ]
    if healthy:
        modalities = ("T1w",) if model is Model.xnet else ("DWI", "FLAIR")
        cases += [(case["image"], None) for case in find_cases(str(healthy), modalities=modalities)]
    rows = []
    for way in WAYS[model]:
        segmenter = LesionSegmenter(model.value, bundle=bundle, **way)
        for image, label in cases:
            probability = segmenter.predict(image).probability
            reference = np.asarray(nib.load(label).dataobj) > 0 if label else None
            values, affine = np.asarray(probability.dataobj), probability.affine
            for threshold, peak in itertools.product(THRESHOLDS, PEAK_THRESHOLDS):
                sure = hysteresis_mask(values, threshold, peak)
                for smallest_ml in SMALLEST_ML:
                    mask = without_small_lesions(sure, affine, smallest_ml)
                    settings = {**way, **dict(zip(LIMITS, (threshold, peak, smallest_ml), strict=True))}
                    rows.append(settings | scores(mask, reference, voxel_ml(affine)))
    names = [*WAYS[model][0], *LIMITS]
    table = pd.DataFrame(rows).groupby(names).mean().reset_index()
    table = table.sort_values("dice", ascending=False, kind="stable")
    config = read_inference_config(bundle_folder(model.value, bundle))
    write_tables(table, markdown(table, {name: config[name] for name in names}, len(cases)), output)


def scores(mask: Mask, reference: Mask | None, ml: float) -> dict[str, float]:
    """Dice and falsely marked mL of a case; of a scan without lesions only that, in a column of its own."""
    if reference is None:
        return {"healthy_false_ml": float(mask.sum() * ml)}
    both = int(mask.sum() + reference.sum())
    dice = ratio(2 * int((mask & reference).sum()), both, both_empty=both == 0)
    return {"dice": dice, "false_ml": float((mask & ~reference).sum() * ml)}


def markdown(table: pd.DataFrame, usual: dict[str, Any], cases: int) -> str:
    """The ten best by Dice, the worst, and the defaults wherever they stand."""
    default = (table[list(usual)] == pd.Series(usual)).all(axis=1).to_numpy()
    shown = table[default | (np.arange(len(table)) < 10) | (np.arange(len(table)) == len(table) - 1)]
    names = [name for name in (*usual, "dice", "false_ml", "healthy_false_ml") if name in table]
    lines = [f"{cases} scans.", "", f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for row in shown[names].to_dict("records"):
        cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)

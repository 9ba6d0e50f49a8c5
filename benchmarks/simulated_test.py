"""
A bundle on simulated cases it never saw, beside what a user could run instead.

    strokeseg simulate --model xnet --masks MASKS --held-out --cases 30 --output TEST
    python benchmarks/simulated_test.py --model xnet --dataset TEST --output docs/results/simulated_xnet

`--also cpu_precision=bfloat16` adds the bundle with another setting of inference.json; it may be repeated.

The dataset's lesion masks must be those that pretraining keeps apart (`--held-out`). Writes OUTPUT.csv, a row
a case and method, and OUTPUT.md: Dice, lesion-wise F1 and false volume by tercile of the lesions' volume.

The other method compares each side with its mirror image: lesion is what differs from the other side, dark on
T1, bright on DWI, by more than a threshold. Its threshold is the best on these very cases, to its advantage.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import nibabel as nib
import numpy as np
import pandas as pd
import typer
from common import as_list, image_in, listed, write_tables
from numpy.typing import NDArray
from scipy import ndimage

from shared_nets.bundles import Model, bundle_folder, run_inference
from shared_nets.evaluation.metrics import case_metrics
from shared_nets.evaluation.tables import statistics
from shared_nets.switches import parse_settings

THRESHOLDS = (0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4)
"""Differences between the sides that are tried, in units of the brain's 99th percentile."""
SMOOTHING_MM = 2.0
SMALLEST_ML = 0.5
COLUMNS = ("dice", "lesion_f1", "precision", "recall", "false_positive_ml", "hd95_mm")
SHOWN = {"dice": "Dice", "lesion_f1": "lesion F1", "precision": "precision", "recall": "recall"}

Case = dict[str, Any]


def main(
    model: Annotated[Model, typer.Option(help="Which bundle.")],
    dataset: Annotated[Path, typer.Option(help="Folder that `strokeseg simulate` wrote.")],
    output: Annotated[Path, typer.Option(help="Name of the tables, without ending.")],
    bundle: Annotated[Path | None, typer.Option(help="Another bundle folder.")] = None,
    also: Annotated[list[str] | None, typer.Option(help="The bundle with KEY=VALUE too; repeatable.")] = None,
) -> None:
    """Run all methods and write the tables."""
    cases = listed(dataset, "training", "validation", "test")
    rows = [
        *(
            row
            for setting in ("", *(also or ()))
            for row in network_rows(model, dataset, cases, bundle_folder(model.value, bundle), setting)
        ),
        *asymmetry_rows(model, dataset, cases),
    ]
    table = pd.DataFrame(rows)
    write_tables(table, markdown(table), output)


def network_rows(model: Model, dataset: Path, cases: list[Case], bundle: Path, setting: str) -> list[Case]:
    """What the bundle finds, through its own inference.json, with a KEY=VALUE in it unless that is empty."""
    scans = [{"image": image_in(dataset, case), "name": case["name"]} for case in cases]
    with TemporaryDirectory() as folder:
        settings = {"dataset_dir": scans, "output_dir": folder, "save_picture": False}
        run_inference(bundle, settings | parse_settings([setting] if setting else None))
        found = {
            case["name"]: next(Path(folder).rglob(f"{case['name']}_label-lesion_mask.nii.gz"))
            for case in cases
        }
        return [
            scored(
                f"{model.value} {setting}".strip(),
                case,
                np.asarray(nib.load(found[case["name"]]).dataobj) > 0,
                dataset,
            )
            for case in cases
        ]


def asymmetry_rows(model: Model, dataset: Path, cases: list[Case]) -> list[Case]:
    """What differs from the other side, at the threshold with the best mean Dice."""
    sign = -1 if model is Model.xnet else 1
    tried = []
    for threshold in THRESHOLDS:
        masks = (
            asymmetry(dataset / next(filter(None, as_list(case["image"]))), sign, threshold) for case in cases
        )
        name = f"asymmetry over {threshold:g}"
        tried.append([scored(name, case, mask, dataset) for case, mask in zip(cases, masks, strict=True)])
    return max(tried, key=lambda rows: np.mean([row["dice"] for row in rows]))


def asymmetry(path: Path, sign: int, threshold: float) -> NDArray[np.bool_]:
    """
    Where a scan differs from its mirror image.

    Args:
        path: a scan whose first axis runs from left to right.
        sign: 1 for brighter than the other side, −1 for darker.
        threshold: by how much, in units of the 99th percentile.
    """
    image = nib.load(path)
    spacing = nib.affines.voxel_sizes(image.affine)
    array = np.asarray(image.dataobj, dtype=np.float32)
    smooth = ndimage.gaussian_filter(array / np.percentile(array, 99), SMOOTHING_MM / spacing)
    head = smooth > 0.1
    middle = round(float(np.argwhere(head)[:, 0].mean()) * 2) if head.any() else len(smooth) - 1
    columns = np.clip(middle - np.arange(len(smooth)), 0, len(smooth) - 1)
    difference = sign * (smooth - smooth[columns])
    inside = ndimage.binary_erosion(head & head[columns], iterations=3)
    pieces, number = ndimage.label((difference > threshold) & inside)
    sizes = ndimage.sum_labels(np.ones_like(pieces), pieces, np.arange(number + 1)) * np.prod(spacing) / 1000
    keep = sizes >= SMALLEST_ML
    keep[0] = False
    return keep[pieces]


def scored(method: str, case: Case, mask: NDArray[np.bool_], dataset: Path) -> Case:
    """A row: the case's metrics."""
    label = nib.load(dataset / case["label"])
    metrics = case_metrics(mask, np.asarray(label.dataobj) > 0, label.affine, case["name"])
    return {"method": method, "case": case["name"], "reference_ml": metrics["reference_ml"]} | {
        key: metrics[key] for key in COLUMNS
    }


def markdown(table: pd.DataFrame) -> str:
    """Means with 95 % bootstrap intervals, over all cases and by tercile of the lesions' volume."""
    volumes = table.groupby("case")["reference_ml"].first()
    tercile = pd.qcut(volumes, 3, duplicates="drop")  # few or equal volumes make fewer parts, or none
    lines = [
        f"| method | lesions | cases | {' | '.join(SHOWN.values())} | false mL |",
        "| --- " * (4 + len(SHOWN)) + "|",
    ]
    for method, rows in table.groupby("method", sort=False):
        parts = [("all", rows), *rows.groupby(rows["case"].map(tercile), observed=True)]
        for name, part in parts:
            size = name if isinstance(name, str) else f"{max(name.left, 0):.1f}–{name.right:.1f} mL"
            cells = [interval(part[column].to_numpy()) for column in SHOWN]
            false = part["false_positive_ml"].mean()
            lines.append(f"| {method} | {size} | {len(part)} | {' | '.join(cells)} | {false:.1f} |")
    return "\n".join(lines) + "\n"


def interval(values: NDArray[np.float64]) -> str:
    """A mean with its 95 % bootstrap interval."""
    of = statistics(values, resamples=10_000, seed=0)
    return f"{of['mean']:.2f} ({of['ci_low']:.2f}–{of['ci_high']:.2f})"


if __name__ == "__main__":
    typer.run(main)

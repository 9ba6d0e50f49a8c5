"""
How a bundle's Dice falls as scans get worse: noise, bias, contrast, thickness, resolution, rotation.

    python benchmarks/robustness.py --model xnet --dataset TEST --output docs/results/robustness_xnet

The dataset is one that `strokeseg simulate --held-out` wrote. Every scan is changed as told below, and judged
against its own mask, brought to the changed scan's grid. Writes OUTPUT.csv and OUTPUT.png.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import matplotlib
import nibabel as nib
import numpy as np
import pandas as pd
import torch
import typer
from common import as_list, listed, write_csv
from monai.data import MetaTensor
from monai.transforms import AdjustContrast, Affine, GaussianSmooth, RandBiasField, RandRicianNoise, Spacing
from nibabel.affines import voxel_sizes

from shared_nets.bundles import Model, bundle_folder, run_inference
from shared_nets.evaluation.metrics import case_metrics

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Change = Callable[[MetaTensor, float, bool], Any]
"""A scan or mask (1, X, Y, Z), how much, and whether it is a mask; the changed one."""


@dataclass(frozen=True)
class Kind:
    """One way for scans to get worse: what the amount means, which are tried, and what is done."""

    amount: str
    tried: tuple[float, ...]
    change: Change


def noisy(image: MetaTensor, amount: float, is_mask: bool) -> Any:
    """Rician noise; the amount is its deviation, the scan's 99th percentile being 1."""
    if is_mask or amount == 0:
        return image
    return RandRicianNoise(prob=1, std=amount, sample_std=False).set_random_state(0)(image)


def biased(image: MetaTensor, amount: float, is_mask: bool) -> Any:
    """A smooth field, the exponential of a polynomial with coefficients of this amount."""
    if is_mask or amount == 0:
        return image
    return RandBiasField(prob=1, coeff_range=(amount, amount)).set_random_state(0)(image)


def gamma(image: MetaTensor, amount: float, is_mask: bool) -> Any:
    """Intensities to the power of the amount."""
    return image if is_mask else AdjustContrast(amount)(image)


def thick(image: MetaTensor, amount: float, is_mask: bool) -> Any:
    """Slices of this many mm."""
    return spaced(image, (-1.0, -1.0, amount), is_mask)


def coarse(image: MetaTensor, amount: float, is_mask: bool) -> Any:
    """Pixels of this many mm."""
    return spaced(image, (amount, amount, -1.0), is_mask)


def turned(image: MetaTensor, amount: float, is_mask: bool) -> Any:
    """The head turned in the axial plane by this many degrees."""
    turn = Affine(rotate_params=(0.0, 0.0, np.deg2rad(amount)), padding_mode="zeros", image_only=True)
    return turn(image, mode="nearest" if is_mask else "bilinear")


def spaced(image: MetaTensor, pixdim: tuple[float, float, float], is_mask: bool) -> Any:
    """Another voxel size; each new voxel is the mean of what it covers."""
    size = np.array([old if new < 0 else new for new, old in zip(pixdim, image.pixdim.tolist(), strict=True)])
    sigma = 0.42 * np.sqrt(np.clip((size / image.pixdim.numpy()) ** 2 - 1, 0, None))
    if not is_mask and sigma.any():
        image = GaussianSmooth(sigma=[max(float(s), 1e-3) for s in sigma])(image)
    return Spacing(pixdim=tuple(size), mode="nearest" if is_mask else "bilinear")(image)


KINDS = {
    "noise": Kind("deviation, share of the 99th percentile", (0.0, 0.03, 0.06, 0.1, 0.15, 0.2), noisy),
    "bias field": Kind("coefficient", (0.0, 0.1, 0.2, 0.4, 0.6), biased),
    "contrast": Kind("exponent", (0.5, 0.7, 1.0, 1.4, 2.0), gamma),
    "slice thickness": Kind("mm", (4.0, 5.0, 6.0, 8.0), thick),
    "resolution": Kind("mm in plane", (2.0, 3.0, 4.0, 5.0), coarse),
    "rotation": Kind("degrees", (0.0, 10.0, 20.0, 30.0, 45.0), turned),
}


def main(
    model: Annotated[Model, typer.Option(help="Which bundle.")],
    dataset: Annotated[Path, typer.Option(help="Folder that `strokeseg simulate` wrote.")],
    output: Annotated[Path, typer.Option(help="Name of the table and the plot, without ending.")],
    cases: Annotated[int, typer.Option(min=1, help="The first so many cases.")] = 8,
    bundle: Annotated[Path | None, typer.Option(help="Another bundle folder.")] = None,
) -> None:
    """Measure every kind at every amount; write the table and the plot."""
    chosen = listed(dataset, "training")[:cases]
    rows = []
    with TemporaryDirectory() as folder:
        for kind in KINDS:
            for amount in KINDS[kind].tried:
                where = Path(folder) / f"{kind} {amount:g}".replace(" ", "_")
                scans = [changed(case, dataset, kind, amount, where / "scans") for case in chosen]
                run_inference(
                    bundle_folder(model.value, bundle),
                    {"dataset_dir": scans, "output_dir": str(where), "save_picture": False, "quiet": True},
                )
                rows += [
                    {"kind": kind, "amount": amount, "case": scan["name"], "dice": dice(scan, where)}
                    for scan in scans
                ]
    table = pd.DataFrame(rows)
    write_csv(table, output)
    plot(table, Path(f"{output}.png"))
    print(table.groupby(["kind", "amount"], sort=False)["dice"].mean().to_string())


def changed(case: dict[str, Any], dataset: Path, kind: str, amount: float, folder: Path) -> dict[str, Any]:
    """The case with its scans and its mask changed, as new files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[str | None] = []
    for name in [*as_list(case["image"]), case["label"]]:
        if name is None:  # a missing channel
            paths.append(None)
            continue
        volume = nib.load(dataset / name)
        array = np.asarray(volume.dataobj, dtype=np.float32)
        is_mask = name == case["label"]
        array = array if is_mask else array / np.percentile(array, 99)
        tensor = MetaTensor(torch.from_numpy(array[None]), affine=torch.from_numpy(volume.affine))
        made = KINDS[kind].change(tensor, amount, is_mask)
        path = folder / f"{'mask_of_' if is_mask else ''}{Path(name).name}"
        nib.save(nib.Nifti1Image(np.asarray(made[0].cpu()), np.asarray(made.affine)), path)
        paths.append(str(path))
    *images, label = paths
    return {"image": images if len(images) > 1 else images[0], "label": label, "name": case["name"]}


def dice(scan: dict[str, Any], folder: Path) -> float:
    """Of the mask found against the changed reference."""
    found = nib.load(next(folder.rglob(f"{scan['name']}_label-lesion_mask.nii.gz")))
    reference = nib.load(scan["label"])
    assert np.allclose(voxel_sizes(found.affine), voxel_sizes(reference.affine))
    masks = (np.asarray(image.dataobj) > 0.5 for image in (found, reference))
    return case_metrics(*masks, reference.affine, scan["name"])["dice"]


def plot(table: pd.DataFrame, path: Path) -> None:
    """A panel a kind: each case's Dice in grey, their mean in colour."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharey=True, layout="constrained")
    for (kind, rows), panel in zip(table.groupby("kind", sort=False), axes.flat, strict=True):
        by_case = rows.pivot(index="amount", columns="case", values="dice")
        panel.plot(by_case, color="0.8", linewidth=0.8)
        panel.plot(by_case.mean(axis=1), color="tab:orange", marker="o")
        panel.set(title=kind, xlabel=KINDS[str(kind)].amount, ylim=(0, 1))
    for panel in axes[:, 0]:
        panel.set_ylabel("Dice, simulated cases")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    typer.run(main)

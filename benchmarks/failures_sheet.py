"""
What a bundle draws where there is no stroke, and the simulated cases on which it does worst.

    python benchmarks/failures_sheet.py --model xnet --dataset TEST --scan HEALTHY.nii.gz --scan MS.nii.gz \\
        --output docs/images/failures_chronic.png

TEST is a folder of `strokeseg simulate`. A scan is shown where most is drawn, or through its middle,
a case where its reference is largest. The mask is outlined in orange, the reference in blue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import typer
from common import as_list, image_in, listed
from matplotlib.axes import Axes
from numpy.typing import NDArray

from shared_nets import LesionSegmenter
from shared_nets.affine import voxel_ml
from shared_nets.bundles import Model

WORST = 4
"""Cases shown."""
PANEL_INCHES = 2.4


class Drawn(NamedTuple):
    """A scan, what was drawn in it and what should have been, each (X, Y, Z) in RAS order; mL of a voxel."""

    name: str
    scan: NDArray[Any]
    mask: NDArray[Any]
    reference: NDArray[Any]
    spacing: NDArray[Any]
    ml: float

    @property
    def dice(self) -> float:
        """Of mask and reference; 1 where both are empty."""
        both = self.mask.sum() + self.reference.sum()
        return float(2 * (self.mask & self.reference).sum() / both) if both else 1.0


def main(
    model: Annotated[Model, typer.Option(help="The bundle.")],
    dataset: Annotated[Path, typer.Option(help="Folder of `strokeseg simulate`.")],
    output: Annotated[Path, typer.Option(help="Picture to write.")],
    scan: Annotated[list[Path] | None, typer.Option(help="Scan without a stroke; repeatable.")] = None,
) -> None:
    """Draw one row of scans without a stroke and one of simulated cases."""
    segment = LesionSegmenter(model.value)
    scans = [draw(segment, path.name.split(".")[0], str(path)) for path in scan or []]
    cases = [
        draw(segment, case["name"], image_in(dataset, case), dataset / case["label"])
        for case in listed(dataset, "training")
    ]
    worst = sorted(cases, key=lambda case: case.dice)[:WORST]
    rows = [row for row in (scans, worst) if row]
    columns = max(map(len, rows))
    size = (PANEL_INCHES * columns, 1.3 * PANEL_INCHES * len(rows))
    figure, panels = plt.subplots(len(rows), columns, figsize=size, facecolor="black", squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for axes_of_row, row in zip(panels, rows, strict=True):
        for axes, one in zip(axes_of_row, row, strict=False):
            show(axes, one)
    figure.tight_layout(pad=0.4)
    figure.savefig(output, dpi=100)


def draw(segment: LesionSegmenter, name: str, image: Any, reference: Path | None = None) -> Drawn:
    """Segment a scan, and read it and its reference in RAS order."""
    mask = nib.as_closest_canonical(segment.predict(image).mask)
    first = next(path for path in as_list(image) if path)
    scan = nib.as_closest_canonical(nib.load(first)).get_fdata().squeeze()
    empty = np.zeros(mask.shape, dtype=bool)
    label = nib.as_closest_canonical(nib.load(reference)).get_fdata() > 0 if reference else empty
    spacing = nib.affines.voxel_sizes(mask.affine)
    return Drawn(name, scan, mask.get_fdata() > 0, label, spacing, voxel_ml(mask.affine))


def show(axes: Axes, one: Drawn) -> None:
    """One axial slice, the patient's left on the right."""
    outlined = one.reference if one.reference.any() else one.mask
    areas = outlined.sum((0, 1))
    z = int(areas.argmax()) if areas.any() else one.scan.shape[2] // 2
    image, mask, reference = (volume[::-1, :, z].T for volume in (one.scan, one.mask, one.reference))
    axes.imshow(
        image,
        cmap="gray",
        origin="lower",
        vmin=0,
        vmax=np.percentile(one.scan, 99.5),
        aspect=one.spacing[1] / one.spacing[0],
    )
    for outline, colour in ((reference, "deepskyblue"), (mask, "orangered")):
        if outline.any():
            axes.contour(outline, [0.5], colors=colour, linewidths=0.9)
    drawn = f"drawn {one.mask.sum() * one.ml:.1f} mL"
    if one.reference.any():
        drawn = f"{one.reference.sum() * one.ml:.1f} mL, {drawn}, Dice {one.dice:.2f}"
    axes.set_title(f"{one.name}\n{drawn}", color="white", fontsize=7)


if __name__ == "__main__":
    typer.run(main)

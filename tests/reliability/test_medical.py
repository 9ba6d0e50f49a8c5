"""What would mislead a reader of masks and tables: a flipped side, a wrong volume, a false warning."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from nibabel.affines import apply_affine
from nibabel.orientations import apply_orientation, inv_ornt_aff
from torch import Tensor, nn
from typer.testing import CliRunner

from shared_nets.cli import app
from shared_nets.data.checks import check_head
from shared_nets.data.loading import read_scan
from shared_nets.errors import scan_warnings
from tests.commands import ROOT
from tests.heads import affine, head, lesion_mask, write
from tests.reliability.programs import predict

Happened = Callable[[object], None]

# Every order of the axes, each in both directions.
AXIS_ORDERS = [
    np.array(list(zip(order, signs, strict=True)))
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.reliability(
    "Medical safety",
    "A head with its lesion on the left, stored in all 48 orders and directions of the axes",
    "The mask marks the same place in space, and the table says the same side and volume.",
)
def test_all_axis_orders(tmp_path: Path, happened: Happened) -> None:
    lesion = lesion_mask(1)
    scan, to_mm = head("T1w", lesion, 1), affine()
    truth = positions(lesion, to_mm)
    assert (truth[:, 0] < 0).all()  # left, in RAS
    for number, order in enumerate(AXIS_ORDERS):
        turned = np.ascontiguousarray(apply_orientation(scan, order))
        write(tmp_path / f"in/turned{number:02}.nii.gz", turned, to_mm @ inv_ornt_aff(order, scan.shape))
    run = predict(tmp_path / "in", tmp_path / "out")
    assert run.code == 0, run.err
    places = []
    for path in sorted((tmp_path / "out").glob("*_mask.nii.gz")):
        mask = nib.load(path)
        given = nib.load(tmp_path / "in" / path.name.replace("_label-lesion_mask", ""))
        assert mask.shape == given.shape
        np.testing.assert_array_equal(mask.affine, given.affine)
        places.append(positions(np.asarray(mask.dataobj), mask.affine))
    assert len(places) == 48
    for place in places:
        np.testing.assert_allclose(place, places[0], atol=1e-3)
    overlap = len(set(map(tuple, places[0])) & set(map(tuple, truth)))
    assert 2 * overlap / (len(places[0]) + len(truth)) > 0.8
    assert set(run.table["side"]) == {"left"}
    assert run.table["volume_ml"].nunique() == 1
    happened(f"48 masks alike, {run.table['volume_ml'].iloc[0]:.1f} mL on the left.")


def positions(mask: np.ndarray, to_mm: np.ndarray) -> np.ndarray:
    """Where a mask's voxels are, (N, 3) in mm (RAS), in an order that does not depend on the axes'."""
    where = np.round(apply_affine(to_mm, np.argwhere(mask)), 3)
    return where[np.lexsort(where.T)]


@pytest.mark.reliability(
    "Medical safety",
    "The same voxels with an affine that runs the other way from left to right",
    "The mask marks the same voxels, and the table says the other side.",
)
def test_the_side_follows_the_affine(tmp_path: Path, happened: Happened) -> None:
    scan, to_mm = head("T1w", lesion_mask(1), 1), affine()
    write(tmp_path / "in/a_ras.nii.gz", scan, to_mm)
    write(tmp_path / "in/b_las.nii.gz", scan, np.diag([-1, 1, 1, 1]) @ to_mm)
    run = predict(tmp_path / "in", tmp_path / "out")
    one, two = (
        np.asarray(nib.load(tmp_path / f"out/{name}_label-lesion_mask.nii.gz").dataobj)
        for name in ("a_ras", "b_las")
    )
    np.testing.assert_array_equal(one, two)
    assert run.table["side"].to_dict() == {"a_ras": "left", "b_las": "right"}
    table = run.table
    assert table.loc["a_ras", "centroid_x_mm"] == -table.loc["b_las", "centroid_x_mm"] != 0
    happened("left with the one, right with the other.")


class Fraction(nn.Module):
    """A perfect network: the probability is the share of a pixel that is lesion, told by its brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), brain at 0.5 and lesion at 1, to logits (N, 1, H, W)."""
        return torch.logit(self.weight * (x[:, :1] - 0.5), eps=1e-6)


Balls = Mapping[float, Sequence[tuple[float, float, float]]]
# Volumes of balls in mL, and where each lies in mm: small ones at several places between the pixels.
BALLS: Balls = {
    1.1: [(-35.2, 30.4, 20.3), (-14.9, 43.6, -9.7), (15.7, 43.1, 10.4), (-48.5, 0.2, -0.1), (48.1, 3.7, 3.6)],
    2.0: [(30.7, 35.1, -10.6), (-12.4, 40.7, 15.2), (15.3, -50.9, -12.3)],
    5.0: [(-30.3, -30.8, -15.4), (-18.6, -32.9, 24.7)],
    10.0: [(35.4, -25.7, 15.1)],
    30.0: [(0.3, 2.2, 1.7)],
}
SIZE_MM = (160, 190, 140)


def brain_with_balls(balls: Balls) -> tuple[np.ndarray, np.ndarray]:
    """A head of brightness 50 at 1 mm with balls of 100, voxels at their borders mixed; and its affine."""
    to_mm = affine((1, 1, 1), SIZE_MM)
    mm = [to_mm[axis, 3] + np.arange(SIZE_MM[axis]) for axis in range(3)]
    x, y, z = np.meshgrid(*mm, indexing="ij", sparse=True)
    image = np.where((x / 70) ** 2 + (y / 85) ** 2 + (z / 60) ** 2 < 1, 50, 0).astype(np.float32)
    parts = (np.arange(8) + 0.5) / 8 - 0.5  # 512 points in each voxel
    for ml, centre in ((ml, centre) for ml, places in balls.items() for centre in places):
        radius = (750 * ml / np.pi) ** (1 / 3)
        box, squares = [], []
        for axis, middle in zip(mm, centre, strict=True):
            box.append(slice(*np.searchsorted(axis, (middle - radius - 1, middle + radius + 1))))
            squares.append(((axis[box[-1]][:, None] + parts - middle) ** 2).ravel())
        inside = squares[0][:, None, None] + squares[1][:, None] + squares[2] <= radius**2
        a, b, c = (len(one) // 8 for one in squares)
        image[tuple(box)] += 50 * inside.reshape(a, 8, b, 8, c, 8).mean((1, 3, 5))
    return image, to_mm


def ball_row(spacing_mm: float) -> object:
    there = f"brought to pixels of {spacing_mm:g} mm for the network and back, not smoothed"
    done = f"Balls of 1.1 to 30 mL at 1 mm, {there}"
    marks = pytest.mark.reliability("Medical safety", done, "Each volume is right to 2 %.")
    return pytest.param(spacing_mm, marks=marks, id=f"{spacing_mm:g} mm")


@pytest.mark.parametrize("spacing_mm", [ball_row(1.0), ball_row(1.5), ball_row(2.0)])
def test_volumes_of_balls(tmp_path: Path, happened: Happened, spacing_mm: float) -> None:
    errors = volume_errors(tmp_path, BALLS, spacing_mm)
    happened(", ".join(f"{ml:g} mL: {told_errors(some)}" for ml, some in errors.items()) + ".")
    assert all(np.abs(some).max() < 0.02 for some in errors.values())


@pytest.mark.reliability(
    "Medical safety",
    "Balls of 1.1 mL at 1 mm, at 40 random places, brought to pixels of 2 mm for the network and back, "
    "not smoothed",
    "Each volume is right to 2 %.",
)
def test_volumes_of_balls_anywhere(tmp_path: Path, happened: Happened) -> None:
    rng = np.random.default_rng(0)
    grid = [(x, y, z) for x in (-40, -13, 13, 40) for y in (-45, -15, 15, 45) for z in (-25, 0, 25)]
    inside = [(x, y, z) for x, y, z in grid if (x / 70) ** 2 + (y / 85) ** 2 + (z / 60) ** 2 < 0.62]
    places = [
        (x + a, y + b, z + c)
        for (x, y, z), (a, b, c) in zip(inside, rng.uniform(-1, 1, (40, 3)), strict=True)
    ]
    errors = volume_errors(tmp_path, {1.1: places}, 2.0)[1.1]
    happened(f"{told_errors(errors)}, mean {errors.mean():+.1%}.")
    assert np.abs(errors).max() < 0.02


def volume_errors(folder: Path, balls: Balls, spacing_mm: float) -> dict[float, np.ndarray]:
    """How far the masks' volumes are from the balls', relative, by the balls' volume."""
    scan = write(folder / "balls.nii.gz", *brain_with_balls(balls))
    run = predict(
        [str(scan)], folder / "out", "cnnres", Fraction(), spacing=[spacing_mm, spacing_mm, -1.0],
        window=[160, 160], window_batch=16, smoothing_mm=0.0, threshold=0.5,
    )  # fmt: skip
    assert run.code == 0, run.err
    lesions = pd.read_csv(folder / "out/components.csv")
    where = lesions[["centroid_x_mm", "centroid_y_mm", "centroid_z_mm"]].to_numpy()
    errors = {}
    for ml, places in balls.items():
        away = np.stack([np.linalg.norm(where - centre, axis=1) for centre in places])
        assert (away.min(axis=1) < 0.5).all()
        errors[ml] = lesions["volume_ml"].to_numpy()[away.argmin(axis=1)] / ml - 1
    return errors


def told_errors(errors: np.ndarray) -> str:
    low, high = f"{errors.min():+.1%}", f"{errors.max():+.1%}"
    return low if low == high else f"{low} to {high}"


@pytest.mark.reliability(
    "Medical safety",
    "The demo's real scans, their contrast bent by gammas of 0.3, 0.5 and 2",
    "None is taken for a phantom or for another organ.",
)
def test_bent_contrast_is_still_a_head() -> None:
    for path in sorted((ROOT / "demo").glob("*/*.nii.gz")):
        scan = read_scan(str(path))
        array, to_mm = scan.array[0, ::2, ::2], scan.affine @ np.diag([2, 2, 1, 1])
        for gamma in (0.3, 0.5, 2):
            bent = np.clip(array / np.percentile(array, 99.5), 0, 1.5) ** gamma
            with scan_warnings() as said:
                check_head(bent.astype(np.float32), to_mm, path.name)
            assert said == []


@pytest.mark.reliability(
    "Medical safety",
    "What people read: the command's help, the model cards, a run's report, sidecar and manifest",
    "Each says that it is for research only and no medical device.",
)
def test_research_use_only(tmp_path: Path) -> None:
    scan = write(tmp_path / "scan.nii.gz", head("T1w", lesion_mask(1), 1))
    assert predict([str(scan)], tmp_path / "out").code == 0
    texts = [CliRunner().invoke(app, ["--help"]).output]
    texts += [(ROOT / f"{name}_bundle/docs/README.md").read_text() for name in ("xnet", "cnnres")]
    made = ("report.html", "manifest.json", "scan_label-lesion_mask.json")
    texts += [(tmp_path / "out" / name).read_text() for name in made]
    for text in texts:
        words = " ".join(text.replace("*", "").split())
        assert "Research use only, not a medical device" in words, words[:300]

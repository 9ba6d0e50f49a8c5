"""The picture: what is drawn where, read back from its pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from monai.data import MetaTensor

from shared_nets.inference import lesion_sheet
from shared_nets.inference.picture import LESION_COLOUR, _choose_slices


def ars(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
    """Anterior, right, superior: axis 0 is y, axis 1 is x; the world's 0 in the middle."""
    affine = np.zeros((4, 4))
    affine[1, 0], affine[0, 1], affine[2, 2], affine[3, 3] = (*spacing, 1)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def head(shape: tuple[int, int, int] = (40, 32, 20), channels: int = 1) -> MetaTensor:
    return MetaTensor(torch.full((channels, *shape), 0.5), affine=ars(shape))


def lesion_at(
    x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], affine: np.ndarray
) -> MetaTensor:
    """A box in world millimetres on a grid of its own."""
    grid = np.indices((48, 48, 30)).reshape(3, -1)
    world = (affine[:3, :3] @ grid).T + affine[:3, 3]
    inside = np.ones(len(world), bool)
    for axis, (low, high) in enumerate((x, y, z)):
        inside &= (world[:, axis] >= low) & (world[:, axis] <= high)
    return MetaTensor(inside.reshape(1, 48, 48, 30).astype(np.uint8), affine=affine)


RAS = np.array([[1.0, 0, 0, -24], [0, 1, 0, -24], [0, 0, 1, -15], [0, 0, 0, 1]])
LAS = np.array([[-1.0, 0, 0, 23], [0, 1, 0, -24], [0, 0, 1, -15], [0, 0, 0, 1]])


def outline(png: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the lesion's colour below the title, and the picture."""
    picture = imread(io.BytesIO(png), format="png")[..., :3]
    rows, columns = np.nonzero((np.abs(picture - to_rgb(LESION_COLOUR)) < 0.08).all(axis=-1))
    below = rows > 50
    return rows[below], columns[below], picture


def head_box(picture: np.ndarray) -> tuple[int, int, int, int]:
    """First and last row and column of the grey head; words are grey too, but never 40 pixels in a line."""
    grey = (np.abs(picture - 0.5) < 0.02).all(axis=-1)
    rows, columns = (np.flatnonzero(grey.sum(axis=axis) > 40) for axis in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


@pytest.mark.parametrize("affine", [RAS, LAS], ids=["RAS", "LAS"])
def test_the_patients_left_is_on_the_right_and_anterior_is_up(affine: np.ndarray) -> None:
    # One slice, so one panel that fills the page's middle.
    mask = lesion_at((-12, -6), (8, 16), (-0.6, 0.6), affine)
    rows, columns, picture = outline(lesion_sheet(head(), mask, "scan", slices=1))
    assert len(rows) > 20
    top, bottom, left, right = head_box(picture)
    # Pixels from millimetres: x from 15.5 at the left edge to −15.5 at the right, y from 19.5 to −19.5.
    across, down = (right - left) / 32, (bottom - top) / 40
    assert columns.min() == pytest.approx(left + (16 + 6 - 0.5) * across, abs=across)
    assert columns.max() == pytest.approx(left + (16 + 12 + 0.5) * across, abs=across)
    assert rows.min() == pytest.approx(top + (20 - 16 - 0.5) * down, abs=across)
    assert rows.max() == pytest.approx(top + (20 - 8 + 0.5) * down, abs=across)


def test_proportions_are_those_of_the_head() -> None:
    # 40 rows of 2 mm and 32 columns of 1 mm: 80 × 32 mm.
    shape = (40, 32, 3)
    image = MetaTensor(torch.full((1, *shape), 0.5), affine=ars(shape, (2, 1, 5)))
    none = MetaTensor(torch.zeros(1, 4, 4, 4), affine=np.eye(4))
    _, _, picture = outline(lesion_sheet(image, none, "scan", slices=1))
    top, bottom, left, right = head_box(picture)
    assert (bottom - top) / (right - left) == pytest.approx(80 / 32, rel=0.03)


@pytest.mark.parametrize(("mm_per_voxel", "bar_mm"), [(1, 20), (2, 50), (5, 50)])
def test_the_bar_is_as_long_as_it_says(mm_per_voxel: float, bar_mm: float) -> None:
    shape = (40, 32, 3)
    image = MetaTensor(torch.full((1, *shape), 0.5), affine=ars(shape, (mm_per_voxel, mm_per_voxel, 5)))
    none = MetaTensor(torch.zeros(1, 4, 4, 4), affine=np.eye(4))
    _, _, picture = outline(lesion_sheet(image, none, "scan", slices=1))
    bright = (picture[-30:] > 0.9).all(axis=-1)
    _, _, left, right = head_box(picture)
    pixels_per_mm = (right - left + 1) / (32 * mm_per_voxel)
    assert bright.sum(axis=1).max() == pytest.approx(bar_mm * pixels_per_mm, abs=2)


def test_no_lesion_draws_no_outline() -> None:
    rows, _, _ = outline(lesion_sheet(head(), MetaTensor(torch.zeros(1, 9, 9, 9), affine=RAS), "scan"))
    assert len(rows) == 0


def test_two_channels_are_two_rows_and_an_absent_one_is_left_out() -> None:
    mask = lesion_at((-12, -6), (8, 16), (-0.6, 0.6), RAS)

    def height(image: MetaTensor) -> int:
        return imread(
            io.BytesIO(lesion_sheet(image, mask, "scan", channels=("DWI", "FLAIR"))), format="png"
        ).shape[0]

    both = head(channels=2)
    only = head(channels=2)
    only[1] = 0
    one = height(head())
    assert height(only) == one
    assert height(both) > 1.7 * one


@pytest.mark.parametrize("name", ["a$b$c_^{", "x" * 300, "sub-01\nses-2", ""])
def test_any_name_can_be_drawn(name: str) -> None:
    mask = lesion_at((-12, -6), (8, 16), (-0.6, 0.6), RAS)
    assert lesion_sheet(head(), mask, name).startswith(b"\x89PNG")


def test_a_constant_zero_image_can_be_drawn() -> None:
    image = head() * 0
    assert lesion_sheet(image, MetaTensor(torch.zeros(1, 9, 9, 9), affine=RAS), "scan").startswith(b"\x89PNG")


def chosen(lesion_slices: list[int], depth: int, number: int, largest: int | None = None) -> list[int]:
    lesion = np.zeros((4, 4, depth), bool)
    lesion[0, 0, lesion_slices] = True
    if largest is not None:
        lesion[:, :, largest] = True
    head = np.zeros_like(lesion)
    head[..., 10 : depth - 10] = True
    return _choose_slices(lesion, head, number)


def test_slices_are_those_of_the_lesion() -> None:
    assert chosen([30, 31], 100, 4) == [29, 30, 31, 32]  # with neighbours
    assert chosen([0], 100, 3) == [0, 1, 2]
    assert chosen([5, 50, 90], 100, 3) == [5, 50, 90]
    many = chosen(list(range(20, 80)), 100, 12, largest=33)
    assert len(many) == 12
    assert (many[0], many[-1]) == (20, 79)
    assert 33 in many


def test_slices_without_lesion_are_spread_over_the_head() -> None:
    found = chosen([], 120, 12)
    assert len(found) == 12
    assert (found[0], found[-1]) == (15, 104)  # without the lowest and highest twentieth
    assert max(np.diff(found)) - min(np.diff(found)) <= 1
    assert chosen([], 25, 12) == list(range(10, 15))  # a few thick slices: all of them

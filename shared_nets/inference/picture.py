"""A picture of the lesions of one scan, to check many scans quickly."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from monai.data import MetaTensor
from monai.transforms import Orientation, ResampleToMatch
from numpy.typing import NDArray

from shared_nets.affine import voxel_ml

LESION_COLOUR = "#ff5c1a"  # vermilion: stands out on black, grey and white, also for colour-blind eyes
TEXT_COLOUR = "#f2f2f2"
QUIET_COLOUR = "#a6a6a6"
COLUMNS = 6
# Inches.
SLICE_WIDTH = 1.8
GAP = 0.1
MARGIN = 0.15
TITLE_HEIGHT = 0.55
FOOT_HEIGHT = 0.3
INSET = 0.03
# The scale bar is the longest of these, mm, that is no wider than a slice.
SCALES_MM = (50, 20, 10, 5, 2, 1)

Box = tuple[float, float, float, float]
"""Left, right, bottom and top of a slice on the page, in inches."""


def lesion_sheet(
    image: MetaTensor,
    mask: MetaTensor,
    name: str,
    channels: Sequence[str] = (),
    slices: int = 12,
    dpi: int = 100,
) -> bytes:
    """
    Draw axial slices of a scan with its lesions outlined.

    Slices through the lesions, the largest cross-section among them, with neighbours when the lesions
    have fewer; spread over the head when there is none. Radiological view, as marked: the patient's left
    is on the right, anterior is up. Positions are the world z (mm) of the slice's centre; the bar is as many
    millimetres long as it says.

    Args:
        image: preprocessed scan (C, ...), intensities of 0–1; channels that are all 0 are left out.
        mask: the lesions (1, X, Y, Z) on any grid; its affine tells where it lies.
        name: what the scan is called.
        channels: names of the image's channels; rows of several channels are labelled with them.
        slices: at most so many.
        dpi: dots per inch; a slice is 1.8 inches wide.

    Returns:
        The PNG file's bytes.
    """
    image, outline = _axial(image, mask)
    shown = [index for index, channel in enumerate(image) if bool(channel.any())] or [0]
    chosen = _choose_slices(outline, np.asarray(image[shown].amax(dim=0)) > 0.05, slices)
    affine = np.asarray(image.affine.cpu(), dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    height, width, _ = outline.shape
    aspect = float(spacing[0] / spacing[1])

    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns) * len(shown)
    slice_height = SLICE_WIDTH * aspect * height / width
    figure, left, top = _page(columns * (SLICE_WIDTH + GAP), rows * (slice_height + GAP))
    page = figure.axes[0]
    _write_title(page, name, mask)
    _draw_scale(page, SLICE_WIDTH / float(width * spacing[1]))

    for number, index in enumerate(chosen):
        block, column = divmod(number, columns)
        z = float((affine @ [(height - 1) / 2, (width - 1) / 2, index, 1])[2])
        for row, channel in enumerate(shown, start=block * len(shown)):
            x = left + column * (SLICE_WIDTH + GAP)
            y = top - row * (slice_height + GAP) - slice_height
            box = (x, x + SLICE_WIDTH, y, y + slice_height)
            label = channels[channel] if column == 0 and channel < len(channels) else ""
            _draw_slice(page, box, np.asarray(image[channel, :, :, index]), outline[:, :, index])
            _mark(page, box, f"z {z:+.0f} mm", label)

    file = io.BytesIO()
    # Level 3: nearly as small as the default's 6, in half its time.
    figure.savefig(file, format="png", dpi=dpi, pil_kwargs={"compress_level": 3})
    return file.getvalue()


def _axial(image: MetaTensor, mask: MetaTensor) -> tuple[MetaTensor, NDArray[np.bool_]]:
    """The scan as anterior × left × superior, so that a slice is as it is drawn, and the mask on its grid."""
    to_view = Orientation(axcodes="ALS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    view: Any = to_view(image.detach().cpu().float())
    resample = ResampleToMatch(mode="nearest", padding_mode="zeros", dtype="float32")
    lesion = resample(mask.detach().cpu().float(), view)
    return view, np.asarray(lesion[0]) > 0.5


def _choose_slices(lesion: NDArray[np.bool_], head: NDArray[np.bool_], number: int) -> list[int]:
    """Indices of the slices to show, from below to above."""
    area = lesion.sum(axis=(0, 1))
    found = np.flatnonzero(area)
    if not len(found):
        occupied = np.flatnonzero(head.any(axis=(0, 1)))
        occupied = occupied if len(occupied) else np.arange(lesion.shape[2])
        # Without the lowest and highest twentieth: neck and scalp.
        edge = len(occupied) // 20
        return _spread(occupied[edge : len(occupied) - edge], number)
    if len(found) >= number:
        chosen = np.array(_spread(found, number))
        largest = int(area.argmax())
        chosen[np.abs(chosen - largest).argmin()] = largest
        return sorted(chosen.tolist())
    distance = np.abs(np.arange(lesion.shape[2])[:, None] - found).min(axis=1)
    return sorted(np.argsort(distance, kind="stable")[:number].tolist())


def _spread(indices: NDArray[Any], number: int) -> list[int]:
    """At most ``number`` of the indices, evenly spread, first and last among them."""
    if len(indices) <= number:
        return [int(index) for index in indices]
    return [int(index) for index in indices[np.linspace(0, len(indices) - 1, number).round().astype(int)]]


def _page(width: float, height: float) -> tuple[Figure, float, float]:
    """
    A dark page for panels of this width and height, and where their left and top are, all in inches.

    Everything is drawn into axes of the whole page: axes for each slice took most of a picture's time.
    """
    page_width = max(width + 2 * MARGIN, 6.0)  # room for the words
    page_height = height + TITLE_HEIGHT + FOOT_HEIGHT
    figure = Figure(figsize=(page_width, page_height), facecolor="black")
    FigureCanvasAgg(figure)
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, page_width), ylim=(0, page_height), autoscale_on=False)
    page.set_axis_off()
    return figure, (page_width - width + GAP) / 2, height + FOOT_HEIGHT


def _write_title(page: Axes, name: str, mask: MetaTensor) -> None:
    """The scan's name and what was found above, how to read the slices below."""
    lesion = np.asarray(mask[0].cpu()) > 0
    count = cc3d.connected_components(lesion, connectivity=26, return_N=True)[1]
    ml = lesion.sum() * voxel_ml(mask.affine.cpu())
    found = f"{ml:.2f} mL in {count} lesion{'s' if count > 1 else ''}" if count else "no lesion found"
    found_colour = LESION_COLOUR if count else TEXT_COLOUR

    width, height = page.get_xlim()[1], page.get_ylim()[1]
    right, top = width - MARGIN, height - MARGIN
    longest = int(width * 5)  # characters that leave room for what was found
    name = name if len(name) <= longest else f"{name[: longest // 2]}…{name[-longest // 2 :]}"
    # A name is no formula, even with dollar signs.
    page.text(MARGIN, top, name, color=TEXT_COLOUR, size=12, weight="bold", va="top", parse_math=False)
    page.text(right, top, found, color=found_colour, size=12, va="top", ha="right")
    notes = "Radiological view: the patient's left is on the right.   Research use only."
    page.text(MARGIN, 0.1, notes, color=QUIET_COLOUR, size=8, va="bottom")


def _draw_scale(page: Axes, inches_per_mm: float) -> None:
    """A bar in the lower right corner, below all slices."""
    mm = next((mm for mm in SCALES_MM if mm * inches_per_mm <= SLICE_WIDTH), SCALES_MM[-1])
    right, middle = page.get_xlim()[1] - MARGIN, 0.16
    left = right - mm * inches_per_mm
    page.add_artist(Line2D([left, right], [middle, middle], color=TEXT_COLOUR, lw=2, solid_capstyle="butt"))
    page.text(left - 0.06, middle, f"{mm} mm", color=QUIET_COLOUR, size=8, va="center", ha="right")


def _draw_slice(page: Axes, box: Box, slice_: NDArray[Any], lesion: NDArray[np.bool_]) -> None:
    """One slice (anterior × left) with the lesion's outline."""
    style: dict[str, Any] = {"origin": "lower", "aspect": "auto", "interpolation": "bilinear"}
    page.imshow(slice_, extent=box, cmap="gray", vmin=0, vmax=1, **style)
    if lesion.any():
        left, right, bottom, top = box
        height, width = lesion.shape
        x = left + (np.arange(width) + 0.5) * (right - left) / width
        y = bottom + (np.arange(height) + 0.5) * (top - bottom) / height
        page.contour(x, y, lesion.astype(float), levels=[0.5], colors=LESION_COLOUR, linewidths=1.2)


def _mark(page: Axes, box: Box, position: str, label: str) -> None:
    """The sides in the upper corners, the position and the channel in the lower ones, legible on any grey."""
    left, right, bottom, top = box
    outlined = [withStroke(linewidth=2, foreground="black")]
    style: dict[str, Any] = {"size": 8, "color": TEXT_COLOUR, "path_effects": outlined}
    # Bold and larger: a thin stroke can vanish between pixels, and an L must not look like an I.
    side = style | {"weight": "bold", "size": 10}
    page.text(left + INSET, top - INSET, "R", va="top", ha="left", **side)
    page.text(right - INSET, top - INSET, "L", va="top", ha="right", **side)
    page.text(right - INSET, bottom + INSET, position, va="bottom", ha="right", **style)
    page.text(left + INSET, bottom + INSET, label, va="bottom", ha="left", weight="bold", **style)

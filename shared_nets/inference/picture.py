"""A picture of the lesions of one scan, to check many scans quickly."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import cc3d
import matplotlib
import numpy as np
from monai.data import MetaTensor
from monai.transforms import Orientation, ResampleToMatch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

from shared_nets.affine import voxel_ml
from shared_nets.inference.lesions import lesion_box

LESION_COLOUR = "#ff5c1a"  # vermilion: stands out on black, grey and white, also for colour-blind eyes
TEXT_COLOUR = "#f2f2f2"
QUIET_COLOUR = "#a6a6a6"
COLUMNS = 6
# Pixels.
SLICE_WIDTH = 180
GAP = 10
MARGIN = 15
TITLE_HEIGHT = 55
FOOT_HEIGHT = 30
INSET = 3
LEAST_WIDTH = 600  # room for the words
OUTLINE_WIDTH = 1.7
# Pillow's lines have hard edges: they are drawn larger, and made smaller.
FINER = 4
# The scale bar is the longest of these, mm, that is no wider than a slice.
SCALES_MM = (50, 20, 10, 5, 2, 1)


def lesion_sheet(
    image: MetaTensor,
    mask: MetaTensor,
    name: str,
    channels: Sequence[str] = (),
    slices: int = 12,
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

    Returns:
        The PNG file's bytes.
    """
    image, outline = _axial(image, mask)
    shown = [index for index, channel in enumerate(image) if bool(channel.any())] or [0]
    chosen = _choose_slices(outline, np.asarray(image[shown].amax(dim=0)) > 0.05, slices)
    affine = np.asarray(image.affine.cpu(), dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    height, width, _ = outline.shape

    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns) * len(shown)
    size = SLICE_WIDTH, max(1, round(SLICE_WIDTH * height * spacing[0] / (width * spacing[1])))
    across, down = SLICE_WIDTH + GAP, size[1] + GAP
    page_width = max(columns * across - GAP + 2 * MARGIN, LEAST_WIDTH)
    page = Image.new("RGB", (page_width, TITLE_HEIGHT + rows * down + FOOT_HEIGHT))
    _write_title(page, name, mask)
    _draw_scale(page, SLICE_WIDTH / float(width * spacing[1]))

    left = (page_width - columns * across + GAP) // 2
    for number, index in enumerate(chosen):
        block, column = divmod(number, columns)
        z = float((affine @ [(height - 1) / 2, (width - 1) / 2, index, 1])[2])
        line = _outline(outline[::-1, :, index], size)
        for row, channel in enumerate(shown, start=block * len(shown)):
            panel = _grey(np.asarray(image[channel, :, :, index].flip(0)), size)
            panel.paste(LESION_COLOUR, mask=line)
            label = channels[channel] if column == 0 and channel < len(channels) else ""
            _mark(panel, f"z {z:+.0f} mm", label)
            page.paste(panel, (left + column * across, TITLE_HEIGHT + row * down))

    file = io.BytesIO()
    # Level 3: nearly as small as the default's 6, in half its time.
    page.save(file, format="png", compress_level=3)
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


def _grey(slice_: NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """A slice of 0–1 (anterior first) as an image of this width and height."""
    grey = Image.fromarray(np.rint(255 * slice_.clip(0, 1)).astype(np.uint8))
    return grey.resize(size, Image.Resampling.BILINEAR).convert("RGB")


def _outline(lesion: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """How much of each pixel the lesions' outline covers, as a grey image of this width and height."""
    drawn = Image.new("L", (size[0] * FINER, size[1] * FINER))
    draw = ImageDraw.Draw(drawn)
    scale = np.array(drawn.size[::-1]) / lesion.shape
    for line in find_contours(np.pad(lesion, 1).astype(np.float32), 0.5):
        points = (line - 0.5) * scale  # without the padding, from the pixel's corner
        draw.line(points[:, ::-1].ravel().tolist(), 255, round(OUTLINE_WIDTH * FINER), joint="curve")
    return drawn.reduce(FINER)


@cache
def _font(pixels: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The typeface that comes with matplotlib."""
    file = f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{file}", pixels)


def _write_title(page: Image.Image, name: str, mask: MetaTensor) -> None:
    """The scan's name and what was found above, how to read the slices below."""
    lesion = np.asarray(mask[0].cpu()) > 0
    count = cc3d.connected_components(lesion[lesion_box(lesion)], connectivity=26, return_N=True)[1]
    ml = lesion.sum() * voxel_ml(mask.affine.cpu())
    found = f"{ml:.2f} mL in {count} lesion{'s' if count > 1 else ''}" if count else "no lesion found"
    found_colour = LESION_COLOUR if count else TEXT_COLOUR

    longest = page.width // 20  # characters that leave room for what was found
    name = name if len(name) <= longest else f"{name[: longest // 2]}…{name[-longest // 2 :]}"
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), name, TEXT_COLOUR, _font(17, bold=True))
    draw.text((page.width - MARGIN, MARGIN), found, found_colour, _font(17), anchor="ra")
    notes = "Radiological view: the patient's left is on the right.   Research use only."
    draw.text((MARGIN, page.height - 10), notes, QUIET_COLOUR, _font(11), anchor="ld")


def _draw_scale(page: Image.Image, pixels_per_mm: float) -> None:
    """A bar in the lower right corner, below all slices."""
    mm = next((mm for mm in SCALES_MM if mm * pixels_per_mm <= SLICE_WIDTH), SCALES_MM[-1])
    right, middle = page.width - MARGIN, page.height - 16
    left = right - round(mm * pixels_per_mm)
    draw = ImageDraw.Draw(page)
    draw.rectangle((left, middle - 1, right - 1, middle + 1), TEXT_COLOUR)
    draw.text((left - 6, middle), f"{mm} mm", QUIET_COLOUR, _font(11), anchor="rm")


def _mark(panel: Image.Image, position: str, label: str) -> None:
    """The sides in the upper corners, the position and the channel in the lower ones, legible on any grey."""
    draw = ImageDraw.Draw(panel)
    right, bottom = panel.width - INSET, panel.height - INSET
    outlined: dict[str, Any] = {"fill": TEXT_COLOUR, "stroke_width": 1, "stroke_fill": "black"}
    # Bold and larger: a thin stroke can vanish between pixels, and an L must not look like an I.
    draw.text((INSET, INSET), "R", font=_font(14, bold=True), anchor="lt", **outlined)
    draw.text((right, INSET), "L", font=_font(14, bold=True), anchor="rt", **outlined)
    draw.text((right, bottom), position, font=_font(11), anchor="rs", **outlined)
    draw.text((INSET, bottom), label, font=_font(11, bold=True), anchor="ls", **outlined)

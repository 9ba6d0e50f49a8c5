"""A page to look a cohort over: failures first, the volumes, every scan's numbers and picture."""

from __future__ import annotations

import base64
import io
import itertools
import os
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from shared_nets import NOTICE
from shared_nets.data.cases import left_out_of
from shared_nets.files import write_text
from shared_nets.inference.outputs import MASK_SUFFIX, PICTURE_SUFFIX, result_path
from shared_nets.inference.records import Records, Result
from shared_nets.versions import software

# Upper ends of the histogram's bars, mL; a bar of its own for no lesion.
VOLUME_BINS_ML = (0.0, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, float("inf"))
# A page of a thousand pictures must still open: some 30 kB each.
THUMBNAIL_WIDTH = 760  # pixels
_JPEG_QUALITY = 72


def write_report(
    path: str | Path,
    results: Sequence[Result],
    cases: Sequence[Mapping[str, Any]],
    records: Records,
    not_done: Mapping[str, Sequence[str]],
    pictures: bool = True,
) -> None:
    """
    Write the page, one file that needs no other and no network.

    Args:
        path: the HTML file.
        results: what came of the scans, in order.
        cases: all of the cohort, with ``name``; what `find_cases` left out is listed.
        records: says where results are, and what made them.
        not_done: names of the cases without a result, by the part of the cohort that they belong to.
        pictures: whether the page shows the scans' pictures.

    Raises:
        OutputError: if it cannot be written.
    """
    path = Path(path)
    by_name = {str(case["name"]): case for case in cases}
    done = [result.row for result in results if result.row["status"] == "ok"]
    volumes = [float(row["volume_ml"]) for row in done]
    page = _environment().get_template("report.html.j2").render(
        folder=path.parent.resolve().name,
        notice=NOTICE,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        model=records.made_by,
        settings=records.settings,
        software=software(),
        failed=[result.row for result in results if result.row["status"] == "failed"],
        not_done=not_done,
        left_out=left_out_of(cases),
        cases=len(cases),
        scans=[
            {"number": number, **_scan(result.row, by_name[result.row["scan"]], path.parent, pictures)}
            for number, result in enumerate(results, 1)
        ],
        pictures=pictures,
        done=len(done),
        with_lesion=sum(volume > 0 for volume in volumes),
        median=statistics.median(volumes) if volumes else None,
        largest=max(volumes, default=None),
        bars=volume_bars(volumes),
    )  # fmt: skip
    write_text(path, page)


def volume_bars(volumes: Sequence[float]) -> list[tuple[str, int]]:
    """
    How many scans have how much lesion.

    Args:
        volumes: mL, one a scan.

    Returns:
        the bars' names and counts, from no lesion to the largest.
    """
    bars = [("none", sum(volume <= 0 for volume in volumes))]
    for low, high in itertools.pairwise(VOLUME_BINS_ML):
        name = f"{low:g}–{high:g}" if high < float("inf") else f"> {low:g}"
        bars.append((name, sum(low < volume <= high for volume in volumes)))
    return bars


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("shared_nets.inference", package_path="."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment


def _number(value: Any, digits: int) -> str:
    return "" if value is None else f"{float(value):.{digits}f}"


def _scan(row: Mapping[str, Any], case: Mapping[str, Any], folder: Path, pictures: bool) -> dict[str, Any]:
    """A row with links to the scan's mask and picture, and a small picture to show in the page."""
    picture, mask = (result_path(folder, case, suffix) for suffix in (PICTURE_SUFFIX, MASK_SUFFIX))
    finished = row["status"] == "ok"
    small = thumbnail(picture) if finished and pictures else None
    return {
        **row,
        "mask": _link(mask, folder) if finished else None,
        "picture": _link(picture, folder) if small else None,
        "thumbnail": small,
    }


def _link(path: Path, folder: Path) -> str:
    return quote(os.fsencode(path.relative_to(folder).as_posix()))


def thumbnail(picture: Path) -> str | None:
    """
    A small copy of a picture inside a URL.

    Args:
        picture: a PNG file; of one that is not there or damaged there is none.
    """
    try:
        return _thumbnail(picture)
    except OSError:
        return None


def _thumbnail(picture: Path) -> str:
    with Image.open(picture) as image:
        small = image.convert("RGB")
        if small.width > THUMBNAIL_WIDTH:
            height = round(small.height * THUMBNAIL_WIDTH / small.width)
            small = small.resize((THUMBNAIL_WIDTH, height), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"

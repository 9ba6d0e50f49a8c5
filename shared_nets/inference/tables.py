"""What the tables of a cohort say: a row a scan in lesions.csv, a row a lesion in components.csv."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from shared_nets.errors import OutputError
from shared_nets.files import plain
from shared_nets.inference.lesions import Lesion, head_midline, measure_lesions
from shared_nets.inference.outputs import write_table

Row = dict[str, Any]

# Of a scan; further columns stand before `seconds`.
FIRST_COLUMNS = ("scan", "status", "volume_ml", "lesion_count", "largest_ml", "side", "max_probability")
MIDDLE_COLUMNS = ("seconds", "message")
LAST_COLUMNS = (
    "left_ml",
    "right_ml",
    "centroid_x_mm",
    "centroid_y_mm",
    "centroid_z_mm",
    "mean_probability",
)
COMPONENT_COLUMNS = ("scan", *(column.name for column in fields(Lesion)))
# Writing tables on the way takes a twentieth of the time; small ones are written after each scan.
_PAUSE = 20  # times as long as writing them took
_LONGEST_PAUSE = 5.0  # seconds
# mL to the microlitre, tenths of a millimetre, probabilities to four digits.
_DIGITS = {"ml": 3, "mm": 1, "probability": 4}


def measured_rows(case: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """
    What is measured of a finished case.

    Args:
        case: ``image`` (preprocessed), ``pred`` (1, X, Y, Z) on the scan's grid, and ``probability`` if kept.

    Returns:
        The columns of all its lesions, and those of each.
    """
    mask = case["pred"]
    summary = measure_lesions(mask, case.get("probability"), mask.affine, head_midline(case["image"]))
    of_all = rounded({key: value for key, value in vars(summary).items() if key != "lesions"})
    return of_all, [rounded(vars(lesion)) for lesion in summary.lesions]


def rounded(measurements: Mapping[str, Any]) -> Row:
    """
    Measurements as they stand in a table.

    Args:
        measurements: by name, whose ending is the unit: mL to the microlitre, mm to a tenth, probabilities to
            four digits. NaN becomes an empty place.
    """
    row: Row = {}
    for name, value in measurements.items():
        digits = _DIGITS.get(name.rsplit("_", 1)[-1])
        row[name] = plain(value if digits is None else round(value, digits))
    return row


def write_scan_table(path: Path, rows: Sequence[Row]) -> None:
    """
    Write a row a scan, with the columns that every table has and whatever else the rows have.

    Args:
        path: the CSV file.
        rows: by column.

    Raises:
        OutputError: if it cannot be written.
    """
    known = {*FIRST_COLUMNS, *MIDDLE_COLUMNS, *LAST_COLUMNS}
    further = dict.fromkeys(key for row in rows for key in row if key not in known)
    write_table(path, rows, [*FIRST_COLUMNS, *further, *MIDDLE_COLUMNS, *LAST_COLUMNS])


class GrowingTables:
    """
    Tables that are written anew while rows come, as often as it takes little of the time.

    A table of ten thousand rows takes a quarter of a second: after each scan it would be the longer work.

    Args:
        write: writes them.
        warn: given the first error, when they cannot be written on the way, as while one is open in Excel.
    """

    def __init__(self, write: Callable[[], None], warn: Callable[[OutputError], None]) -> None:
        self._write = write
        self._warn = warn
        self._is_warned = False
        self._is_behind = False
        self._due = 0.0

    def grow(self) -> None:
        """There is a new row: write it, if the last time is long enough ago."""
        self._is_behind = True
        if time.monotonic() >= self._due:
            self.catch_up()

    def catch_up(self) -> None:
        """Write what is new; if it cannot be, warn, and try again with the next row."""
        if not self._is_behind:
            return
        start = time.monotonic()
        try:
            self._write()
            self._is_behind = False
        except OutputError as error:
            if not self._is_warned:
                self._warn(error)
            self._is_warned = True
        end = time.monotonic()
        self._due = end + min(_PAUSE * (end - start), _LONGEST_PAUSE)

"""What the benchmarks on simulated cases share: the cases of a data list, and tables as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from shared_nets.bundles import read_object
from shared_nets.files import write_text


def listed(folder: Path, *sections: str) -> list[dict[str, Any]]:
    """The cases in sections of the data list that `strokeseg simulate` wrote into a folder."""
    content = read_object(folder / "datalist.json")
    return [case for section in sections for case in content.get(section, [])]


def as_list(value: Any) -> list[str | None]:
    """One path or several, None for a channel that is missing."""
    return [value] if isinstance(value, str) else list(value)


def image_in(folder: Path, case: dict[str, Any]) -> Any:
    """A case's image with its folder, as inference takes it."""
    files = [str(folder / name) if name else None for name in as_list(case["image"])]
    return files if len(files) > 1 else files[0]


def write_csv(table: pd.DataFrame, output: Path) -> None:
    """Write OUTPUT.csv, with four digits."""
    write_text(f"{output}.csv", table.to_csv(index=False, float_format="%.4g"))


def write_tables(table: pd.DataFrame, text: str, output: Path) -> None:
    """Write OUTPUT.csv and OUTPUT.md, and print the latter."""
    write_csv(table, output)
    write_text(f"{output}.md", text)
    print(text, flush=True)

"""What a search for scans came across and is in no case: kept in mind, and warned of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shared_nets.errors import few, warn_of_scan

LeftOut = dict[str, list[str]]
"""Files by the reason why they are in no case."""


def leave_out(
    left_out: LeftOut, why: str, files: Sequence[str | Path], folder: Path | None = None, advice: str = ""
) -> None:
    """
    Keep in mind, and warn, that files are in no case.

    Args:
        left_out: gets them.
        why: the reason, as the end of a sentence: "they are masks".
        files: which.
        folder: the warning names them from there on.
        advice: what to do about it.
    """
    left_out.setdefault(why, []).extend(map(str, files))
    names = [str(Path(file).relative_to(folder)) if folder else str(file) for file in files]
    where = f"{folder}: left out" if folder else "Left out"
    warn_of_scan(f"{where}, as {why}: {few(names)}{advice and '; '}{advice}.")


def in_words(modalities: Sequence[str]) -> str:
    """Modalities in a sentence: "DWI or FLAIR"."""
    return " or ".join(modalities)

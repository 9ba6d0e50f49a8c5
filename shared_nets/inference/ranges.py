"""Between what values a network's layers compute, kept beside its weights: the scale that 8 bits need."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared_nets.errors import UsageError
from shared_nets.files import read_json, write_json
from shared_nets.switches import is_number

RANGES = "models/ranges.json"
"""Where it lies in a bundle."""

Ranges = Mapping[str, tuple[float, float]]
"""By a layer's name, the lowest and the highest value that it takes."""
Seen = dict[str, list[tuple[float, float]]]
"""By a layer's name, the lowest and the highest value that it took in each window."""

REMEDY = "make it by strokeseg weights calibrate, or compute in another cpu_precision"
"""What to do about ranges that cannot be used."""

_LEAST_WINDOWS = 20
_TAIL = 0.1  # of the windows, at each end


def ranges_beside(weights: str | Path) -> Path:
    """
    Args:
        weights: a weights file.

    Returns:
        The file for its ranges: one for all weights of the folder.
    """
    return Path(weights).with_name(Path(RANGES).name)


def write_ranges(path: str | Path, state: Mapping[str, Tensor], seen: Seen) -> None:
    """
    Write between what values each layer's input is rounded: what is outside becomes the nearer end.

    The ends are those that a tenth of the windows exceed. On validation cases that changed masks less than
    the lowest and the highest value of all, which a few windows stretch (docs/performance.md). What the file
    says of other weights stays, what it said of these is replaced.

    Args:
        path: the file, see `ranges_beside`.
        state: the network's weights by name, as trained: what was seen holds for them alone.
        seen: what the layers took.

    Raises:
        UsageError: if fewer than 20 windows were seen: of a scan without a head, one of air is looked at.
        OutputError: if it cannot be written.
    """
    windows = min(map(len, seen.values()), default=0)
    if windows < _LEAST_WINDOWS:
        raise UsageError(
            f"The network looked at {windows} windows of these scans, too few to tell what it takes: name "
            f"more scans of heads."
        )
    ranges = {}
    for name, ends in seen.items():
        lowest, highest = np.asarray(ends).T
        ranges[name] = [float(np.quantile(lowest, _TAIL)), float(np.quantile(highest, 1 - _TAIL))]
    entry = {_digest(state): {"windows": windows, "ranges": ranges}}
    write_json(path, {**read_json(Path(path)), **entry})


def read_ranges(path: str | Path | None, state: Mapping[str, Tensor]) -> Ranges:
    """
    Args:
        path: a file that `write_ranges` wrote.
        state: the network's weights by name, as trained.

    Raises:
        UsageError: if there is no such file, it is damaged, or has none of these weights.
    """
    if path is None:
        raise UsageError(f"int8 needs ranges: name their file; {REMEDY}.")
    if not Path(path).is_file():
        raise UsageError(f"{path} is not there, and int8 needs it: {REMEDY}.")
    content = read_json(Path(path))
    entry = content.get(_digest(state), {})
    ranges = entry.get("ranges") if isinstance(entry, dict) else None
    if not content or (entry and not (isinstance(ranges, dict) and all(map(_is_range, ranges.values())))):
        raise UsageError(f"{path} is damaged: {REMEDY}.")
    if not ranges:
        raise UsageError(f"{path} is of other weights: {REMEDY}.")
    return {name: (low, high) for name, (low, high) in ranges.items()}


def copy_ranges(source: str | Path, target: str | Path, state: Mapping[str, Tensor]) -> None:
    """
    Take along the ranges of weights, if there are any.

    Args:
        source: a file of ranges, there or not.
        target: the file to write.
        state: the weights by name, as they are passed on.

    Raises:
        OutputError: if it cannot be written.
    """
    digest = _digest(state)
    if entry := read_json(Path(source)).get(digest):
        write_json(target, {digest: entry})


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights, whatever file and precision they come in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        exact = tensor.detach().cpu().to(torch.float32 if tensor.is_floating_point() else torch.int64)
        digest.update(f"{name} {list(exact.shape)} ".encode() + exact.contiguous().numpy().tobytes())
    return digest.hexdigest()

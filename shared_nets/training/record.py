"""What a run needs to be repeated: versions, commit, command, config, seed and data."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from shared_nets.bundles import config_of
from shared_nets.errors import UsageError, few
from shared_nets.files import read_json, write_json
from shared_nets.versions import software


def record_run(
    output_dir: str | Path, seed: int, resume: bool = False, **cases: Sequence[Mapping[str, Any]]
) -> None:
    """
    Write ``run.json`` into a run's folder: what it takes to repeat the run.

    Args:
        output_dir: the run's folder.
        seed: of initial weights and augmentation.
        resume: whether the run goes on from an earlier one, whose ``run.json``, if there is one, tells its
            cases; what it tells else is kept as one of ``earlier_runs``: those that were started.
        cases: the cases of each section, as they are used.

    Raises:
        UsageError: if a run that is resumed had other cases in a section; nothing is written then.
        OutputError: if it cannot be written.
    """
    path = Path(output_dir) / "run.json"
    earlier: list[Any] = []
    if resume:
        before = read_json(path)
        _check_cases(path, before.pop("cases", {}), cases)
        earlier = before.pop("earlier_runs", []) + [before] * bool(before)
    content = {"command": sys.argv, "config": config_of(sys.argv), "seed": seed, **environment()}
    write_json(path, content | {"earlier_runs": earlier, "cases": cases})


def _check_cases(
    path: Path,
    before: Mapping[str, Sequence[Mapping[str, Any]]],
    cases: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """
    Refuse to go on with other cases than a run had: some that it was trained on could come to validate it.

    By their names, by which they are split too: a data set may have moved.
    """
    for section, now in cases.items():
        if section in before and (others := _names(before[section]) ^ _names(now)):
            raise UsageError(
                f"{path}: the run to resume had other {section} cases (not in both: "
                f"{few(sorted(others))}); resume it with those it had, or start in another output folder "
                f"from its weights (--pretrained)."
            )


def _names(cases: Sequence[Mapping[str, Any]]) -> set[str]:
    """What tells cases apart: names, or the images of cases that have none, as MONAI Label's."""
    return {str(case.get("name", case.get("image"))) for case in cases}


def environment() -> dict[str, Any]:
    """Package versions, the commit of this code (None outside a clone), and what it runs on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": software(),
        "commit": git_commit(),
        "machine": {"cpu": platform.processor() or platform.machine(), "gpu": gpu},
        "threads": torch.get_num_threads(),
    }


def git_commit() -> str | None:
    """The commit of this package's code, ``-dirty`` when files differ from it; None outside a clone."""
    # Installed into somebody's project, it lies in that clone, but is none of its files.
    if not _git("ls-files", "--error-unmatch", Path(__file__).name):
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*")


def _git(*command: str) -> str | None:
    """What git says of this folder; None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None

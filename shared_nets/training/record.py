"""What a run needs to be repeated: versions, commit, command, config, seed and data."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from shared_nets import __version__
from shared_nets.bundles import config_of
from shared_nets.files import write_bytes

PACKAGES = ("torch", "monai", "numpy", "nibabel", "pytorch-ignite", "scipy")


def record_run(output_dir: str | Path, seed: int, **cases: list[dict[str, Any]]) -> None:
    """
    Write ``run.json`` into a run's folder: what it takes to repeat the run.

    Args:
        output_dir: the run's folder.
        seed: of initial weights and augmentation.
        cases: the cases of each section, as they are used.

    Raises:
        OutputError: if it cannot be written.
    """
    config = config_of(sys.argv)
    content = {"command": sys.argv, "config": config, "seed": seed, **environment(), "cases": cases}
    write_bytes(Path(output_dir) / "run.json", json.dumps(content, indent=1, default=str).encode())


def environment() -> dict[str, Any]:
    """Package versions, the commit of this code (None outside a clone), and what it runs on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": {"shared_nets": __version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in PACKAGES},
        "commit": git_commit(),
        "machine": {"cpu": platform.processor() or platform.machine(), "gpu": gpu},
        "threads": torch.get_num_threads(),
    }


def git_commit() -> str | None:
    """The commit of this package's code, ``-dirty`` when files differ from it; None outside a clone."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None

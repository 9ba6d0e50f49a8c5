"""MONAI's schema of metadata.json, and its check."""

from __future__ import annotations

from pathlib import Path

from tests.commands import Done, run

SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"
"""Of MONAI's data releases (Apache 2.0); the metadata names its address."""


def verify_metadata(path: Path) -> Done:
    """``monai.bundle verify_metadata`` of a metadata.json."""
    return run("monai.bundle", "verify_metadata", "--meta_file", path, "--filepath", SCHEMA)

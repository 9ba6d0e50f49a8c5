"""A release: the bundles' archives, the package's wheel and source, and their check sums."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from shared_nets.errors import UsageError
from shared_nets.files import make_output_folder, write_bytes
from shared_nets.release.archive import (
    PACKAGE,
    SUMS,
    archive_name,
    replaceable,
    sums,
    write_archive,
    write_folder,
)

HUB = "huggingface"


def write_release(
    output: str | Path, bundles: Sequence[str | Path], packages: bool = True, hub: bool = False
) -> list[Path]:
    """
    Write everything that a release consists of.

    Args:
        output: folder for ``NAME_vX.Y.Z.zip`` of each bundle, the package's wheel and source archive,
            ``SHA256SUMS`` of these, and, if asked for, ``huggingface/NAME``.
        bundles: the bundles' folders.
        packages: build wheel and source archive, for which the package must be a clone of the repository.
        hub: also lay the bundles out for the Hugging Face Hub.

    Returns:
        What was written.

    Raises:
        UsageError: if a bundle cannot be released, two would have one name, the packages not be built, or
            something else is where a bundle for the Hub goes.
        WeightsError: if a bundle's weights are not those that its metadata names.
        OutputError: if the folder cannot be written.
    """
    # On the Hub the version is none of the name's.
    names = [name for one in bundles for name in (archive_name(one), Path(one).resolve().name)[: 1 + hub]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"Two of the bundles would be written as {twice[0]}: rename the folder of one.")
    if hub:  # before anything is written
        for bundle in bundles:
            replaceable(bundle, Path(output, HUB))
    output = make_output_folder(output)
    made = [write_archive(bundle, output) for bundle in bundles]
    if packages:
        made += _build(output)
    write_bytes(output / SUMS, sums({path.name: path.read_bytes() for path in made}))
    made.append(output / SUMS)
    if hub:
        made += [write_folder(bundle, output / HUB) for bundle in bundles]
    return made


def _build(output: Path) -> list[Path]:
    """The wheel, made from the source archive, and the source archive."""
    root = PACKAGE.parent
    if not (root / "pyproject.toml").is_file():
        raise UsageError(
            f"{root} is no clone of the repository, so that no wheel can be built: "
            f"run from a clone, or add --no-packages."
        )
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "build", "--outdir", folder, str(root)],
            capture_output=True,
            text=True,
            # One time stamp for all files of the wheel, as in the archives: 1 January 1980.
            env=os.environ | {"SOURCE_DATE_EPOCH": "315532800"},
        )
        made = sorted(path for path in Path(folder).iterdir() if path.suffix in (".whl", ".gz"))
        if done.returncode or len(made) < 2:
            reason = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise UsageError(
                f"The wheel could not be built ({reason[-1]}); pip install build, or add --no-packages."
            )
        for path in made:
            write_bytes(output / path.name, path.read_bytes())
    return [output / path.name for path in made]

"""`strokeseg release` and `strokeseg unpack`: bundles as archives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_nets.bundles import own_bundles
from shared_nets.cli.options import Debug
from shared_nets.errors import tell_errors_in_words


def release(
    output: Annotated[Path, typer.Argument(help="Folder for the archives.")],
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Bundle folder, as often as you like; by default ours.")
    ] = None,
    packages: Annotated[bool, typer.Option(help="Also build the package's wheel and source archive.")] = True,
    hub: Annotated[bool, typer.Option("--hub", help="Also lay them out for the Hugging Face Hub.")] = False,
    debug: Debug = False,
) -> None:
    """
    Write the bundles as archives that need nothing but the packages they name.

    NAME_vX.Y.Z.zip holds configs, card, weights, the package's source and check sums; the same bundle gives
    the same bytes. SHA256SUMS lists the archives.
    """
    tell_errors_in_words(debug)
    from shared_nets.release.release import write_release

    bundles = bundle or own_bundles()
    for path in write_release(output, bundles, packages=packages, hub=hub):
        print(f"Wrote {path}")


def unpack(
    archive: Annotated[Path, typer.Argument(help="A bundle's archive, NAME_vX.Y.Z.zip.")],
    folder: Annotated[Path, typer.Argument(help="Where the bundle's folder is made.")] = Path(),
    debug: Debug = False,
) -> None:
    """Check a bundle's archive against its check sums and unpack it into a folder of its own."""
    tell_errors_in_words(debug)
    from shared_nets.release.archive import unpack as unpack_archive

    print(f"Unpacked {unpack_archive(archive, folder)}")

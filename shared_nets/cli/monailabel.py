"""`strokeseg monailabel …`: the bundles in MONAI Label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_nets.bundles import own_bundles
from shared_nets.cli.options import Debug
from shared_nets.errors import tell_errors_in_words

app = typer.Typer(help="The bundles in MONAI Label (3D Slicer, OHIF).", no_args_is_help=True)


@app.callback()
def common() -> None:
    """The bundles in MONAI Label (3D Slicer, OHIF)."""


@app.command()
def prepare(
    app_dir: Annotated[Path, typer.Argument(help="Folder to make, for the server to start from.")],
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Bundle folder, as often as you like; by default ours.")
    ] = None,
    debug: Debug = False,
) -> None:
    """
    Make a folder that MONAI Label's server starts from, with a copy of the bundles in it.

    Annotators' corrections are trained into these copies; the bundles themselves stay as they are.
    """
    tell_errors_in_words(debug)
    from shared_nets.annotation import prepare_app

    made = prepare_app(app_dir, bundle or own_bundles())
    print(f"Made {made}. Start the server, in an environment with MONAI Label, with")
    print(f"  monailabel start_server --app {made} --studies FOLDER_OF_SCANS")

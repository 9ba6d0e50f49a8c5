"""
`strokeseg`: the bundles at the command line, a thin front to their own configs.

A module here holds the commands of one subject, and imports torch and the like only when a command runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from shared_nets import NOTICE, __version__
from shared_nets.cli import (
    datalist,
    experiments,
    export,
    inspection,
    monailabel,
    predict,
    release,
    simulate,
    weights,
)
from shared_nets.errors import causes, tell_errors_in_words

app = typer.Typer(
    help=f"Stroke lesions on brain MRI. {NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut long options' names in a terminal of 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict.predict)
app.command()(inspection.inspect)
app.command()(simulate.simulate)
app.command()(experiments.experiment)
app.command()(experiments.table)
app.command()(experiments.finetune)
app.command()(export.export)
app.command()(release.release)
app.command()(release.unpack)
app.command("import-keras")(weights.import_keras_weights)
app.add_typer(datalist.app, name="datalist")
app.add_typer(weights.app, name="weights")
app.add_typer(monailabel.app, name="monailabel")


def _show_version(asked: bool) -> None:
    if asked:
        print(f"strokeseg {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """What stands before a command."""


def main() -> None:
    """Entry point of the ``strokeseg`` command."""
    tell_errors_in_words()
    try:
        app()
    except SystemExit as end:
        # Typer makes an exit of an interruption, and says nothing of what is left.
        for error in causes(end):
            if isinstance(error, KeyboardInterrupt):
                raise error from None
        raise

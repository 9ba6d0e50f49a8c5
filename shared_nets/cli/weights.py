"""`strokeseg weights …` and `strokeseg import-keras`: weight files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_nets.errors import tell_errors_in_words

app = typer.Typer(help="Weight files.", no_args_is_help=True)


@app.command()
def restore(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
) -> None:
    """Bring back the weights a bundle was shipped with: models/model.pt from models/model.safetensors."""
    tell_errors_in_words()
    from shared_nets.release import restore_shipped

    print(f"Wrote {restore_shipped(bundle)}")


def import_keras_weights(
    weights: Annotated[Path, typer.Argument(help="HDF5 file saved by the original Keras X-Net.")],
    output: Annotated[Path, typer.Argument(help="model.pt to write.")],
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Turn weights of the original Keras X-Net into a model.pt of the xnet bundle."""
    tell_errors_in_words(debug)
    from shared_nets.networks.keras_import import import_keras

    import_keras(weights, output)
    print(f"Wrote {output}")

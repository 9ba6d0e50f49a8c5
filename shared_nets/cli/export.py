"""`strokeseg export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_nets.cli.options import Debug
from shared_nets.errors import tell_errors_in_words


def export(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    output: Annotated[Path, typer.Argument(help="File to write: .ts, .onnx, or .xml for OpenVINO.")],
    weights: Annotated[
        Path | None, typer.Option(help="Other weights than the bundle's models/model.pt.")
    ] = None,
    debug: Debug = False,
) -> None:
    """
    Write a bundle's network for another runtime: TorchScript, ONNX or OpenVINO.

    The network alone, from slices of any number and size (multiples of 16) to logits; what stands before
    and after it is in the bundle's inference.json.
    """
    tell_errors_in_words(debug)
    from shared_nets.release.exports import export_network

    print(f"Wrote {export_network(bundle, output, weights)}")

"""`strokeseg inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_nets.cli.options import Debug
from shared_nets.errors import UsageError, tell_errors_in_words


def inspect(
    bundle: Annotated[
        Path, typer.Argument(help="The folder of a bundle, downloaded and unpacked, not yet run.")
    ],
    debug: Debug = False,
) -> None:
    """
    List what a bundle would run, before it runs.

    A bundle's configs are programs. Every $ expression is listed; those marked ! use something else than
    MONAI's, PyTorch's and this package's components, as do all other lines marked so. Exit code 1 when there
    are any: read them first.
    """
    tell_errors_in_words(debug)
    from shared_nets.inspection import inspect_bundle, visible

    findings = inspect_bundle(bundle)
    if not findings:
        raise UsageError(f"{bundle} holds nothing that a bundle runs: name a bundle's folder.")
    print(f"{bundle}: configs are programs. Running the bundle runs all of this:")
    file = ""
    for finding in findings:
        if finding.file != file:
            print(f"\n{visible(file := finding.file)}")
        print(" ".join([" " if finding.known else "!", visible(finding.place), visible(finding.code)]))
    unknown = sum(not finding.known for finding in findings)
    print(f"\n{len(findings)} lines, {unknown} of them marked ! to be read first.")
    if unknown:
        raise typer.Exit(1)

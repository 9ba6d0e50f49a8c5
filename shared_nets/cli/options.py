"""What several commands have: options, and how one that cannot work is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from shared_nets.errors import UsageError

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def told_as_a_wrong_command() -> Iterator[None]:
    """Inside, what cannot be used is told as a wrong option is, with the way to the command's help."""
    try:
        yield
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error

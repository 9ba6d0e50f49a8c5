"""What goes wrong, or would do harm, on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Trap:
    """Creates a file when it is unpickled the ordinary way."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.target, "w")


@contextmanager
def full_disk(limit: int = 1000) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes, as on a disk that fills up on the way."""
    resource = pytest.importorskip("resource", reason="limits of file size are a matter of POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

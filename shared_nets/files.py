"""Files that are whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared_nets.errors import OutputError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """
    A name beside ``path`` to write to, moved onto ``path`` when all went well and removed when not.

    Args:
        path: the file that is wanted; one of the same name is replaced, its folder is made if need be.

    Raises:
        OutputError: if there is no space or permission, or a folder of that name.
    """
    path = Path(path)
    # In the same folder, since only a rename within one file system is a single step.
    part = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error
    finally:
        with suppress(OSError):  # moved, or never made
            part.unlink()


def write_bytes(path: str | Path, content: bytes) -> None:
    """
    Write a file in one step: it is either there with all its content, or as it was before.

    Args:
        path: the file; one of the same name is replaced.
        content: what it shall hold.

    Raises:
        OutputError: if there is no space or permission, or a folder of that name.
    """
    with written_whole(path) as part:
        part.write_bytes(content)


def reason(error: OSError) -> str:
    """Why a file or folder could not be written, and what to do."""
    if error.errno in _NO_SPACE:
        return "there is no space left; free some, or choose another output folder."
    if error.errno in _NO_PERMISSION:
        return "there is no permission; choose another output folder."
    if error.errno == errno.ENAMETOOLONG:
        return "its name is too long; give the scan, or the output folder, a shorter one."
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "a file stands where a folder is needed; choose another output folder."
    if error.errno == errno.EISDIR:
        return "a folder has its name; rename that, or choose another output folder."
    return f"{error.strerror or error}; choose another output folder."

"""Files that are whole or not there, and folders that one run writes at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from shared_nets.errors import OutputError, UsageError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
# What a file system says that has no locks, as NFS without its lock service.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# Where the runs of a folder keep what concerns only themselves.
_RUNS = ".strokeseg"
# Another process may hold a lock for a moment, only to see whether it is held.
_PATIENCE = 1.0  # seconds


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
    part = _part_of(path)
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
    with written_whole(path) as part, open(part, "wb") as stream:
        stream.write(content)
        sync(stream)


def sync(stream: BinaryIO) -> None:
    """Have a file's content on the disk: a machine that stops may else leave its name with nothing in it."""
    stream.flush()
    os.fsync(stream.fileno())


def write_text(path: str | Path, text: str) -> None:
    """
    Write text as `write_bytes` does, in UTF-8.

    Args:
        path: the file; one of the same name is replaced.
        text: what of a file's name is no UTF-8 is told as ``\\udcfc``, which JSON reads back.

    Raises:
        OutputError: see `write_bytes`.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def sha256(path: str | Path) -> str:
    """
    The SHA-256 of a file in lower-case hexadecimal, read piece by piece.

    Args:
        path: any file.

    Raises:
        OSError: if it cannot be read.
    """
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(2**20):
            found.update(block)
    return found.hexdigest()


@contextmanager
def new_folder(path: str | Path, replaces: bool = False) -> Iterator[Path]:
    """
    A folder's name beside ``path`` to fill, moved to ``path`` when all went well and removed when not.

    Args:
        path: the folder that is wanted, which must not be there yet.
        replaces: an earlier one may be there, and is removed once the new one is whole.

    Raises:
        UsageError: if it is there already and not to be replaced.
        OutputError: if there is no space or permission.
    """
    path = Path(path)
    if path.exists() and not replaces:
        raise UsageError(f"{path} is there already; remove it, or choose another folder.")
    part, earlier = _part_of(path), _part_of(path)
    try:
        yield part
        if path.exists():
            path.rename(earlier)  # one step, while half of it would be left by a removal that is broken off
        part.rename(path)
        shutil.rmtree(earlier, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def make_output_folder(folder: str | Path) -> Path:
    """
    Create the folder if need be, and make sure that files can be written into it.

    Args:
        folder: where results go.

    Returns:
        The folder.

    Raises:
        OutputError: if it cannot be created or written into.
    """
    folder = Path(folder)
    probe = _part_of(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {reason(error)}") from error
    return folder


def _part_of(path: Path) -> Path:
    """A new name in the same folder, since only a rename within one file system is a single step."""
    return path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.part")


def read_json(path: Path) -> dict[str, Any]:
    """
    A JSON file's mapping; an empty one where there is none, or the file is broken.

    Args:
        path: any file, there or not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """
    Write JSON that every reader takes: what is not a number is null, what JSON has no kind for its text.

    Args:
        path: the file; one of the same name is replaced.
        content: what it shall hold.

    Raises:
        OutputError: see `write_bytes`.
    """
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    write_text(path, f"{text}\n")


def plain(value: Any) -> Any:
    """The value with NaN and infinity as None and NumPy's numbers as Python's, in lists and mappings too."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def held(folder: Path, part: int = 1, parts: int = 1) -> Iterator[None]:
    """
    Keep other runs out of an output folder, the other processes of the same run excepted.

    The system lets go of the lock when the process ends, however it ends.

    Args:
        folder: the output folder, which is there.
        part: this process's number in the run, from 1.
        parts: how many processes the run has.

    Raises:
        OutputError: if another run is writing there, or nothing can be written.

    Warns:
        UserWarning: if the folder's file system has no locks.
    """
    locks = folder / _RUNS
    with ExitStack() as stack:
        try:
            locks.mkdir(exist_ok=True)
            stack.enter_context(FileLock(locks / f"{part}-of-{parts}.lock", timeout=_PATIENCE))
            for path in sorted(locks.glob("*.lock")):
                if not path.name.endswith(f"-of-{parts}.lock"):
                    with FileLock(path, timeout=_PATIENCE):
                        pass
        except Timeout as error:
            raise OutputError(
                f"{folder} is being written by another run: wait, or choose another output folder."
            ) from error
        except (NotImplementedError, OSError) as error:
            _raise_unless_no_locks(folder, error)
            warnings.warn(f"{folder} cannot be locked: let no second run write there.", stacklevel=2)
        yield


def _raise_unless_no_locks(folder: Path, error: Exception) -> None:
    """Tell why a folder cannot be written, if it is not that its file system has no locks."""
    if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
        raise OutputError(f"{folder} cannot be written: {reason(error)}") from error


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """
    Let only one process do what follows at a time: the last then sees what all others did.

    Args:
        folder: the output folder, which is there.

    Raises:
        OutputError: if nothing can be written there.
    """
    turns = folder / _RUNS
    with ExitStack() as stack:
        try:
            turns.mkdir(exist_ok=True)
            stack.enter_context(FileLock(turns / "turn"))
        except (NotImplementedError, OSError) as error:
            _raise_unless_no_locks(folder, error)  # where there are none, held() has warned
        yield


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

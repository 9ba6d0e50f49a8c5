"""Folders that one run writes at a time."""

from __future__ import annotations

import errno
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from shared_nets import files
from shared_nets.errors import OutputError
from shared_nets.files import held, in_turn


def test_a_second_run_is_refused_and_the_parts_of_one_are_not(tmp_path: Path) -> None:
    with held(tmp_path, 1, 3):
        with held(tmp_path, 2, 3), held(tmp_path, 3, 3):
            pass
        for other in ((), (1, 3), (1, 2)):
            with pytest.raises(OutputError, match="being written by another run"), held(tmp_path, *other):
                pass
    with held(tmp_path), pytest.raises(OutputError), held(tmp_path, 2, 3):
        pass
    with held(tmp_path, 2, 3):
        pass


def _hold_and_die(folder: Path) -> None:
    with held(folder):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    process = get_context("fork").Process(target=_hold_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with held(tmp_path):
        pass


class NoLock:
    """A lock on a file system that answers with an error."""

    number = errno.ENOLCK

    def __init__(self, path: Path, timeout: float = -1) -> None:
        self.path = path

    def __enter__(self) -> None:
        raise OSError(self.number, "as the system puts it", str(self.path))

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_where_there_are_no_locks_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(files, "FileLock", NoLock)
    monkeypatch.setattr(NoLock, "number", number)
    done = []
    told = "cannot be locked: let no second run write there"
    with pytest.warns(UserWarning, match=told), held(tmp_path), in_turn(tmp_path):
        done.append(1)
    assert done == [1]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FileLock", NoLock)
    monkeypatch.setattr(NoLock, "number", errno.EROFS)
    for context in (held, in_turn):
        with pytest.raises(OutputError, match="there is no permission"), context(tmp_path):
            pass

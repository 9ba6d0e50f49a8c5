"""Folders that one run writes at a time."""

from __future__ import annotations

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from shared_nets.errors import OutputError
from shared_nets.files import held


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

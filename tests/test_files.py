"""Files that are whole or not there, and folders that one run writes at a time."""

from __future__ import annotations

import errno
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from shared_nets import files
from shared_nets.errors import OutputError
from shared_nets.files import held, in_turn, make_output_folder, write_bytes

# ---- what is written ----


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("x" * 255), b"whole")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"whole"


def test_a_folder_in_the_files_place(tmp_path: Path) -> None:
    (tmp_path / "out.nii.gz").mkdir()
    with pytest.raises(OutputError, match=r"out\.nii\.gz cannot be written: a folder has its name"):
        write_bytes(tmp_path / "out.nii.gz", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["out.nii.gz"]


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("mine")
    for folder in (tmp_path / "results", tmp_path / "results" / "deeper"):
        with pytest.raises(OutputError, match="a file stands where a folder is needed"):
            make_output_folder(folder)
        with pytest.raises(OutputError, match="a file stands where a folder is needed"):
            write_bytes(folder / "out.csv", b"x")
    assert (tmp_path / "results").read_text() == "mine"


def test_a_folder_that_refuses_new_files() -> None:
    # /proc refuses new files to everybody, root too.
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    with pytest.raises(OutputError, match="/proc/results"):
        make_output_folder("/proc/results")


def test_make_output_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = make_output_folder(tmp_path / "a" / "b")
    assert make_output_folder(str(folder)) == folder
    assert list(folder.iterdir()) == []


# ---- folders that one run writes at a time ----


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

"""
Commands as a user types them, each in its own process, without waiting for torch every time.

``python -m monai.bundle run ...`` and ``strokeseg ...`` are run by a process forked from one that has
imported the libraries and done nothing else.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 850  # a command that takes longer hangs; pytest ends a test after 900

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["monai.bundle", "monai.engines", "monai.handlers", "shared_nets.inference"]
)


@dataclass
class Done:
    """What a finished command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """What it said on standard error, without MONAI's own warning that configs are programs."""
        lines = self.err.splitlines(keepends=True)
        return "".join(
            line
            for line in lines
            if "parsing config_file" not in line and line != "  workflow = create_workflow(\n"
        )


class Running:
    """A command at work, and where what it says is kept."""

    def __init__(
        self,
        words: list[str],
        cwd: Path | None,
        environment: dict[str, str],
        before: Callable[[], object] | None = None,
    ) -> None:
        self.words = words
        self.folder = TemporaryDirectory()
        self.out, self.err = Path(self.folder.name, "out"), Path(self.folder.name, "err")
        arguments = (words, cwd or Path(self.folder.name), environment, before, self.out, self.err)
        self.process = _processes.Process(target=_main, args=arguments)
        self.process.start()

    def wait(self) -> Done:
        """What it had said when it ended; its exit code is minus the signal that killed it."""
        with self.folder:
            self.process.join(SECONDS)
            if self.process.is_alive():
                self.process.kill()
                raise TimeoutError(
                    f"{self.words} takes more than {SECONDS} s; so far: {self.err.read_text()}"
                )
            texts = [path.read_text() if path.exists() else "" for path in (self.out, self.err)]
            return Done(self.process.exitcode or 0, *texts)

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)


def start(
    module: str,
    *arguments: object,
    cwd: Path | None = None,
    before: Callable[[], object] | None = None,
    **environment: str,
) -> Running:
    """``python -m MODULE ARGUMENTS`` in the background; ``before`` is called first in its process."""
    return Running([module, *map(str, arguments)], cwd, environment, before)


def run(module: str, *arguments: object, cwd: Path | None = None, **environment: str) -> Done:
    """``python -m MODULE ARGUMENTS``, in a working directory, with more environment variables."""
    return start(module, *arguments, cwd=cwd, **environment).wait()


def bundle(*arguments: object, cwd: Path | None = None, **settings: object) -> Done:
    """``python -m monai.bundle run ARGUMENTS --SETTING VALUE ...``."""
    options = [word for key, value in settings.items() for word in (f"--{key}", value)]
    return run("monai.bundle", "run", *arguments, *options, cwd=cwd)


def strokeseg(*arguments: object, cwd: Path | None = None) -> Done:
    """``strokeseg ARGUMENTS``."""
    return run("shared_nets.cli", *arguments, cwd=cwd)


def assert_told(done: Done, *words: str) -> None:
    """One sentence with these words on standard error, nothing else, and exit code 1."""
    assert done.code == 1
    assert done.out == ""
    lines = done.told.splitlines()
    assert len(lines) == 1, done.err
    for word in words:
        assert word in lines[0]


def digest(path: Path) -> str:
    """A file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_for(reached: Callable[[], bool], alive: Callable[[], bool]) -> None:
    """
    Until something is so, however long a busy machine takes.

    Args:
        reached: tells whether it is.
        alive: whether the process that shall bring it about still runs; it must not end before.
    """
    end = time.monotonic() + SECONDS
    while not reached():
        assert alive() or reached(), "it ended before"
        assert time.monotonic() < end, f"not so after {SECONDS} s"
        time.sleep(0.02)


def _main(
    words: Sequence[str],
    cwd: Path,
    environment: dict[str, str],
    before: Callable[[], object] | None,
    out: Path,
    err: Path,
) -> None:
    """What the interpreter does for ``python -m``, from the working directory to the exit code."""
    # A shell's background jobs, and what they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ |= environment
    os.chdir(cwd)
    if before is not None:
        before()
    sys.path[:0] = [str(cwd), str(ROOT)]
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        with suppress(BrokenPipeError):  # after what the interpreter does, which ignores it too
            sys.stdout.flush()
            sys.stderr.flush()

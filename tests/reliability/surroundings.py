"""
Where a command runs: without room, network, shared memory, home or readers. Each is real, and Linux's own.

The functions without arguments change the process that calls them alone.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared_nets.versions import software
from tests.commands import ROOT

# From Linux's sched.h and mount.h.
NEW_MOUNTS, NEW_NETWORK = 0x00020000, 0x40000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18

needs_root = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0,
    reason="only root on Linux may do this",
)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: Path | str, target: Path | str, kind: str, flags: int, options: str = "") -> None:
    _call("mount", *(str(word).encode() for word in (source, target, kind)), flags, options.encode())


def _own_mounts() -> None:
    _call("unshare", NEW_MOUNTS)
    _mount("none", "/", "", RECURSIVE | PRIVATE)


def without_network() -> None:
    """Not even a way to this machine itself."""
    _call("unshare", NEW_NETWORK)


def without_shared_memory() -> None:
    """/dev/shm is there, but nothing can be written into it."""
    _own_mounts()
    _mount("tmpfs", "/dev/shm", "tmpfs", READ_ONLY)


def with_read_only_install() -> None:
    """The package and the bundles can be read only."""
    _own_mounts()
    _mount(ROOT, ROOT, "", BIND | RECURSIVE)
    _mount("none", ROOT, "", BIND | REMOUNT | READ_ONLY)
    with pytest.raises(OSError, match="Read-only"):
        (ROOT / "written").touch()


def without_home() -> None:
    """HOME and what stands in for it are not set."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        os.environ.pop(name, None)


def with_a_home_that_is_not_there() -> None:
    """As services and containers often have it."""
    without_home()
    os.environ["HOME"] = "/proc/nobody"  # where not even root can make it


def on_one_cpu() -> None:
    """One CPU, one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def without_a_reader_of(stream: int) -> None:
    """What reads standard output (1) or standard error (2) has ended: ``| head``."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, stream)


def limited_memory(mib: int) -> None:
    """No more address space than what is in use now and so many MiB more."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + mib * 2**20, hard))


@contextmanager
def memory_limit(mib: int) -> Iterator[None]:
    """The same for a while."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limited_memory(mib)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of so many KiB, mounted on the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", folder, "tmpfs", 0, f"size={kib}k")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def enlarge(folder: Path, kib: int) -> None:
    """Give a small disk more room."""
    _mount("none", folder, "", REMOUNT, f"size={kib}k")


@contextmanager
def nobody() -> Iterator[Path]:
    """A folder that everybody may use, seen by a user who may do nothing else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        if os.geteuid() != 0:
            yield folder
            return
        software()  # what it imports late is out of reach then, if Python lies in a private folder
        os.seteuid(65534)
        try:
            if not os.access(ROOT, os.R_OK | os.X_OK, effective_ids=True):
                pytest.skip("this clone lies in a private folder, so that no other user can run it")
            yield folder
        finally:
            os.seteuid(0)

"""Freed memory is kept for the next tensors, counted in the pages that the system clears."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shared_nets import memory

PAGES = """
import resource, sys, torch
from shared_nets.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20 // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# The first rounds still find no gap that is large enough.
print(min([cleared() for _ in range(30)][-3:]))
"""


def pages(how: str, **environment: str) -> int:
    """Pages cleared for 64 MiB that had just been freed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PAGES, how]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


glibc_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")


@glibc_only
def test_freed_memory_is_used_again() -> None:
    assert pages("kept") < 100
    assert pages("as usual") > 20 * 100  # of 16,384 small pages or fewer large ones


@glibc_only
@pytest.mark.parametrize(
    "setting", [{"MALLOC_MMAP_THRESHOLD_": "1000000"}, {"GLIBC_TUNABLES": "glibc.malloc.check=0"}]
)
def test_what_the_user_has_set_stays(setting: dict[str, str]) -> None:
    assert pages("kept", **setting) > 20 * 100


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(memory.sys, "platform", platform)
    assert not memory.keep_freed_memory()


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not memory.keep_freed_memory()

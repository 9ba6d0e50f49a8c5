"""How much memory is allowed; freed memory is kept, counted in the pages that the system clears."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


MIB = 2**20


class TestMemory:
    @pytest.fixture
    def groups(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A place for what the kernel tells; this process's own limits are left aside."""
        monkeypatch.setattr(memory, "CGROUPS", tmp_path / "sys")
        monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
        return tmp_path / "sys"

    def limit(self, path: Path, value: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    @pytest.mark.parametrize(
        ("line", "limits", "allowed"),
        [
            ("0::/job/step", {"job/memory.max": 4 * MIB, "job/step/memory.max": "max"}, [4 * MIB]),
            ("0::/job", {"job/memory.max": 4 * MIB, "memory.max": 3 * MIB}, [4 * MIB, 3 * MIB]),
            ("0::/../outside/a/container", {"memory.max": 5 * MIB}, [5 * MIB]),
            ("9:memory:/job", {"memory/job/memory.limit_in_bytes": 2 * MIB}, [2 * MIB]),
            ("9:cpu,cpuacct:/job", {"memory/job/memory.limit_in_bytes": 2 * MIB}, []),
            ("0::/job", {}, []),
        ],
    )
    def test_control_groups(
        self, groups: Path, tmp_path: Path, line: str, limits: dict[str, object], allowed: list[int]
    ) -> None:
        for name, value in limits.items():
            self.limit(groups / name, value)
        self.limit(tmp_path / "own", line)
        assert memory.cgroup_limits(tmp_path / "own") == allowed

    def test_no_control_groups(self, tmp_path: Path) -> None:
        assert memory.cgroup_limits(tmp_path / "none") == []

    @pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the system does not tell")
    @pytest.mark.usefixtures("groups")
    def test_the_least_limit_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = memory.memory_gb()
        assert 0.5 < machine < 10_000
        monkeypatch.setattr(memory, "cgroup_limits", lambda: [3 * 2**30, 2 * 2**30])
        assert memory.memory_gb() == min(2, machine)
        monkeypatch.setenv("SLURM_MEM_PER_NODE", "512")
        assert memory.memory_gb() == 0.5
        for value in ("0", "16G"):  # all that the node has; what a user gave srun
            monkeypatch.setenv("SLURM_MEM_PER_NODE", value)
            assert memory.memory_gb() == min(2, machine)

    def test_a_system_that_does_not_tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(memory.os, "sysconf", raising=False)
        assert memory.memory_gb() == 0

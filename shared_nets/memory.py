"""How much memory there is, and how the process keeps it on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux tells what containers and batch systems allow a process."""
# Parameters of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def memory_gb() -> float:
    """
    Memory that this process may use, in GiB: the machine's, or the part that a container or Slurm allows.

    Returns:
        0 where the system does not tell, as Windows.
    """
    if not hasattr(os, "sysconf"):
        return 0.0
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *cgroup_limits()]
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")  # MiB; 0 is all of the node's
    limits += [int(slurm) * 2**20] if slurm.isdecimal() else []
    return min(limit for limit in limits if limit) / 2**30


def cgroup_limits(groups: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Limits in bytes of the control groups that this process is in, of both versions of Linux's."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        # An outer group's limit holds too. In a container its own group is the root, whatever it is named.
        top, name = (CGROUPS / "memory", "memory.limit_in_bytes") if kinds else (CGROUPS, "memory.max")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and ".." not in folder.relative_to(top).parts:
                limits += _number(folder / name)
    return limits


def _number(path: Path) -> list[int]:
    """The number in a file; none where it is not there or says ``max``."""
    try:
        return [int(path.read_text())]
    except (OSError, ValueError):
        return []


def keep_freed_memory() -> bool:
    """
    Have glibc keep freed memory for the next tensors, as PyTorch does on a GPU.

    By default every feature map above 32 MiB is fresh memory from the system, which it clears page by page
    when it is first written and takes back when it is freed: up to half of a network's time on a CPU
    (docs/performance.md). Kept, it grows to what the process needs at most, and stays until it ends.

    Changes nothing outside Linux with glibc, nor where the environment already says how memory is kept
    (``MALLOC_…`` or ``GLIBC_TUNABLES``).

    Returns:
        whether memory is kept from now on.
    """
    if not sys.platform.startswith("linux"):
        return False
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, -1))

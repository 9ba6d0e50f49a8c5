"""How the process keeps memory on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


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

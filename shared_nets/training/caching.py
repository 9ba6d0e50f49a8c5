"""Prepared cases kept where they fit, so that no slice costs the decoding of a volume."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.utils import ensure_tuple
from tqdm import tqdm

from shared_nets.errors import UsageError
from shared_nets.memory import memory_gb

MEMORY_SHARE = 0.3
"""Of the memory that the prepared cases of training may take, and those of validation as much; the
rest is for the network and everything else."""


def cached(
    data: Sequence[dict[str, Any]],
    transform: Callable[..., Any],
    cache_gb: float | None = None,
    cache_dir: str | Path | None = None,
    quiet: bool = False,
) -> Dataset:
    """
    A dataset whose deterministic preprocessing is done once a case.

    Args:
        data: the cases.
        transform: the preprocessing; what comes before its first random step is kept, must not be changed in
            place by what comes after, as MONAI's transforms do not, and must be picklable for ``cache_dir``.
        cache_gb: memory that prepared cases may take, in GiB; by default three tenths of what this process
            may use, divided among the processes of ``torchrun``.
        cache_dir: where they are kept on disk when they do not fit into memory, as plain tensors; None
            prepares them anew each time then. A case is also prepared anew when the preprocessing or one of
            the files or folders that it names has changed.
        quiet: no progress bar.

    Returns:
        MONAI's ``CacheDataset`` (in memory), ``PersistentDataset`` (on disk) or ``Dataset`` (neither).

    Raises:
        UsageError: if the preprocessing has a lambda, which ``cache_dir`` cannot tell from another.
    """
    if not data:
        return Dataset([], transform)
    limit = share_gb() if cache_gb is None else cache_gb
    # Cases of several scanners differ in size: the largest of three stands for all.
    some = sorted({0, len(data) // 2, len(data) - 1})
    if limit and max(prepared_gb(data[n], transform) for n in some) * len(data) <= limit:
        return CasesInMemory(data, transform, num_workers=2, copy_cache=False, progress=not quiet)
    if cache_dir is None:
        return Dataset(data, transform)
    return PersistentDataset(
        data, transform, cache_dir=cache_dir, hash_func=_hash_with_files, hash_transform=_hash_of_transforms
    )


def share_gb() -> float:
    """What prepared cases may take, of this process's share among those of ``torchrun``."""
    return memory_gb() * MEMORY_SHARE / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _hash_of_transforms(transforms: Any) -> bytes:
    try:
        return pickle_hashing(transforms)
    except (pickle.PicklingError, AttributeError) as error:
        raise UsageError(
            f"The preprocessing cannot be kept on disk ({error}): name a function in place of a lambda, or "
            f"let the cases fit into memory (cache_gb)."
        ) from error


def _hash_with_files(case: dict[str, Any]) -> bytes:
    """A hash of a case that is another one when one of its files was written anew."""
    paths = [path for key in ("image", "label") for path in ensure_tuple(case.get(key))]
    # One that is missing fails when it is loaded.
    stats = [os.stat(path) for path in paths if isinstance(path, str) and os.path.exists(path)]
    return pickle_hashing({**case, "files": [(stat.st_mtime_ns, stat.st_size) for stat in stats]})


class CasesInMemory(CacheDataset):
    """
    MONAI's ``CacheDataset``, which ends cleanly when a case cannot be prepared.

    Up to MONAI 1.6.1 the error leaves the other threads at work, and a program that ends on it is aborted
    ("terminate called without an active exception").
    """

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        wanted = range(self.cache_num) if indices is None else indices
        # Left by an error, the pool drops what waits and lets its threads finish their cases.
        with ThreadPoolExecutor(self.num_workers) as pool:
            prepared = pool.map(self._load_cache_item, wanted)
            return list(tqdm(prepared, total=len(wanted), desc="Loading dataset", disable=not self.progress))


def prepared_gb(case: dict[str, Any], transform: Callable[..., Any]) -> float:
    """Memory that a prepared case takes, in GiB; 0 if it cannot be prepared, which is told in its turn."""
    try:
        (prepared,) = CasesInMemory([case], transform, num_workers=1, progress=False)._cache
    except Exception:
        return 0.0
    values = prepared.values() if isinstance(prepared, dict) else [prepared]
    sizes = [getattr(value, "nbytes", 0) for value in values]
    return sum(sizes) / 2**30

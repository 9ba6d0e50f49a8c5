"""A cohort in parts, a process each, and how one ends when it is asked to."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import ignite.distributed as idist
from monai.data import partition_dataset

from shared_nets.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One of the parts of a cohort: its number, from 1, of how many, and who says so."""

    number: int = 1
    count: int = 1
    origin: str = ""

    @property
    def name(self) -> str:
        """``2-of-3``."""
        return f"{self.number}-of-{self.count}"

    def indices(self, length: int) -> list[int]:
        """
        Which of a cohort's scans are this part's: every ``count``-th.

        Args:
            length: scans in the cohort.
        """
        everything = list(range(length))
        if length < self.count:  # MONAI wants a scan for every part
            return everything[self.number - 1 : self.number]
        parts = partition_dataset(everything, num_partitions=self.count, even_divisible=False)
        return list(parts[self.number - 1])


def find_shard(asked: str = "auto", environment: Mapping[str, str] = os.environ) -> Shard:
    """
    Which part of the cohort this process does.

    Args:
        asked: ``"2/3"``, ``"none"`` for all of it, or ``"auto"``: from the process group that training and
            evaluation join, else from what ``torchrun``, a Slurm array or ``srun`` say in the environment.
            A Slurm batch script's own ``SLURM_NTASKS`` counts only for tasks that ``srun`` has started:
            the script itself runs once.
        environment: the environment's variables.

    Raises:
        UsageError: if the part is not one.
    """
    if asked == "none":
        return Shard()
    if asked != "auto":
        match = re.fullmatch(r"(\d+)/(\d+)", asked)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"{asked} is no part of a cohort: give --shard 1/3, 2/3 and 3/3, auto or none.")
        return Shard(int(match[1]), int(match[2]), "--shard")
    if idist.get_world_size() > 1:
        return Shard(idist.get_rank() + 1, idist.get_world_size(), "process group")

    def number(key: str, default: int) -> int:
        value = environment.get(key, "")
        return int(value) if value.lstrip("-").isdigit() else default

    first, step = number("SLURM_ARRAY_TASK_MIN", 0), max(1, number("SLURM_ARRAY_TASK_STEP", 1))
    for origin, index, count in (
        ("torchrun", number("RANK", 0), number("WORLD_SIZE", 1)),
        (
            "Slurm array",
            (number("SLURM_ARRAY_TASK_ID", first) - first) // step,
            number("SLURM_ARRAY_TASK_COUNT", 1),
        ),
        ("srun", number("SLURM_PROCID", 0), number("SLURM_STEP_NUM_TASKS", 1)),
    ):
        if count > 1 and 0 <= index < count:
            return Shard(index + 1, count, origin)
    return Shard()


class Terminated(KeyboardInterrupt):
    """SIGTERM: a scheduler wants the process to end."""


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """
    Let SIGTERM raise :class:`Terminated`, as Ctrl-C raises KeyboardInterrupt; in the main thread only.

    A process that some library forks meanwhile, and ends so, ends as it would without.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

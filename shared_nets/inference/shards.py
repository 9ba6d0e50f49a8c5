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
        asked: ``"2/3"``, ``"none"`` for all of it, ``"group"``: from the process group that training and
            evaluation join, or ``"auto"``: from that, else from what ``torchrun`` or ``srun`` say in the
            environment, in each task of a Slurm array. A Slurm batch script's own ``SLURM_NTASKS`` counts
            only for tasks that ``srun`` has started: the script itself runs once.
        environment: the environment's variables.

    Raises:
        UsageError: if the part is not one, or the array's numbers are not evenly spaced.
    """
    asked = str(asked)  # MONAI's command line takes 2 for a number
    if asked == "none":
        return Shard()
    if asked not in ("auto", "group"):
        match = re.fullmatch(r"(\d+)/(\d+)", asked)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"{asked} is no part of a cohort: give --shard 1/3, 2/3 and 3/3, auto or none.")
        return Shard(int(match[1]), int(match[2]), "--shard")
    if idist.get_world_size() > 1:
        return Shard(idist.get_rank() + 1, idist.get_world_size(), "process group")
    if asked == "group":
        return Shard()
    array = _array_task(environment)
    task = _task("torchrun", environment, "RANK", "WORLD_SIZE")
    if task.count == 1:  # torchrun counts the tasks that it was started in
        task = _task("srun", environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    origin = " and ".join(part.origin for part in (array, task) if part.origin)
    return Shard((array.number - 1) * task.count + task.number, array.count * task.count, origin)


def _array_task(environment: Mapping[str, str]) -> Shard:
    """The task of a Slurm array that this is."""
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT", 1)
    if count < 2:
        return Shard()
    first, step = (_number(environment, f"SLURM_ARRAY_TASK_{key}", d) for key, d in (("MIN", 0), ("STEP", 1)))
    step = max(1, step)
    last = _number(environment, "SLURM_ARRAY_TASK_MAX", first + (count - 1) * step)
    index, rest = divmod(_number(environment, "SLURM_ARRAY_TASK_ID", first) - first, step)
    if (last - first) // step + 1 != count or rest or not 0 <= index < count:
        raise UsageError(
            "The numbers of this Slurm array are not evenly spaced, so it is not known which part of the "
            "cohort each task is: give --shard 1/3, 2/3 and 3/3, or none."
        )
    return Shard(index + 1, count, "Slurm array")


def _task(origin: str, environment: Mapping[str, str], index_key: str, count_key: str) -> Shard:
    """The process that this is of those that were started together."""
    index, count = _number(environment, index_key, 0), _number(environment, count_key, 1)
    return Shard(index + 1, count, origin) if count > 1 and 0 <= index < count else Shard()


def _number(environment: Mapping[str, str], key: str, default: int) -> int:
    value = environment.get(key, "")
    return int(value) if value.lstrip("-").isdigit() else default


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

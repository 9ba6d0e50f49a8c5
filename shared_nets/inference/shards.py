"""A cohort in parts, a process each, and folders that one run writes at a time."""

from __future__ import annotations

import os
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import ignite.distributed as idist
from filelock import FileLock, Timeout
from monai.data import partition_dataset

from shared_nets.errors import OutputError, UsageError
from shared_nets.files import reason

# Where the runs of a folder keep what concerns only themselves.
RUNS = ".strokeseg"
# Another process may hold a lock for a moment, only to see whether it is held.
_PATIENCE = 1.0  # seconds


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


@contextmanager
def held(folder: Path, shard: Shard) -> Iterator[None]:
    """
    Keep other runs out of an output folder, the other parts of the same run excepted.

    The system lets go of the lock when the process ends, however it ends.

    Args:
        folder: the output folder, which is there.
        shard: this process's part.

    Raises:
        OutputError: if another run is writing there.
    """
    locks = folder / RUNS
    with ExitStack() as stack:
        try:
            locks.mkdir(exist_ok=True)
            stack.enter_context(FileLock(locks / f"{shard.name}.lock", timeout=_PATIENCE))
            for path in sorted(locks.glob("*.lock")):
                if not path.name.endswith(f"-of-{shard.count}.lock"):
                    with FileLock(path, timeout=_PATIENCE):
                        pass
        except Timeout as error:
            raise OutputError(
                f"{folder} is being written by another run: wait, or choose another output folder."
            ) from error
        except NotImplementedError:
            warnings.warn(f"{folder} cannot be locked: let no second run write there.", stacklevel=2)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {reason(error)}") from error
        yield


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """
    Let only one of a run's parts do what follows at a time: the last of them then sees what all others did.

    Args:
        folder: the output folder, which is :func:`held`.
    """
    with ExitStack() as stack:
        with suppress(NotImplementedError):  # held() has told that there are no locks here
            stack.enter_context(FileLock(folder / RUNS / "turn"))
        yield


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

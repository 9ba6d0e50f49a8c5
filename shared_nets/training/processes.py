"""Several processes, one per GPU, as ``torchrun`` starts them; and those that only load data."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import AbstractContextManager
from pathlib import Path

import ignite.distributed as idist
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from shared_nets.devices import local_device
from shared_nets.errors import UsageError, tell_errors_in_words
from shared_nets.files import held

SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps what processes hand each other."""
WORKER_MIB = 32
"""Shared memory that a loader's process needs: its batches under way, the largest a volume of 8 MiB."""


def join_processes() -> None:
    """
    Join the process group of ``torchrun``: NCCL between GPUs, gloo between CPUs.

    Raises:
        UsageError: if ``torchrun`` did not start this process.
    """
    if "RANK" not in os.environ:
        tell_errors_in_words()  # this is the first thing that a workflow does
        raise UsageError("The configs for several GPUs need one process each: start them with torchrun.")
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def parallel(network: nn.Module, device: torch.device | str) -> DistributedDataParallel:
    """
    The network as one of several that learn together.

    Args:
        network: on its device.
        device: that device. Between GPUs batch norms share their statistics; PyTorch has no such batch norm
            for CPUs.
    """
    if torch.device(device).type != "cuda":
        return DistributedDataParallel(network)
    return DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(network), device_ids=[device])


def only_training(output_dir: str | Path) -> AbstractContextManager[None]:
    """
    Inside, no other run writes the output folder; the processes of one training hold it together.

    Args:
        output_dir: the run's folder, which is there.

    Raises:
        OutputError: on entry, if another run is writing there.
    """
    return held(Path(output_dir), idist.get_rank() + 1, idist.get_world_size())


def loader_workers(wanted: int) -> int:
    """
    How many processes may load data: those wanted, or none where they could not hand over what they load.

    Args:
        wanted: processes; 0 loads in the training process itself.

    Warns:
        UserWarning: if there is too little shared memory for them, as in containers that are given none.
    """
    if wanted <= 0 or not sys.platform.startswith("linux"):
        return wanted
    try:
        found = os.statvfs(SHARED_MEMORY)
        usable = os.access(SHARED_MEMORY, os.W_OK) and not found.f_flag & os.ST_RDONLY
        free = found.f_bavail * found.f_frsize / 2**20 if usable else 0
    except OSError:
        free = 0
    if free >= WORKER_MIB * wanted:
        return wanted
    warnings.warn(
        f"{SHARED_MEMORY} has not the {WORKER_MIB * wanted} MiB that {wanted} loading processes need: data "
        f"are loaded without them; give the container more (docker run --shm-size=1g) to have them.",
        stacklevel=1,  # told once, although two loaders ask
    )
    return 0

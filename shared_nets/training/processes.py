"""Several processes, one per GPU, as ``torchrun`` starts them."""

from __future__ import annotations

import os

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def local_device() -> torch.device:
    """This process's GPU, by ``LOCAL_RANK``, from the first again if these are fewer; else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


def join_processes() -> None:
    """Join the process group of ``torchrun``: NCCL between GPUs, gloo between CPUs."""
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

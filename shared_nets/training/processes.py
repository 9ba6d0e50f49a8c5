"""Several processes, one per GPU, as ``torchrun`` starts them."""

from __future__ import annotations

import os

import torch
from torch import distributed


def local_device() -> torch.device:
    """This process's GPU, by ``LOCAL_RANK``; the CPU where there is no GPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def join_processes() -> None:
    """Join the process group of ``torchrun``: NCCL between GPUs, gloo between CPUs."""
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")

"""What a network runs on: this process's GPU, the CPU, and whether a device is there."""

from __future__ import annotations

import os

import torch

from shared_nets.errors import DeviceError


def local_device() -> torch.device:
    """This process's GPU, by ``LOCAL_RANK``, from the first again if these are fewer; else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


def check_device(device: torch.device | str) -> None:
    """
    Args:
        device: a PyTorch device or its name.

    Raises:
        DeviceError: if this machine or this PyTorch has no such device.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"{device}: no device has this name; use cpu, cuda or cuda:NUMBER.") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"{device}: PyTorch finds no GPU here; add --device cpu, or install CUDA's driver and PyTorch."
        )
    if wanted.type == "cuda" and wanted.index is not None and wanted.index >= torch.cuda.device_count():
        raise DeviceError(
            f"{device}: this machine's GPUs are cuda:0 to cuda:{torch.cuda.device_count() - 1}; choose one."
        )
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(f"{device}: PyTorch finds no Apple GPU here; add --device cpu.")

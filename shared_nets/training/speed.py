"""What makes training fast without changing what is learned: memory and its layout, bfloat16."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from shared_nets.memory import keep_freed_memory
from shared_nets.precision import in_bfloat16

Network = TypeVar("Network", bound=nn.Module)


def prepared(network: Network, device: torch.device | str, bfloat16: bool = False) -> Network:
    """
    A network laid out for fast training.

    Args:
        network: on its device; changed in place.
        device: that device. Kernels are kept channels last, which convolutions on CPUs and on GPUs with
            tensor cores like best. On a CPU the process keeps freed memory from then on, see
            :func:`~shared_nets.memory.keep_freed_memory`.
        bfloat16: on a CPU, compute in it where autocast says it is safe; weights stay float32. On a GPU the
            trainer's ``amp`` does it.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu:
        keep_freed_memory()
    if bfloat16 and on_cpu:
        network.forward = in_bfloat16(network.forward)
    return network

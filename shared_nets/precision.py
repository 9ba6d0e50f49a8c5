"""Half precision: where it pays, and which kind."""

from __future__ import annotations

import torch

from shared_nets.bundles import Backend
from shared_nets.errors import UsageError


def half_pays(device: torch.device | str) -> bool:
    """
    Whether half precision is faster than float32: on GPUs, and on CPUs with instructions for bfloat16.

    On a CPU without them bfloat16 is emulated, ten times slower than float32.

    Args:
        device: where the network runs.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return True
    if device.type != "cpu":
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in checks)


def half_type() -> torch.dtype:
    """The half precision of the GPU: bfloat16 where it has it, float16 (with loss scaling) elsewhere."""
    return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float16


def check_bfloat16(device: torch.device | str, backend: str | None = None) -> None:
    """
    Make sure that a network can be computed in bfloat16 on the CPU.

    Args:
        device: where it runs.
        backend: what computes it, see :func:`~shared_nets.inference.for_inference`.

    Raises:
        UsageError: if the CPU, or the backend, cannot do it fast; on a GPU this says nothing.
    """
    if torch.device(device).type != "cpu":
        return
    if backend == Backend.onnxruntime.value:
        raise UsageError("ONNX Runtime computes in float32 only: leave out cpu_bfloat16, or the backend.")
    if not half_pays("cpu"):
        raise UsageError(
            "This CPU has no instructions for bfloat16, which would take ten times as long as float32: leave "
            "out cpu_bfloat16."
        )

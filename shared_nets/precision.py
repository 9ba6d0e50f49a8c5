"""Half precision: where it pays, and which kind."""

from __future__ import annotations

import torch


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

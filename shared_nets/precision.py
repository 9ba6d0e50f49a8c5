"""Lower precisions than float32: where they pay, and bfloat16 on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def bfloat16_pays(device: torch.device | str) -> bool:
    """
    Whether bfloat16 is faster than float32: on GPUs and CPUs that have instructions for it.

    Where it is emulated it is slower. float16, the half precision of older GPUs, is no substitute: it ends at
    65,504, and X-Net's Feature Similarity Module, which sums over all pixels, reaches a million (the shipped
    weights on the demo's scan).

    Args:
        device: where the network runs.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return _cpu_has("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def has_vnni() -> bool:
    """
    Whether this CPU multiplies 8 bits without overflow, by the instructions of AVX-512 VNNI.

    With AVX-512 alone OpenVINO adds pairs of products in 16 bits, which overflow (docs/performance.md).
    """
    # One check, whose name changed with torch's version.
    return _cpu_has("_is_vnni_supported", "_is_cpu_support_vnni", "_is_cpu_support_avx512_vnni")


def _cpu_has(*checks: str) -> bool:
    """Whether one of torch's checks of the CPU, of those that this version has, says yes."""
    return any(bool(getattr(torch.cpu, name, bool)()) for name in checks)


def in_bfloat16(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """
    A computation on the CPU in bfloat16 wherever autocast takes that for safe, with its result in float32.

    Args:
        compute: from tensors to a tensor, a network say.
    """

    def computed(*inputs: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            result = compute(*inputs)
        return result.float()

    return computed

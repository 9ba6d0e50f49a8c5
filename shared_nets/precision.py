"""Half precision, which is bfloat16 here: where it pays."""

from __future__ import annotations

import torch


def half_pays(device: torch.device | str) -> bool:
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
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in checks)

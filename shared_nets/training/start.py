"""What a training starts from: weights, and the parameters the optimiser decays."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from shared_nets.release.weights import load_into

Network = TypeVar("Network", bound=nn.Module)


def start_from(pretrained: str | Path | None, network: Network) -> Network:
    """
    The network to train: from scratch, or fine-tuned from weights.

    Args:
        pretrained: weights file, or None to keep the random initialisation.
        network: on its device.

    Raises:
        WeightsError: if the weights are missing, corrupt, unsafe or of another architecture.
    """
    return load_into(network, pretrained) if pretrained else network


def decay_kernels_only(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """
    Parameter groups with L2 decay on convolution kernels, none on biases and batch norms.

    Both papers regularise kernels only: Keras' ``kernel_regularizer``.

    Args:
        network: its parameters are taken.
        weight_decay: the coefficient, torch's convention: Keras' ``l2(c)`` adds ``c·w²`` to the loss, so
            its gradient is that of ``weight_decay = 2c``.
    """
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

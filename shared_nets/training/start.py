"""What a training starts from: weights, the parameters the optimiser decays, and whole batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MethodType
from typing import Any, TypeVar

from torch import Tensor, nn

from shared_nets.errors import UsageError
from shared_nets.release.weights import check_architecture, load_weights
from shared_nets.switches import is_number
from shared_nets.training.handlers import LAST, in_monai_label

logger = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)


LEAST: dict[str, int] = {
    "max_epochs": 1,
    "val_interval": 1,
    "slices_per_scan": 1,
    "scans_per_batch": 1,
    "early_stop_patience": 1,
    "workers": 0,
}
"""Settings of train.json that are whole numbers, and how low each may be."""


def check_training(folder: str | Path, resume: bool, learning_rate: float, **settings: object) -> None:
    """
    Refuse what a training cannot start with, before anything is written.

    Args:
        folder: where the checkpoints go.
        resume: whether the run goes on from the one there.
        learning_rate: of the optimiser, at least 0.
        settings: those of :data:`LEAST`, by name.

    Raises:
        UsageError: if a setting is no such number, or a run in the folder would be overwritten. Not in MONAI
            Label, which keeps all its trainings in one place.
    """
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < LEAST[name]:
            raise UsageError(f"{name} is a whole number, at least {LEAST[name]}, not {value!r}.")
    if not is_number(learning_rate) or not 0 <= learning_rate < math.inf:
        raise UsageError(f"learning_rate is a number, at least 0, not {learning_rate!r}.")
    last = Path(folder) / LAST
    if last.is_file() and not resume and not in_monai_label():
        raise UsageError(
            f"{last}: there is a training already; go on with --resume True, or choose another output folder."
        )


def start_from(pretrained: str | Path | None, network: Network, frozen: str | Sequence[str] = ()) -> Network:
    """
    The network to train: from scratch, or fine-tuned from weights.

    Args:
        pretrained: weights file, or None to keep the random initialisation. Weights for another number of
            input channels are adapted, which is logged.
        network: on its device.
        frozen: what is not trained: parts by the start of their names, such as ``"encoder"``, or
            ``"batch_norm"``: all batch norms keep and use the statistics they have.

    Raises:
        WeightsError: if the weights are missing, corrupt, unsafe or of another architecture.
        UsageError: if nothing has a name in ``frozen``.
    """
    if pretrained:
        state, adapted = adapt_channels(load_weights(pretrained), network)
        if adapted:
            logger.warning(
                "%s: made for other input channels; spread evenly over %d: %s",
                pretrained, network.in_channels, ", ".join(adapted),
            )  # fmt: skip
        check_architecture(network, state, pretrained)
        network.load_state_dict(state)
    return freeze(network, [frozen] if isinstance(frozen, str) else frozen)


def adapt_channels(state: Mapping[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """
    Weights made for another number of input channels, spread evenly over the network's.

    Every new channel gets the mean of the old ones; kernels over all input channels are scaled, so that equal
    channels give what the mean of the old ones gave. The head's channels are those of the output: left alone.

    Args:
        state: weights by name.
        network: with ``in_channels``.

    Returns:
        The weights, and the names of those that were changed.
    """
    channels = getattr(network, "in_channels", None)
    out, adapted = dict(state), []
    for key, wanted in network.state_dict().items():
        have = state.get(key)
        if have is None or have.ndim != wanted.ndim or key.startswith("head."):
            continue
        axes = [d for d in range(have.ndim) if have.shape[d] != wanted.shape[d]]
        if len(axes) == 1 and wanted.shape[axes[0]] == channels:
            axis = axes[0]
            repeats = [1] * have.ndim
            repeats[axis] = wanted.shape[axis]
            spread = have.mean(axis, keepdim=True).repeat(repeats)
            out[key] = spread * (have.shape[axis] / wanted.shape[axis] if axis == 1 else 1)
            adapted.append(key)
    return out, adapted


def freeze(network: Network, parts: Sequence[str]) -> Network:
    """
    Keep parts of a network from being trained, their batch norms' statistics included.

    Args:
        network: changed in place.
        parts: see `start_from`.

    Raises:
        UsageError: if nothing has such a name.
    """
    still = []
    for part in parts:
        chosen = {
            name: module
            for name, module in network.named_modules()
            if (
                isinstance(module, nn.BatchNorm2d) if part == "batch_norm" else name and name.startswith(part)
            )
        }
        if not chosen:
            names = ", ".join(name for name, _ in network.named_children())
            raise UsageError(f"{type(network).__name__} has no part {part!r} to freeze: it has {names}.")
        if part != "batch_norm":
            for module in chosen.values():
                module.requires_grad_(False)
        still += [name for name, module in chosen.items() if isinstance(module, nn.BatchNorm2d)]
    return _keep_still(network, still) if still else network


def _keep_still(network: Network, batch_norms: Sequence[str]) -> Network:
    """
    Keep batch norms in evaluation mode: the trainer puts the whole network into training mode at every step.

    By their names, since several GPUs put others in their places, see
    :func:`~shared_nets.training.processes.parallel`.
    """

    def train(self: Network, mode: bool = True) -> Network:
        type(self).train(self, mode)
        for name in batch_norms:
            self.get_submodule(name).eval()
        return self

    network.train = MethodType(train, network)  # type: ignore[method-assign]
    return network.train(network.training)


def leaves_one_slice(scans: int, scans_per_batch: int, slices_per_scan: int) -> bool:
    """
    Whether an epoch would end in a batch of a single slice, which is better left out: ``drop_last``.

    Batch norm needs more than one value of a channel, which a single slice does not give where a network
    pools it to one pixel (PSPNet, DeepLabv3+, windows of 16 pixels); elsewhere its statistics are poor.
    Scans are shuffled, so that it is another one that is left out of the next epoch.

    Args:
        scans: in an epoch.
        scans_per_batch: of them in a batch.
        slices_per_scan: drawn of each.
    """
    return slices_per_scan == 1 and scans > 1 and scans % scans_per_batch == 1


def decay_kernels_only(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """
    Parameter groups with weight decay on convolution kernels, none on biases and batch norms.

    Both papers regularise kernels only: Keras' ``kernel_regularizer``.

    Args:
        network: its parameters are taken.
        weight_decay: the optimiser's. With Adam and SGD it is L2's: Keras' ``l2(c)`` adds ``c·w²`` to the
            loss, so its gradient is that of ``weight_decay = 2c``. With AdamW it is decoupled: kernels
            shrink by ``lr·weight_decay`` of themselves a step, whatever their gradients.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    kernels = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

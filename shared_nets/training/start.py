"""What a training starts from: weights, the parameters the optimiser decays, and whole batches."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MethodType
from typing import Any, TypeVar

import ignite.distributed as idist
from monai.engines import Trainer
from monai.utils import ensure_tuple, set_determinism
from torch import Tensor, nn

from shared_nets.errors import UsageError, WeightsError, tell_errors_in_words
from shared_nets.switches import check_amount
from shared_nets.training.handlers import LAST, in_monai_label
from shared_nets.weights import check_architecture, load_weights

logger = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)


LEAST: dict[str, int] = {
    "max_epochs": 1,
    "val_interval": 1,
    "slices_per_scan": 1,
    "scans_per_batch": 1,
    "window_batch": 1,
    "early_stop_patience": 1,
    "workers": 0,
    "seed": 0,
}
"""Settings of train.json that are whole numbers, and how low each may be."""


def seed_draws(seed: int) -> None:
    """
    Seed what is drawn before the first epoch, of processes that learn together each one differently.

    Args:
        seed: at least 0.

    Raises:
        UsageError: if it is no such number.
    """
    tell_errors_in_words()  # a workflow's first deed: nothing is checked yet
    _check_whole("seed", seed)
    set_determinism(seed + idist.get_rank())


def check_training(
    folder: str | Path,
    resume: bool,
    learning_rate: float,
    weight_decay: float = 0.0,
    window: Sequence[int] = (16, 16),
    cache_gb: float | None = None,
    **settings: object,
) -> None:
    """
    Refuse what a training cannot start with, before anything is written.

    Args:
        folder: where the checkpoints go; "" where that is not to be looked at.
        resume: whether the run goes on from the one there.
        learning_rate: of the optimiser, at least 0.
        weight_decay: of the optimiser, at least 0.
        window: a slice's rows and columns, multiples of 16.
        cache_gb: see :func:`~shared_nets.training.cached`.
        settings: those of :data:`LEAST`, by name.

    Raises:
        UsageError: if a setting is no such number, or a run in the folder would be overwritten. Not in MONAI
            Label, which keeps all its trainings in one place.
        WeightsError: if there is no run to resume.
    """
    for name, value in settings.items():
        _check_whole(name, value)
    numbers = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    numbers |= {} if cache_gb is None else {"cache_gb": cache_gb}
    for name, number in numbers.items():
        check_amount(name, number)
    if not _is_window(window):
        raise UsageError(f"window is two multiples of 16, as [112, 96], not {window!r}.")
    last = Path(folder) / LAST
    if resume and folder and not last.is_file():
        raise WeightsError(f"{last}: there is no run to resume; start one without resume.")
    if last.is_file() and not resume and not in_monai_label():
        raise UsageError(
            f"{last}: there is a training already; go on with --resume True, or choose another output folder."
        )


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < LEAST[name]:
        raise UsageError(f"{name} is a whole number, at least {LEAST[name]}, not {value!r}.")


def _is_window(window: object) -> bool:
    sides = list(window) if isinstance(window, (list, tuple)) else []
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    return whole and len(sides) == 2 and all(side >= 16 and side % 16 == 0 for side in sides)


def run_and_release(trainer: Trainer, lock: ExitStack) -> None:
    """
    Run a trainer, and let go of its folder however its epochs end: in a notebook the failed run lives on.

    Args:
        trainer: MONAI's.
        lock: what keeps other trainings out of the folder.
    """
    with lock:
        trainer.run()


def start_from(pretrained: str | Path | None, network: Network, frozen: str | Sequence[str] = ()) -> Network:
    """
    The network to train: from scratch, or fine-tuned from weights.

    Args:
        pretrained: weights file, or None to keep the random initialisation. Weights for another number of
            input channels are adapted, which is logged.
        network: on its device.
        frozen: what is not trained: parts by their names, numbers at their end left out or not, such as
            ``"encoder"`` or ``"encoder1"``, or ``"batch_norm"``: all batch norms keep and use the statistics
            they have.

    Raises:
        WeightsError: if the weights are missing, corrupt, unsafe or of another architecture.
        UsageError: see `freeze`.
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
    return freeze(network, ensure_tuple(frozen or ()))


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
        UsageError: if nothing that is trained has such a name, or nothing is left to train.
    """
    still = []
    for part in parts:
        named = re.compile(rf"{re.escape(str(part))}\d*(\.|$)")
        chosen = {
            name: module
            for name, module in network.named_modules()
            if (isinstance(module, nn.BatchNorm2d) if part == "batch_norm" else name and named.match(name))
        }
        if not any(any(True for _ in module.parameters()) for module in chosen.values()):
            names = ", ".join(name for name, child in network.named_children() if [*child.parameters()])
            raise UsageError(f"{type(network).__name__} has no part {part!r} to freeze: it has {names}.")
        if part != "batch_norm":
            for module in chosen.values():
                module.requires_grad_(False)
        still += [name for name, module in chosen.items() if isinstance(module, nn.BatchNorm2d)]
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UsageError(f"{', '.join(map(str, parts))}: nothing is left to train; freeze less.")
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

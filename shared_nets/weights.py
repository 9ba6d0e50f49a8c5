"""
Weights on disk: read without trusting them, checked against their network, written in one piece.

A weight file holds one plain state dict, tensors by name: ``.pt`` as ``torch.save`` writes it, or
``.safetensors``. Files may hold half precision; in memory weights are float32.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from shared_nets import files
from shared_nets.bundles import read_metadata
from shared_nets.errors import UsageError, WeightsError
from shared_nets.files import sync, write_bytes, written_whole
from shared_nets.networks import CNNRes, XNet

SHIPPED = "models/model.safetensors"
"""A bundle's weights as released, which nothing that trains writes to."""
CURRENT = "models/model.pt"
"""A bundle's weights in use: MONAI Label and fine-tuning may replace them."""

Network = TypeVar("Network", bound=nn.Module)


def load_weights(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """
    Read a state dict, running no code that the file may hold.

    Args:
        path: a ``.pt`` file or a ``.safetensors`` file.
        sha256: the SHA-256 that the file must have, in hexadecimal; None accepts any.

    Returns:
        Tensors by name on the CPU, floating-point ones as float32 whatever the file's precision.

    Raises:
        WeightsError: if the file is missing, damaged, has another SHA-256, holds anything but named
            tensors, or holds NaN or infinite values or variances below zero.
    """
    state = {key: t.float() if t.is_floating_point() else t for key, t in read_state(path, sha256).items()}
    check_finite(state, str(path), "train again with a smaller learning rate, or use an earlier checkpoint")
    return state


def load_into(network: Network, path: str | Path, sha256: str | None = None) -> Network:
    """
    Put the weights of a file into a network, on whatever device it is.

    Args:
        network: the network they belong to; changed in place.
        path: a ``.pt`` or ``.safetensors`` file.
        sha256: the SHA-256 that the file must have, in hexadecimal; None accepts any.

    Returns:
        ``network`` itself.

    Raises:
        WeightsError: as `load_weights` and `check_architecture`; the network is then unchanged.
    """
    state = load_weights(path, sha256)
    check_architecture(network, state, path)
    network.load_state_dict(state)
    return network


def check_architecture(network: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """
    Say in words why weights do not fit a network.

    Args:
        network: the network they should fit.
        state: its weights by name.
        path: the file they come from, for the message.

    Raises:
        WeightsError: naming the first tensor that is missing, of another shape, or too many, and the network
            that the weights look like; or else the first that has another kind of values.
    """
    expected = network.state_dict()
    if (fault := next(misfits(expected, state), None)) is not None:
        remedy = other_network(state)
    elif (fault := next(other_kinds(expected, state), None)) is not None:
        remedy = "save them with the network's own types of values, or choose another file"
    else:
        return
    raise WeightsError(f"The weights in {path} do not fit {type(network).__name__} ({fault}); {remedy}.")


def misfits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    """How ``state`` differs from ``expected``: tensors missing, of another shape, then unexpected."""
    yield from (f"{key} is missing" for key in expected if key not in state)
    for key in expected:
        if key in state and state[key].shape != expected[key].shape:
            yield f"{key} has shape {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
    yield from (f"{key} is unexpected" for key in state if key not in expected)


def other_kinds(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    """Of tensors that fit otherwise, those with another kind of values; their precision may be any."""
    for key, tensor in expected.items():
        # Of weights that were averaged, this is a fraction; nothing here depends on it.
        counts_batches = key.split(".")[-1] == "num_batches_tracked"
        # Integers would be cut-off kernels, and of complex numbers half is dropped.
        if not counts_batches and state[key].is_floating_point() != tensor.is_floating_point():
            yield f"{key} holds {kind(state[key])} instead of {kind(tensor)}"


def other_network(state: Mapping[str, Tensor]) -> str:
    """Of weights that do not fit, which network they look like, and what to do."""
    if all(key.startswith("module.") for key in state):
        return "they were saved from a parallel wrapper: save network.module.state_dict() instead"
    if (looks_like := guess_network(state)) is None:
        return "they are of another network: choose another file"
    return (
        f"they look like weights of {looks_like}: build the network they were made for, with the same "
        f"channels and options, or choose another file"
    )


def kind(tensor: Tensor) -> str:
    """The type of a tensor's values, as ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def save_weights(state: Mapping[str, Tensor], path: str | Path, half: bool = False) -> None:
    """
    Write a state dict so that a reader finds either the old file or the whole new one.

    The same weights give the same bytes, and so one SHA-256, whatever order or device they come in.

    Args:
        state: tensors by name, as ``network.state_dict()`` gives them.
        path: a ``.pt`` or ``.safetensors`` file; its folder is made if need be.
        half: store kernels as float16, half the size; biases and batch norm's values, few and of wide range,
            keep their type.

    Raises:
        WeightsError: if the ending is neither, a value is NaN, infinite, a variance below zero, or too large
            for float16.
        OutputError: if the file cannot be written.
    """
    path = Path(path)
    plain = as_stored(state, f"{path} was not written: the state dict", half)
    if path.suffix == ".safetensors":
        write_bytes(path, safetensors.torch.save(plain))
    elif path.suffix == ".pt":
        save_state(plain, path)
    else:
        raise WeightsError(f"{path} has no ending of a weight file; name it .pt or .safetensors.")


def as_stored(state: Mapping[str, Tensor], what: str, half: bool = False) -> dict[str, Tensor]:
    """
    Weights as their file holds them, in order and on the CPU.

    Args:
        state: tensors by name.
        what: what they are, for the message.
        half: as of `save_weights`.

    Raises:
        WeightsError: if a value is NaN, infinite, a variance below zero, or too large for float16.
    """
    check_finite(state, what, "do not release these weights")
    plain = {key: state[key].detach().cpu().clone().contiguous() for key in sorted(state)}
    if half:
        plain = {key: t.half() if t.is_floating_point() and t.ndim > 1 else t for key, t in plain.items()}
        check_finite(plain, f"{what} in float16", "leave out --half (half=False)")
    return plain


def save_state(state: Mapping[str, Any], path: str | Path) -> None:
    """
    Write tensors and plain values with ``torch.save``; a reader finds the old file or the whole new one.

    Args:
        state: nested mappings and lists of tensors, numbers and text.
        path: the file; its folder is made if need be.

    Raises:
        OutputError: if the file cannot be written.
    """
    # Into a stream: given a path, torch writes its name into the file, and the bytes depend on it.
    with written_whole(path) as part, open(part, "wb") as stream:
        try:
            torch.save(state, stream)
            sync(stream)
        except RuntimeError as error:
            # torch tells only that its archive is broken; what came before tells why.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def sha256(path: str | Path) -> str:
    """
    The SHA-256 of a file in lower-case hexadecimal.

    Args:
        path: any file.

    Raises:
        WeightsError: if it cannot be read.
    """
    with reading(path):
        return files.sha256(path)


def restore_shipped(bundle_root: str | Path) -> Path:
    """
    Bring back a bundle's weights as released, after fine-tuning replaced them.

    Args:
        bundle_root: the bundle's folder; its ``models/model.safetensors`` becomes ``models/model.pt``.

    Returns:
        The path of ``models/model.pt``, which has the values and precision of the released file.

    Raises:
        WeightsError: if the released file is missing, damaged, or not the one that metadata.json names by
            its SHA-256; ``model.pt`` is then unchanged.
        UsageError: if metadata.json is missing or damaged.
        OutputError: if ``model.pt`` cannot be written.
    """
    current = Path(bundle_root, CURRENT)
    released = released_sha256(bundle_root).get(Path(SHIPPED).name)
    state = read_state(Path(bundle_root, SHIPPED), released)
    if released is None:
        raise WeightsError(
            f"{Path(bundle_root, SHIPPED)} cannot be checked: the bundle's metadata.json names no SHA-256 "
            f"of it (weights_sha256); add it if you trust the file."
        )
    save_weights(state, current)
    return current


def released_sha256(bundle_root: str | Path) -> dict[str, str]:
    """
    The SHA-256 of each weight file a bundle was released with, by file name.

    Args:
        bundle_root: the bundle's folder; ``weights_sha256`` of its metadata.json is read.

    Returns:
        In lower-case hexadecimal, as `sha256` gives it; nothing where metadata.json says nothing of it.

    Raises:
        UsageError: if metadata.json cannot be read, or has something else there.
    """
    metadata = Path(bundle_root, "configs", "metadata.json")
    if not metadata.is_file():
        return {}
    hashes = read_metadata(bundle_root).get("weights_sha256", {})
    if not isinstance(hashes, dict) or not all(isinstance(digest, str) for digest in hashes.values()):
        raise UsageError(
            f"{metadata}: weights_sha256 does not give the SHA-256 of each weight file as text by its name: "
            f"correct it."
        )
    return {name: digest.strip().lower() for name, digest in hashes.items()}


def read_state(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The state dict of a file in the file's own precision; arguments and errors as `load_weights`."""
    path = Path(path)
    with reading(path):
        data = path.read_bytes()
    # What is checked is what is loaded: the file is read once. MONAI's command line makes digits a number.
    if sha256 is not None and hashlib.sha256(data).hexdigest() != str(sha256).strip().lower():
        raise WeightsError(
            f"{path} is not the file that was released or asked for (its SHA-256 is not {sha256}): get it "
            f"again."
        )
    return read_safetensors(data, path) if path.suffix == ".safetensors" else read_torch(data, path)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """What is read of a weight file in here, or a `WeightsError` that says why it cannot be."""
    try:
        yield
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} is missing: check the path, or get the bundle's weights again."
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror}); give a weight file that you may read."
        ) from error


def read_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file's bytes; ``path`` is for the message."""
    try:
        state = safetensors.torch.load(data)
    except Exception as error:  # the reader's own error class is no part of its interface
        raise damaged(path) from error
    return plain_state(state, path)


def read_torch(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a ``torch.save`` file's bytes; ``path`` is for the message."""
    if data[:2] == b"PK" and not intact_archive(data):
        raise damaged(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is said below, once
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (name := re.search(r"GLOBAL ([\w.]+)", str(error))) is None:
            raise damaged(path) from error
        raise WeightsError(
            f"{path} holds more than tensors ({name[1]}), which could run code when loaded; "
            f"ask its author for a plain state dict or a .safetensors file."
        ) from error
    except Exception as error:  # a damaged file raises whatever its broken part leads to
        if "TorchScript" in str(error):
            raise WeightsError(
                f"{path} is a TorchScript program, not weights; use the bundle's model.pt instead."
            ) from error
        raise damaged(path) from error
    return plain_state(state, path)


def intact_archive(data: bytes) -> bool:
    """Whether every entry of a zip archive has its check sum, which ``torch.load`` does not look at."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.testzip() is None
    except Exception:  # whatever its broken part leads to, with whatever compression
        return False


def damaged(path: Path) -> WeightsError:
    """The error for a file that is no weight file, or no longer one."""
    return WeightsError(f"{path} is damaged, incomplete or not a weight file; download it again.")


def plain_state(state: Any, path: Path) -> dict[str, Tensor]:
    """``state`` if it is tensors by name, or a `WeightsError` that says where they are instead."""
    if not isinstance(state, Mapping):
        raise WeightsError(
            f"{path} holds a {type(state).__name__}, not a state dict; save network.state_dict()."
        )
    if not state:
        raise WeightsError(f"{path} holds no weights at all; save network.state_dict().")
    for key, value in state.items():
        if isinstance(value, Mapping) and value and all(isinstance(t, Tensor) for t in value.values()):
            raise WeightsError(
                f"{path} is a training checkpoint with the weights under the key {key!r}; "
                f"save that entry alone with torch.save(checkpoint[{key!r}], ...)."
            )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path} is not a plain state dict ({key!r} is a {type(value).__name__}); "
                f"save network.state_dict() alone."
            )
    return dict(state)


def check_finite(state: Mapping[str, Tensor], what: str, remedy: str) -> None:
    """
    Raise a `WeightsError`, of ``what`` and ``remedy``, if a tensor holds NaN or infinite values, or a
    variance below zero, whose root is NaN.
    """
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{what} has NaN or infinite values in {key}; {remedy}.")
        if key.endswith("running_var") and not tensor.is_complex() and (tensor < 0).any():
            raise WeightsError(f"{what} has variances below zero in {key}; {remedy}.")


def guess_network(state: Mapping[str, Tensor]) -> str | None:
    """The network of this package whose tensors' names these weights mostly have, or None."""
    with torch.device("meta"):  # names only: no memory, no time for values
        networks = {
            "X-Net": XNet(),
            "X-Net with the softmax FSM": XNet(fsm="softmax"),
            "X-Net without FSM": XNet(fsm=None),
            "CNN-Res": CNNRes(),
        }
    names = {name: set(network.state_dict()) for name, network in networks.items()}
    alike = {name: len(keys & state.keys()) / len(keys | state.keys()) for name, keys in names.items()}
    best = max(alike, key=lambda name: alike[name])
    return best if alike[best] > 0.5 else None

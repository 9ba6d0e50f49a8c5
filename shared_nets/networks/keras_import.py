"""Weights of the original Keras X-Net (github.com/Andrewsher/X-Net) for our ``XNet``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from shared_nets.errors import WeightsError
from shared_nets.networks.fsm import FeatureSimilarityModule
from shared_nets.networks.xnet import XNet


def load_keras_weights(net: XNet, arrays: Sequence[ArrayLike]) -> None:
    """
    Fill ``net`` with the weights of the original Keras X-Net.

    Args:
        net: an ``XNet(fsm="dot")``, the form of the authors' code. Left as it was if an array does not fit.
        arrays: what the Keras model's ``get_weights()`` returns, in its order and layouts: 393 arrays.
            They are read as float32.

    Raises:
        WeightsError: if ``net`` has another FSM, the number of arrays differs, or one does not fit; the
            message names the first that does not.
    """
    if not isinstance(net.fsm, FeatureSimilarityModule) or net.fsm.similarity != "dot":
        raise WeightsError('the Keras X-Net has the FSM of the authors\' code: load it into XNet(fsm="dot").')
    state = net.state_dict()
    keys = list(keras_order(net))
    if len(arrays) != len(keys):
        raise WeightsError(
            f"these are not the weights of the Keras X-Net, which has {len(keys)} arrays, not {len(arrays)}."
        )
    for index, (key, array) in enumerate(zip(keys, arrays, strict=True)):
        values = to_torch_layout(array, depthwise=key.endswith("depthwise.weight"))
        if values is None or values.shape != state[key].shape:
            found = "not numbers" if values is None else f"of shape {np.shape(array)}"
            raise WeightsError(
                f"array {index} of the Keras weights, {found}, does not fit {key}, "
                f"of shape {tuple(state[key].shape)}: is it an X-Net with these input and output channels?"
            )
        if not values.isfinite().all():
            raise WeightsError(
                f"array {index} of the Keras weights, for {key}, has values that are not finite: "
                f"take a checkpoint from before the training diverged."
            )
        state[key] = values
    net.load_state_dict(state)


def read_keras_h5(path: str | os.PathLike[str]) -> list[np.ndarray]:
    """
    Read the weights of a Keras model in the order of its ``get_weights()``.

    Args:
        path: HDF5 file written by Keras' ``save_weights`` or ``save``.

    Returns:
        The arrays, layer by layer, in Keras' layouts.

    Raises:
        WeightsError: if the file is missing, not HDF5, damaged, or not written by Keras.
    """
    import h5py  # here, so that the networks work where h5py is not installed

    path = Path(path)
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise WeightsError(f"{path} is not a file that can be read: give the .h5 file that Keras saved.")
    try:
        if not h5py.is_hdf5(path):
            raise WeightsError(f"{path} is not an HDF5 file: give the .h5 file that Keras saved.")
        with h5py.File(path, "r") as file:
            model = file.get("model_weights", file)
            if "layer_names" not in model.attrs:
                raise WeightsError(
                    f"{path} is HDF5 but does not list a Keras model's layers: "
                    f"save the model with Keras 2, or with Keras 3's model.save('model.h5')."
                )
            layers = [model[text(name)] for name in model.attrs["layer_names"]]
            return [layer[text(name)][()] for layer in layers for name in layer.attrs["weight_names"]]
    except (OSError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path} is damaged or was cut short: copy or save it again.") from error


def keras_order(net: XNet) -> Iterator[str]:
    """The keys of ``net.state_dict()`` in the order of the Keras model's ``get_weights()``."""
    for name in keras_layers():
        layer = net.get_submodule(name)
        yield f"{name}.weight"
        if layer.bias is not None:
            yield f"{name}.bias"
        if isinstance(layer, nn.BatchNorm2d):
            yield f"{name}.running_mean"
            yield f"{name}.running_var"


def keras_layers() -> Iterator[str]:
    """Names of the layers that hold weights, in the Keras model's order."""
    for level in (1, 2, 3, 4, 5):
        yield from keras_xblock(f"encoder{level}")
    yield from ("fsm.reduce.conv", "fsm.reduce.norm")
    yield from ("fsm.alpha", "fsm.beta", "fsm.value", "fsm.project")
    yield from ("fsm.expand.conv", "fsm.expand.norm")
    for level in (4, 3, 2, 1):
        yield from (f"up{level}.conv", f"up{level}.norm")
        yield from keras_xblock(f"decoder{level}")
    yield "head"


def keras_xblock(block: str) -> Iterator[str]:
    """Names of an X-block's layers in the Keras model's order."""
    for i in (0, 1):
        for layer in ("depthwise", "depthwise_norm", "pointwise", "pointwise_norm"):
            yield f"{block}.main.{i}.{layer}"
    yield from (f"{block}.main.2.depthwise", f"{block}.main.2.depthwise_norm")
    # Keras sorts layers by their depth from the output: here the two branches are level with each other.
    yield from (f"{block}.main.2.pointwise", f"{block}.shortcut.conv")
    yield from (f"{block}.main.2.pointwise_norm", f"{block}.shortcut.norm")


def to_torch_layout(array: ArrayLike, depthwise: bool) -> Tensor | None:
    """
    A Keras array as a float32 tensor in torch's layout, or None if it does not hold numbers.

    Kernels ``(H, W, in, out)`` become ``(out, in, H, W)``, depthwise ``(H, W, channels, 1)`` become
    ``(channels, 1, H, W)``; vectors stay.
    """
    try:
        values = torch.from_numpy(np.array(array, dtype=np.float32))
    except (TypeError, ValueError):
        return None
    if values.dim() != 4:
        return values
    return values.permute(2, 3, 0, 1) if depthwise else values.permute(3, 2, 0, 1)


def text(name: bytes | str) -> str:
    """A name as Keras stores it in HDF5: bytes from Keras 2 with h5py 2, text from later ones."""
    return name.decode("utf-8") if isinstance(name, bytes) else name

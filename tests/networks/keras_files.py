"""Weight files as the original Keras model writes them."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import h5py
import numpy as np

from tests.networks.oracle import weights as oracle

NAMES = {
    "conv": "kernel:0",
    "depthwise": "depthwise_kernel:0",
    "bias": "bias:0",
    "bn_gamma": "gamma:0",
    "bn_beta": "beta:0",
    "bn_mean": "moving_mean:0",
    "bn_var": "moving_variance:0",
}
"""What Keras calls each kind of weight."""


def write_h5(path: Path, weights: list[oracle.Weight], group: str = "/", names: type = bytes) -> Path:
    """What Keras 2 writes: ``save_weights`` at the root, ``save`` in the group model_weights."""

    def stored(texts: list[str]) -> np.ndarray | list[str]:
        return np.array([text.encode() for text in texts], dtype="S") if names is bytes else texts

    with h5py.File(path, "w") as file:
        if group != "/":
            file.create_group("optimizer_weights").attrs["weight_names"] = stored(["Adam/iterations:0"])
        model = file.require_group(group)
        layers = ["input_1"]
        model.create_group("input_1").attrs["weight_names"] = []
        for layer, entries in groupby(weights, key=lambda weight: weight.layer):
            own = list(entries)
            layers += [layer, f"activation_{layer}"]
            model.create_group(f"activation_{layer}").attrs["weight_names"] = []
            texts = [f"{layer}/{NAMES[weight.kind]}" for weight in own]
            model.create_group(layer).attrs["weight_names"] = stored(texts)
            for text, weight in zip(texts, own, strict=True):
                model[layer][text] = weight.values
        model.attrs["layer_names"] = stored(layers)
        model.attrs["backend"] = "tensorflow"
    return path

"""What a weight file is and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared_nets.bundles import check_parts, read_metadata
from shared_nets.errors import WeightsError
from shared_nets.inference.eight_bits import in_eight_bits
from shared_nets.inference.ranges import RANGES, read_ranges
from shared_nets.inference.rewrites import rewrite
from shared_nets.networks import XNet, load_keras_weights
from shared_nets.networks.keras_import import read_keras_h5
from shared_nets.release.exports import bundle_network
from shared_nets.weights import (
    CURRENT,
    SHIPPED,
    check_architecture,
    guess_network,
    load_weights,
    read_state,
    released_sha256,
    save_weights,
    sha256,
)

TOLD = (
    *("name", "version", "description", "data_source", "provenance", "eval_metrics", "intended_use"),
    "weights_license",
)
"""What metadata.json says that belongs to the weights."""


def describe(path: str | Path) -> str:
    """
    What a weight file holds; of a bundle, its weights in use and what its metadata says of them.

    Args:
        path: a ``.pt`` or ``.safetensors`` file, or a bundle's folder.

    Returns:
        Lines ``what: value`` without a trailing newline.

    Raises:
        WeightsError: if there are no weights, or they cannot be read.
        UsageError: if it is a folder, but no bundle's.
    """
    path = Path(path)
    if not path.is_dir():
        bundle = path.resolve().parents[1] if path.parent.name == "models" else None
        return "\n".join(f"{key}: {value}" for key, value in _file(path, bundle).items())
    check_parts(path, "to describe", ("configs/metadata.json",))
    metadata = read_metadata(path)
    told = {key: _text(metadata[key]) for key in TOLD if key in metadata}
    return "\n".join(f"{key}: {value}" for key, value in {**_file(path / CURRENT, path), **told}.items())


def _file(path: Path, bundle: Path | None) -> dict[str, str]:
    state = read_state(path)
    digest = sha256(path)
    released = released_sha256(bundle) if bundle else {}
    values = {key: t.numel() for key, t in state.items() if not key.endswith("num_batches_tracked")}
    statistics = sum(n for key, n in values.items() if key.endswith(("running_mean", "running_var")))
    lines = {
        "file": f"{path} ({path.stat().st_size / 1e6:.1f} MB)",
        "sha256": digest,
        "network": guess_network(state) or "none of this package's",
        "values": f"{sum(values.values()) - statistics:,} trained, {statistics:,} statistics",
        "precision": ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in state.values()})),
    }
    if released:
        same = digest in released.values()
        lines["released"] = (
            "yes, the SHA-256 is in metadata.json" if same else "no, changed since the release"
        )
    return lines


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def verify_bundle(bundle: str | Path) -> list[str]:
    """
    Check that a bundle's weights are the released ones, fit its network, and are the same in both files, and
    that the ranges, if it has any, are theirs.

    Args:
        bundle: the bundle's folder.

    Returns:
        A line on each file, when all is well.

    Raises:
        WeightsError: saying what is not.
        UsageError: if it is no bundle, or the ranges are damaged or of other weights or layers.
    """
    bundle = Path(bundle)
    network = bundle_network(bundle)
    released = released_sha256(bundle)
    states: dict[str, dict[str, Tensor]] = {}
    for name in (CURRENT, SHIPPED):
        digest = released.get(Path(name).name)
        if digest is None:
            raise WeightsError(
                f"{bundle}: metadata.json names no SHA-256 of {name} (weights_sha256); add it."
            )
        states[name] = load_weights(bundle / name, digest)
        check_architecture(network, states[name], bundle / name)
    for key, tensor in states[CURRENT].items():
        if not torch.equal(tensor, states[SHIPPED][key]):
            raise WeightsError(
                f"{bundle}: {CURRENT} and {SHIPPED} differ in {key}; "
                f"bring the first back with strokeseg weights restore."
            )
    lines = [f"{bundle / name}: {released[Path(name).name]}, as released" for name in states]
    if (bundle / RANGES).is_file():
        in_eight_bits(rewrite(network), read_ranges(bundle / RANGES, states[CURRENT]))
        lines.append(f"{bundle / RANGES}: of these weights")
    return lines


def convert_weights(source: str | Path, output: str | Path, half: bool = False) -> Path:
    """
    Write the weights of a file under another name and ending, each tensor in its own precision.

    Args:
        source: a ``.pt`` or ``.safetensors`` file.
        output: a file with either ending.
        half: store kernels as float16.

    Returns:
        ``output``.

    Raises:
        WeightsError: if the weights cannot be read, are not finite, or ``output`` has another ending.
        OutputError: if it cannot be written.
    """
    save_weights(read_state(source), output, half=half)
    return Path(output)


def import_keras(source: str | Path, output: str | Path) -> Path:
    """
    Convert a weight file of the original Keras X-Net to weights of ``XNet()``.

    Args:
        source: HDF5 file written by Keras' ``save_weights`` or ``save``.
        output: a ``.pt`` or ``.safetensors`` file. It appears only when complete; a file of this name is
            replaced, missing folders are made.

    Returns:
        ``output``.

    Raises:
        WeightsError: if ``source`` is missing, not HDF5, not written by Keras, or not an X-Net, or ``output``
            has another ending.
        OutputError: if ``output`` cannot be written.
    """
    network = XNet()
    try:
        load_keras_weights(network, read_keras_h5(source))
    except WeightsError as error:
        raise WeightsError(f"{source} cannot be imported: {error}") from error
    save_weights(network.state_dict(), output)
    return Path(output)

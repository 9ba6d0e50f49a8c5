"""A bundle's network with its weights as one file for other runtimes: TorchScript, ONNX, OpenVINO."""

from __future__ import annotations

import io
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import save_net_with_metadata
from torch import nn

from shared_nets import NOTICE
from shared_nets.bundles import check_parts, read_metadata
from shared_nets.errors import UsageError
from shared_nets.files import write_bytes
from shared_nets.inference.backends import import_openvino
from shared_nets.versions import check_version
from shared_nets.weights import CURRENT, load_into, released_sha256, sha256

INPUT, OUTPUT = "image", "pred"
OF_ITS_WEIGHTS = ("changelog", "data_source", "eval_metrics", "provenance", "weights_license")
"""What metadata.json says of the bundle's own weights, besides their SHA-256 and the description."""


def export_network(bundle: str | Path, path: str | Path, weights: str | Path | None = None) -> Path:
    """
    Write a bundle's network for another runtime, the format told by the file's ending.

    All take ``image`` (N, channels, H, W), float32 of 0–1, any N, H and W multiples of 16, and give
    ``pred`` (N, 1, H, W), logits. What stands around the network (resampling, scaling, windows, threshold)
    is in the bundle's inference.json, which the TorchScript file holds with the metadata. Of weights other
    than those released with the bundle, the file tells the SHA-256, and nothing that holds of the bundle's.

    Args:
        bundle: the bundle's folder.
        path: ``.ts`` TorchScript, ``.onnx`` ONNX, ``.xml`` OpenVINO (with a ``.bin`` beside it).
        weights: the weights; by default the bundle's ``models/model.pt``.

    Returns:
        ``path``.

    Raises:
        UsageError: if the ending is another one, the folder is no bundle, or the format's package is missing.
        WeightsError: if the weights cannot be loaded into the network.
        OutputError: if the file cannot be written.
    """
    bundle, path = Path(bundle), Path(path)
    torchscript = partial(_torchscript, bundle / "configs" / "inference.json")
    writers: dict[str, Callable[..., None]] = {".ts": torchscript, ".onnx": _onnx, ".xml": _openvino}
    if path.suffix not in writers:
        raise UsageError(f"{path} has no ending of an export; name it .ts, .onnx or .xml (OpenVINO).")
    check_parts(bundle, "to export", ("configs/inference.json", "configs/metadata.json"))
    weights = Path(weights or bundle / CURRENT)
    network = load_into(bundle_network(bundle), weights).eval()
    metadata = _metadata(bundle, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the checks of an input's size are not part of the graph
        writers[path.suffix](network, metadata, path)
    return path


def bundle_network(bundle: str | Path) -> nn.Module:
    """
    The network that a bundle's inference.json defines, without its weights.

    Args:
        bundle: the bundle's folder.

    Raises:
        UsageError: if the folder is no bundle, or made for another version of this package.
    """
    check_parts(Path(bundle), "to build a network from", ("configs/inference.json",))
    check_version(Path(bundle))
    parser = ConfigParser()
    parser.read_config(Path(bundle, "configs", "inference.json"))
    parser["bundle_root"] = str(bundle)
    return parser.get_parsed_content("network_def")


def describe(metadata: dict[str, Any], weights: str) -> str:
    """
    A bundle's description with other weights.

    Args:
        metadata: the content of metadata.json, whose description says in its first sentence what the network
            does, whatever its weights.
        weights: what the weights are, in a sentence.
    """
    first = metadata["description"].split(". ")[0].rstrip(".")
    return f"{first}. {weights} {NOTICE}"


def _metadata(bundle: Path, weights: Path) -> dict[str, Any]:
    """What the bundle tells of itself, with these weights."""
    metadata = read_metadata(bundle)
    digest = sha256(weights)
    if digest in released_sha256(bundle).values():
        return metadata
    metadata = {key: value for key, value in metadata.items() if key not in OF_ITS_WEIGHTS}
    described = describe(metadata, f"Weights with the SHA-256 {digest}, not those of the bundle's release.")
    return metadata | {"description": described, "weights_sha256": {weights.name: digest}}


def _torchscript(config: Path, network: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    """As ``monai.bundle ckpt_export`` does it: metadata.json and inference.json are in the file."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, path.name)
        save_net_with_metadata(
            torch.jit.script(network),
            str(made),
            include_config_vals=False,
            append_timestamp=False,
            meta_values=metadata,
            more_extra_files={config.name: config.read_bytes()},
        )
        write_bytes(path, _without_source_paths(made))


def _without_source_paths(made: Path) -> bytes:
    """A TorchScript file's bytes without what its errors would tell: where the source lies on a machine."""
    content = io.BytesIO()
    with zipfile.ZipFile(made) as told, zipfile.ZipFile(content, "w") as plain:
        for name in told.namelist():
            # The second is a sum over all entries, the first among them; neither is needed.
            if not name.endswith((".debug_pkl", ".data/serialization_id")):
                entry = zipfile.ZipInfo(name)  # of 1 January 1980
                entry.create_system = 3  # POSIX, whatever this system is
                plain.writestr(entry, told.read(name))
    return content.getvalue()


def _onnx(network: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    onnx = _package("onnx")
    free = {0: "batch", 2: "height", 3: "width"}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, path.name)
        torch.onnx.export(
            network,
            (_example(metadata),),
            str(made),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: free, OUTPUT: free},
            # The exporter through torch.export takes ten times as long, for the same graph.
            dynamo=False,
        )
        model = onnx.load(str(made))
    onnx.helper.set_model_props(
        model, {key: str(metadata[key]) for key in ("name", "version", "description")}
    )
    write_bytes(path, model.SerializeToString())


def _openvino(network: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    openvino = _package("openvino")
    example = _example(metadata)
    free = [-1, example.shape[1], -1, -1]
    model = openvino.convert_model(network, example_input=example, input=[free])
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, path.name)
        openvino.save_model(model, made, compress_to_fp16=False)
        for ending in (".bin", ".xml"):  # whoever sees the .xml finds its values
            write_bytes(path.with_suffix(ending), made.with_suffix(ending).read_bytes())


def _example(metadata: dict[str, Any]) -> torch.Tensor:
    """An input of the network, not square and of several slices, so that no size is taken for fixed."""
    channels = metadata["network_data_format"]["inputs"][INPUT]["num_channels"]
    return torch.rand(2, channels, 32, 48)


def _package(name: str) -> Any:
    try:
        return import_openvino() if name == "openvino" else import_module(name)
    except ImportError as error:
        raise UsageError(f"This export needs the package {name}: pip install {name}.") from error

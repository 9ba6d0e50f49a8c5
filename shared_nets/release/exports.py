"""A bundle's network with its weights as one file for other runtimes: TorchScript, ONNX, OpenVINO."""

from __future__ import annotations

import json
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import save_net_with_metadata
from torch import nn

from shared_nets.errors import UsageError
from shared_nets.files import write_bytes
from shared_nets.inference.backends import forbid_telemetry
from shared_nets.release.weights import CURRENT, load_into

INPUT, OUTPUT = "image", "pred"


def export_network(bundle: str | Path, path: str | Path, weights: str | Path | None = None) -> Path:
    """
    Write a bundle's network for another runtime, the format told by the file's ending.

    All take ``image`` (N, channels, H, W), float32 of 0–1, any N, H and W multiples of 16, and give
    ``pred`` (N, 1, H, W), logits. What stands around the network (resampling, scaling, windows, threshold)
    is in the bundle's inference.json, which the TorchScript file holds with the metadata.

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
    writers = {".ts": _torchscript, ".onnx": _onnx, ".xml": _openvino}
    if path.suffix not in writers:
        raise UsageError(f"{path} has no ending of an export; name it .ts, .onnx or .xml (OpenVINO).")
    network = load_into(bundle_network(bundle), weights or bundle / CURRENT).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the checks of an input's size are not part of the graph
        writers[path.suffix](network, bundle, path)
    return path


def bundle_network(bundle: str | Path) -> nn.Module:
    """
    The network that a bundle's inference.json defines, without its weights.

    Args:
        bundle: the bundle's folder.

    Raises:
        UsageError: if the folder is no bundle.
    """
    config = Path(bundle, "configs", "inference.json")
    if not config.is_file():
        raise UsageError(f"{bundle} is no bundle (no configs/inference.json): name a bundle's folder.")
    parser = ConfigParser()
    parser.read_config(config)
    parser["bundle_root"] = str(bundle)
    return parser.get_parsed_content("network_def")


def _torchscript(network: nn.Module, bundle: Path, path: Path) -> None:
    """As ``monai.bundle ckpt_export`` does it: metadata.json and inference.json are in the file."""
    configs = {name: (bundle / "configs" / name).read_text() for name in ("metadata.json", "inference.json")}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, path.name)
        save_net_with_metadata(
            torch.jit.script(network),
            str(made),
            include_config_vals=False,
            append_timestamp=False,
            meta_values=json.loads(configs["metadata.json"]),
            more_extra_files={"inference.json": configs["inference.json"].encode()},
        )
        write_bytes(path, made.read_bytes())


def _onnx(network: nn.Module, bundle: Path, path: Path) -> None:
    onnx = _package("onnx")
    free = {0: "batch", 2: "height", 3: "width"}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, path.name)
        torch.onnx.export(
            network,
            (_example(bundle),),
            str(made),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: free, OUTPUT: free},
            # The exporter through torch.export takes ten times as long, for the same graph.
            dynamo=False,
        )
        model = onnx.load(str(made))
    metadata = _metadata(bundle)
    onnx.helper.set_model_props(
        model, {key: str(metadata[key]) for key in ("name", "version", "description")}
    )
    write_bytes(path, model.SerializeToString())


def _openvino(network: nn.Module, bundle: Path, path: Path) -> None:
    forbid_telemetry()
    openvino = _package("openvino")
    example = _example(bundle)
    free = [-1, example.shape[1], -1, -1]
    model = openvino.convert_model(network, example_input=example, input=[free])
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, path.name)
        openvino.save_model(model, made, compress_to_fp16=False)
        for ending in (".bin", ".xml"):  # whoever sees the .xml finds its values
            write_bytes(path.with_suffix(ending), made.with_suffix(ending).read_bytes())


def _example(bundle: Path) -> torch.Tensor:
    """An input of the network, not square and of several slices, so that no size is taken for fixed."""
    channels = _metadata(bundle)["network_data_format"]["inputs"][INPUT]["num_channels"]
    return torch.rand(2, channels, 32, 48)


def _metadata(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(f"This export needs the package {name}: pip install {name}.") from error

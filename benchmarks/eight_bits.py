"""
A network in 8 bits by OpenVINO and NNCF, beside float32 and bfloat16: Dice and time on simulated cases.

    pip install nncf
    strokeseg simulate --model xnet --masks MASKS --not-held-out --seed 1 --cases 8 --output CALIBRATION
    strokeseg simulate --model xnet --masks MASKS --held-out --cases 30 --output TEST
    OMP_NUM_THREADS=1 python benchmarks/eight_bits.py --model xnet --calibration CALIBRATION --dataset TEST

Weights and activations are rounded by what the network sees of the calibration's cases (NNCF's mixed
preset); once all layers, once without the first convolution, the last two and the products of matrices.
Prints the mean Dice, its largest change of a case, and the network's CPU time a slice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import torch
import typer
from choose_settings import in_folder
from torch import Tensor, nn

from shared_nets import LesionSegmenter
from shared_nets.bundles import Model
from shared_nets.evaluation.metrics import case_metrics
from shared_nets.inference import backends
from shared_nets.inference.backends import CompiledNetwork

SLICES = 300
"""Of the calibration's cases, drawn at random."""


def main(
    model: Annotated[Model, typer.Option(help="Which bundle.")],
    calibration: Annotated[Path, typer.Option(help="Folder that `strokeseg simulate` wrote.")],
    dataset: Annotated[Path, typer.Option(help="Another such folder, of held-out masks.")],
) -> None:
    """Run all ways and print what came of them."""
    seen = np.concatenate(watched(model, calibration)[2])
    chosen = seen[np.random.default_rng(0).permutation(len(seen))[:SLICES]]
    exact, took, _ = watched(model, dataset)
    print(f"float32: Dice {exact.mean():.4f}, {took:.1f} ms a slice")
    ways: dict[str, tuple[dict[str, Any], Callable[..., Any] | None]] = {
        "bfloat16": ({"cpu_bfloat16": True}, None),
        "8 bits": ({}, in_eight_bits(chosen, keep=False)),
        "8 bits, but for the ends and products": ({}, in_eight_bits(chosen, keep=True)),
    }
    for name, (settings, compile_network) in ways.items():
        with patch.object(backends, "_openvino", compile_network or backends._openvino):
            dice, took, _ = watched(model, dataset, **settings)
        change = np.abs(dice - exact).max()
        print(f"{name}: Dice {dice.mean():.4f}, a case by {change:.3f} at most, {took:.1f} ms a slice")


def watched(model: Model, folder: Path, **settings: Any) -> tuple[Any, float, list[Any]]:
    """Dice of a folder's cases, ms of CPU a slice, and what the network was given."""
    spent: list[float] = []
    slices: list[Any] = []
    forward = CompiledNetwork.forward

    def measured(network: CompiledNetwork, x: Tensor) -> Tensor:
        start = time.process_time()
        logits = forward(network, x)
        spent.append(time.process_time() - start)
        slices.append(x.numpy().copy())
        return logits

    dice = []
    with patch.object(CompiledNetwork, "forward", measured):
        segmenter = LesionSegmenter(model.value, backend="openvino", device="cpu", **settings)
        for case in cases_of(folder):
            mask = segmenter.predict(in_folder(folder, case["image"])).mask
            label = np.asarray(nib.load(folder / case["label"]).dataobj)
            dice.append(case_metrics(mask.dataobj, label, mask.affine)["dice"])
            if len(dice) == 1:  # the first also compiles
                spent.clear()
                first = sum(map(len, slices))
    return np.array(dice), 1000 * sum(spent) / (sum(map(len, slices)) - first), slices


def cases_of(folder: Path) -> list[dict[str, Any]]:
    """All cases of a simulated dataset."""
    sections = json.loads((folder / "datalist.json").read_text())
    return [case for name in ("training", "validation", "test") for case in sections.get(name, [])]


def in_eight_bits(slices: Any, keep: bool) -> Callable[[nn.Module, Tensor], Callable[[Any], Any]]:
    """How OpenVINO takes a network, rounded to 8 bits; with ``keep`` some layers stay as they are."""
    import nncf

    def compile_network(network: nn.Module, example: Tensor) -> Callable[[Any], Any]:
        traced = torch.jit.trace(network, example, check_trace=False)
        plain = backends.import_openvino().convert_model(traced, input=[-1, *example.shape[1:]])
        layers = {"Convolution", "ConvolutionBackpropData", "GroupConvolution"}
        convolutions = [
            op.get_friendly_name() for op in plain.get_ordered_ops() if op.get_type_name() in layers
        ]
        products = [
            op.get_friendly_name() for op in plain.get_ordered_ops() if op.get_type_name() == "MatMul"
        ]
        kept = [*products, convolutions[0], *convolutions[-2:]] if keep else []
        rounded = nncf.quantize(
            plain, nncf.Dataset([one[None] for one in slices]), preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(slices), ignored_scope=nncf.IgnoredScope(names=kept),
        )  # fmt: skip
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        request = backends._openvino_core().compile_model(rounded, "CPU", settings).create_infer_request()
        return lambda x: request.infer([x], share_inputs=True)[0]

    return compile_network


if __name__ == "__main__":
    typer.run(main)

"""
Seconds of a batch of slices: a network as it is trained, rewritten, on each backend, beside others.

    python benchmarks/network.py --model xnet --size 224 192
    python benchmarks/network.py --model cnnres --size 160 160

Everything alternates in one run and the table gives medians: other programs on the machine disturb all
alike. One thread is measured in CPU seconds; more (``--threads``), which need a quiet machine, by the clock.
Weights are random, and 8 bits are scaled by the slices themselves: their figures are of speed alone.
``--keras PYTHON`` adds the authors' Keras model, run by a Python that has TensorFlow.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_nets import CNNRes, UNet, XNet
from shared_nets.bundles import MODALITIES, CpuPrecision, Model
from shared_nets.errors import UsageError
from shared_nets.inference import for_inference, rewrite
from shared_nets.inference.backends import BACKENDS_OF, CompiledNetwork
from shared_nets.inference.eight_bits import watched
from shared_nets.inference.ranges import write_ranges
from shared_nets.networks.upsampling import UpConv


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=[model.value for model in MODALITIES], default="xnet")
    parser.add_argument("--size", type=int, nargs=2, default=(224, 192))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keras", type=Path, metavar="PYTHON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    x = torch.rand(options.batch, len(MODALITIES[Model(options.model)]), *options.size)

    run = candidates(options.model, x)
    if options.keras:
        run["original Keras"] = keras(options.keras, x.shape, options.threads)
    seconds: dict[str, list[float]] = {name: [] for name in run}
    with torch.inference_mode():
        expected = run["PyTorch, as trained"](x)[0].sigmoid()
        for name, compute in run.items():  # compiles what compiles
            output, _ = compute(x)
            if output is not None and name in LIKE_OURS:
                print(f"{name}: probabilities differ by {(output.sigmoid() - expected).abs().max():.1e}")
        for _ in range(options.repeats):
            for name, compute in run.items():
                seconds[name].append(compute(x)[1])
    median = {name: statistics.median(values) for name, values in seconds.items()}
    size = "×".join(map(str, options.size))
    print(f"\n{options.model}, {options.batch} slices of {size}, threads: {options.threads}\n")
    unit = "CPU seconds" if options.threads == 1 else "seconds"
    print(f"| network | {unit} | times as fast as PyTorch |\n| --- | --- | --- |")
    for name, value in median.items():
        print(f"| {name} | {value:.2f} | {median['PyTorch, as trained'] / value:.2f} |")


Compute = Callable[[Tensor], tuple[Tensor | None, float]]
OURS = {
    f"{backend}, {precision.value}": (backend, precision.value)
    for precision in CpuPrecision
    for backend in reversed(BACKENDS_OF[precision])
}
"""By name: the backend, and what it computes in."""
LIKE_OURS = ("PyTorch, upsampling then 3×3", *OURS)


def candidates(model: str, x: Tensor) -> dict[str, Compute]:
    """Functions from slices like these to logits and the CPU seconds they took, by name."""
    torch.manual_seed(0)
    net = (XNet if model == "xnet" else CNNRes)().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # outputs that a sigmoid does not flatten
            module.running_var.fill_(2.0)
    run = {"PyTorch, as trained": timed(net)}
    if model == "xnet":
        run["PyTorch, upsampling then 3×3"] = timed(plainly_upsampled(net))
    fast = rewrite(net)
    with TemporaryDirectory() as folder, torch.inference_mode(), watched(fast) as seen:
        fast(x.repeat(20, 1, 1, 1)[:20])
        write_ranges(Path(folder, "ranges.json"), net.state_dict(), seen)
        for name, (backend, precision) in OURS.items():
            try:
                ours = for_inference(
                    net, backend, cpu_precision=precision, ranges=Path(folder, "ranges.json")
                )
            except UsageError as error:  # no instructions for it, or no OpenVINO
                print(f"{name}: {error}")
                continue
            if backend == "torch" or isinstance(ours, CompiledNetwork):
                run[name] = timed(ours)
    if model == "cnnres":
        run["U-Net of 31 M values, PyTorch"] = timed(UNet(in_channels=2).eval())
    return run


def timed(net: nn.Module) -> Compute:
    def compute(x: Tensor) -> tuple[Tensor, float]:
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        output = net(x)
        return output, clock() - start

    return compute


def plainly_upsampled(net: nn.Module) -> nn.Module:
    """X-Net with its up-convolutions as two operations, as the authors write them."""

    class Plain(UpConv):
        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(F.interpolate(input, scale_factor=2.0), self.weight, self.bias, padding=1)

    plain = XNet().eval()
    plain.load_state_dict(net.state_dict())
    for module in plain.modules():
        if isinstance(module, UpConv):
            module.__class__ = Plain
    return plain


def keras(python: Path, shape: torch.Size, threads: int) -> Compute:
    """The Keras model in a process of its own, which runs a batch for every line it reads."""
    script = Path(__file__).with_name("keras_xnet.py")
    process = subprocess.Popen(
        [python, script, *map(str, (shape[0], *shape[2:])), "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told = process.stdin, process.stdout

    def compute(x: Tensor) -> tuple[None, float]:
        told[0].write("run\n")
        return None, float(told[1].readline())

    return compute


if __name__ == "__main__":
    main()

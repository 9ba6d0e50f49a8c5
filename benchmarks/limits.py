"""
What a device's arithmetic and memory allow at best: products and values moved of the rewritten network.

    python benchmarks/limits.py --model xnet --size 224 192 --slices 189 --tflops 990 --terabytes 3.35

Nothing is run. Every operation reads its inputs and writes its output once, in two bytes a value; a ReLU is
part of the operation before it. The default device is NVIDIA's H100 SXM: bfloat16 without sparsity, and its
memory's bandwidth, as its data sheet tells them.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from shared_nets import CNNRes, XNet
from shared_nets.inference import rewrite

NETWORKS = {"xnet": XNet, "cnnres": CNNRes}
MOVING = ("convolution", "max_pool2d_with_indices", "cat", "add", "add_", "bmm", "upsample_nearest2d")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=NETWORKS, default="xnet")
    parser.add_argument("--size", type=int, nargs=2, default=(224, 192))
    parser.add_argument("--slices", type=int, default=189)
    parser.add_argument("--tflops", type=float, default=990.0)
    parser.add_argument("--terabytes", type=float, default=3.35, help="a second, from memory")
    options = parser.parse_args()
    with torch.device("meta"):  # shapes without values
        net = NETWORKS[options.model]().eval()
        x = torch.rand(1, net.in_channels, *options.size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, Moved() as moved:
        rewrite(net)(x)
    flop, values = counter.get_total_flops(), moved.values
    print(f"a slice: {flop / 2e9:.2f} GMACs, {values / 1e6:.0f} M values moved")
    arithmetic = 1000 * options.slices * flop / (options.tflops * 1e12)
    memory = 1000 * options.slices * values * 2 / (options.terabytes * 1e12)
    print(f"{options.slices} slices: {arithmetic:.1f} ms of arithmetic, {memory:.1f} ms of memory")


class Moved(TorchDispatchMode):
    """Counts the activations that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in MOVING:
            first = output[0] if isinstance(output, tuple) else output
            # A convolution's kernel and bias stay in the caches from slice to slice.
            read = args[:1] if func.overloadpacket.__name__ == "convolution" else args
            self.values += first.numel() + sum(tensor.numel() for tensor in _tensors(read))
        return output


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [t for value in values for t in _tensors(value)] if isinstance(values, (list, tuple)) else []


if __name__ == "__main__":
    main()

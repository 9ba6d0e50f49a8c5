"""What computes the network: PyTorch, or on a CPU OpenVINO or ONNX Runtime, all from the same rewrites."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared_nets.bundles import Backend, CpuPrecision
from shared_nets.errors import UsageError
from shared_nets.inference.eight_bits import in_eight_bits
from shared_nets.inference.ranges import read_ranges
from shared_nets.inference.rewrites import rewrite
from shared_nets.memory import keep_freed_memory
from shared_nets.precision import bfloat16_pays, has_vnni, in_bfloat16

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]

BACKENDS_OF = {
    CpuPrecision.float32: ("openvino", "onnxruntime", "torch"),
    CpuPrecision.bfloat16: ("openvino", "torch"),
    CpuPrecision.int8: ("openvino",),
}
"""What computes in what on a CPU, the fastest first; docs/performance.md tells how fast."""


def for_inference(
    network: nn.Module,
    backend: str = "auto",
    device: torch.device | str | None = None,
    cpu_precision: str = "float32",
    ranges: str | Path | None = None,
) -> nn.Module:
    """
    The same network made fast: rewritten, and computed by the backend asked for.

    In float32 all backends give the same probabilities to 1e-4. OpenVINO and ONNX Runtime are for the CPU;
    another device, or a package that is not installed, means PyTorch, and a warning if it was asked for by
    name. On a CPU the process keeps freed memory from then on, see
    :func:`~shared_nets.memory.keep_freed_memory`.

    Args:
        network: a network with its weights, which stays as it is.
        backend: ``openvino``, ``onnxruntime``, ``torch``, or ``auto``, the fastest that is installed.
        device: where it runs; where the network is by default.
        cpu_precision: what a CPU computes in: ``float32``; ``bfloat16``, in half of the time where it has
            instructions for it; or ``int8``, 8 bits, in a third by OpenVINO where it has instructions for
            them. Probabilities of single voxels move by up to a tenth in bfloat16 and a quarter in 8 bits,
            Dice on the mean by thousandths (docs/performance.md). Says nothing on a GPU.
        ranges: the file that ``int8`` needs, made of scans at the same voxel spacing, see
            :func:`~shared_nets.inference.ranges.read_ranges`.

    Returns:
        A module from ``(N, channels, H, W)`` to float32 logits ``(N, out, H, W)``, for inference only.

    Raises:
        UsageError: if there is no such backend or precision, it or the CPU cannot compute in it, or the
            ranges are missing or of other weights.
    """
    check_backend(backend)
    place = torch.device(device) if device is not None else next(network.parameters()).device
    precision = check_precision(cpu_precision, place, backend)
    fast, told = rewrite(network).to(place), precision.value
    if precision is CpuPrecision.bfloat16:
        fast = InBfloat16(fast)
    elif precision is CpuPrecision.int8:
        read = read_ranges(ranges, network.state_dict())
        fast = in_eight_bits(fast, read)
        told += f", ranges {hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()}"
    chosen = _choose(backend, place, BACKENDS_OF[precision])
    if place.type == "cpu":
        keep_freed_memory()
    fast = fast if chosen == "torch" else CompiledNetwork(fast, chosen)
    fast.computed_in = told  # type: ignore[assignment]  # a module's attribute, but neither layer nor tensor
    return fast


def computed_in(network: nn.Module, amp: bool = False) -> str:
    """
    What results shall tell of the precision: of ``int8`` also the SHA-256 of the ranges.

    Args:
        network: one that `for_inference` made.
        amp: whether the engine has a GPU compute it in bfloat16.
    """
    return CpuPrecision.bfloat16.value if amp else str(network.computed_in)


class InBfloat16(nn.Module):
    """
    A network that the CPU computes in bfloat16 wherever autocast takes that for safe.

    Args:
        network: the network, with weights of float32.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to float32 logits ``(N, out, H, W)``."""
        return in_bfloat16(self.network)(x)


def check_backend(backend: str) -> None:
    """
    Args:
        backend: a backend's name.

    Raises:
        UsageError: if there is no such backend.
    """
    names = [known.value for known in Backend]
    if backend not in names:
        raise UsageError(f"{backend}: no backend has this name; use one of {', '.join(names)}.")


def check_precision(
    cpu_precision: str, device: torch.device | str | None = None, backend: str | None = None
) -> CpuPrecision:
    """
    Make sure that a network can be computed in a precision.

    Args:
        cpu_precision: its name.
        device: where the network runs; on a GPU the name alone is looked at.
        backend: what computes it, see `for_inference`.

    Returns:
        It; on a GPU, float32: there it says nothing.

    Raises:
        UsageError: if there is no such precision, the backend cannot compute in it, or the CPU not fast.
    """
    names = [known.value for known in CpuPrecision]
    if cpu_precision not in names:
        raise UsageError(f"cpu_precision is one of {', '.join(names)}, not {cpu_precision}.")
    precision = CpuPrecision(cpu_precision)
    if device is None or torch.device(device).type != "cpu":
        return CpuPrecision.float32
    able = BACKENDS_OF[precision]
    if backend not in (None, "auto", *able):
        raise UsageError(f"{backend} does not compute in {precision.value}: leave it out, or cpu_precision.")
    if not _has_instructions_for(precision):
        raise UsageError(f"This CPU has no instructions for {_WITHOUT[precision]}: leave out cpu_precision.")
    if not any(name == "torch" or _is_installed(name) for name in able):
        raise UsageError(
            f"Only {able[0]} computes in {precision.value}, and it is not installed (pip install "
            f"'shared_nets[{able[0]}]'): install it, or leave out cpu_precision."
        )
    return precision


_WITHOUT = {
    CpuPrecision.bfloat16: "bfloat16, which would take ten times as long as float32",
    CpuPrecision.int8: "int8 (AVX-512 VNNI), without which sums overflow",
}


def _has_instructions_for(precision: CpuPrecision) -> bool:
    if precision is CpuPrecision.bfloat16:
        return bfloat16_pays("cpu")
    return precision is not CpuPrecision.int8 or has_vnni()


def _choose(backend: str, device: torch.device, fastest: Sequence[str]) -> str:
    wanted = fastest if backend == "auto" else (backend,)
    usable = [name for name in wanted if name != "torch" and device.type == "cpu" and _is_installed(name)]
    if not usable and backend not in ("auto", "torch"):
        why = (
            f"is not installed (pip install 'shared_nets[{backend}]')"
            if device.type == "cpu"
            else "runs on a CPU, not on a GPU"
        )
        warnings.warn(f"The backend {backend} {why}: the network runs in PyTorch.", stacklevel=3)
    return usable[0] if usable else "torch"


def _is_installed(backend: str) -> bool:
    # The way into ONNX Runtime is a file that torch writes with the onnx package.
    needed = {"onnxruntime": ("onnxruntime", "onnx")}.get(backend, (backend,))
    return all(find_spec(package) is not None for package in needed)


class CompiledNetwork(nn.Module):
    """
    A network that another runtime computes on the CPU, compiled when a size of slice first comes.

    Args:
        network: the network, for any batch, in PyTorch.
        backend: ``openvino`` or ``onnxruntime``; a network it cannot take runs in PyTorch, with a warning.
    """

    def __init__(self, network: nn.Module, backend: str) -> None:
        super().__init__()
        self.network = network
        self.backend = backend
        self._runs: dict[tuple[int, ...], Run | None] = {}

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)``, float32 on the CPU, to logits ``(N, out, H, W)``."""
        size = tuple(x.shape[1:])
        if size not in self._runs:
            self._runs[size] = self._compile(x[:1])
        run = self._runs[size]
        if run is None:
            return self.network(x)
        return torch.from_numpy(run(x.contiguous().numpy()))

    def _compile(self, example: Tensor) -> Run | None:
        self.network(example)  # says in words what is wrong with an input; a compiled network would not
        compile_network = {"openvino": _openvino, "onnxruntime": _onnxruntime}[self.backend]
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # that checks of an input are not part of the graph
                return compile_network(self.network, example)
        except Exception as error:  # whatever a runtime of another version finds wrong: PyTorch can do it
            warnings.warn(
                f"{self.backend} could not take the network ({type(error).__name__}: {error}): it runs in "
                f"PyTorch.",
                stacklevel=3,
            )
            return None


def import_openvino() -> Any:
    """
    OpenVINO without its telemetry.

    Its converter tells a server of every conversion, and where that cannot be reached waits for it, some
    seconds each time. Without the package for it, it does neither.

    Raises:
        ImportError: if OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's way to say: not there
    return import_module("openvino")


@functools.cache
def _openvino_core() -> Any:
    """
    One core for the whole process, never let go of.

    When the last one goes on a CPU with AMX, OpenVINO frees a signal stack that the process still uses, and
    the end of a child process (SIGCHLD) kills it.
    """
    return import_openvino().Core()


def _openvino(network: nn.Module, example: Tensor) -> Run:
    bfloat16 = isinstance(network, InBfloat16)
    # Traced here, because OpenVINO would trace it twice and compare: half of the time to convert it. What is
    # rounded to bfloat16 it decides itself, from a graph of float32; so too what becomes 8 bits, from a graph
    # that rounds.
    traced = torch.jit.trace(network.network if bfloat16 else network, example, check_trace=False)
    model = import_openvino().convert_model(traced, input=[-1, *example.shape[1:]])
    settings = {
        # By itself it takes bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        # It would bind its threads to the first cores, and processes side by side would share these.
        "ENABLE_CPU_PINNING": False,
    }
    request = _openvino_core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: request.infer([x], share_inputs=True)[0]


def _onnxruntime(network: nn.Module, example: Tensor) -> Run:
    import onnxruntime

    # ONNX Runtime chooses a memory layout of its own.
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        torch.onnx.export(
            plain,
            (example.contiguous(),),
            str(file),
            input_names=["image"],
            output_names=["pred"],
            dynamic_axes={"image": {0: "batch"}, "pred": {0: "batch"}},
            dynamo=False,  # the exporter through torch.export takes ten times as long, for the same graph
        )
        content = file.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"image": x})[0]

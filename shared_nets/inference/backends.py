"""What computes the network: PyTorch, or on a CPU OpenVINO or ONNX Runtime, all from the same rewrites."""

from __future__ import annotations

import copy
import functools
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

from shared_nets.bundles import Backend
from shared_nets.errors import UsageError
from shared_nets.inference.rewrites import rewrite
from shared_nets.memory import keep_freed_memory
from shared_nets.precision import half_pays, in_bfloat16

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]

# In which order they are taken; docs/performance.md tells how fast they are.
CPU_BACKENDS = ("openvino", "onnxruntime")
BFLOAT16_BACKENDS = ("openvino",)
"""Those of them that compute in bfloat16, as PyTorch does."""


def for_inference(
    network: nn.Module,
    backend: str = "auto",
    device: torch.device | str | None = None,
    cpu_bfloat16: bool = False,
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
        cpu_bfloat16: on a CPU compute in bfloat16, in half of the time where it has instructions for it;
            probabilities move by up to a few hundredths (docs/performance.md). Says nothing on a GPU.

    Returns:
        A module from ``(N, channels, H, W)`` to float32 logits ``(N, out, H, W)``, for inference only.

    Raises:
        UsageError: if there is no such backend, or it or the CPU cannot compute in bfloat16.
    """
    check_backend(backend)
    place = torch.device(device) if device is not None else next(network.parameters()).device
    half = cpu_bfloat16 and place.type == "cpu"
    if half:
        check_bfloat16(place, backend)
    fast = rewrite(network).to(place)
    chosen = _choose(backend, place, BFLOAT16_BACKENDS if half else CPU_BACKENDS)
    if place.type == "cpu":
        keep_freed_memory()
    computed = InBfloat16(fast) if half else fast
    return computed if chosen == "torch" else CompiledNetwork(computed, chosen)


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


def check_bfloat16(device: torch.device | str, backend: str | None = None) -> None:
    """
    Make sure that a network can be computed in bfloat16 on the CPU; of a GPU this says nothing.

    Args:
        device: where it runs.
        backend: what computes it, see `for_inference`.

    Raises:
        UsageError: if the backend cannot do it, or the CPU not fast.
    """
    if torch.device(device).type != "cpu":
        return
    if backend in CPU_BACKENDS and backend not in BFLOAT16_BACKENDS:
        raise UsageError(f"{backend} computes in float32 only: leave out cpu_bfloat16, or the backend.")
    if not half_pays("cpu"):
        raise UsageError(
            "This CPU has no instructions for bfloat16, which would take ten times as long as float32: leave "
            "out cpu_bfloat16."
        )


def _choose(backend: str, device: torch.device, fastest: Sequence[str]) -> str:
    wanted = fastest if backend == "auto" else (backend,)
    usable = [name for name in wanted if device.type == "cpu" and _is_installed(name)]
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
    half = isinstance(network, InBfloat16)
    # Traced here, because OpenVINO would trace it twice and compare: half of the time to convert it. What is
    # rounded to bfloat16 it decides itself, from a graph of float32.
    traced = torch.jit.trace(network.network if half else network, example, check_trace=False)
    model = import_openvino().convert_model(traced, input=[-1, *example.shape[1:]])
    settings = {
        # By itself it takes bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
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

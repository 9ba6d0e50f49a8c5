"""Every backend against PyTorch, and what happens without one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import nn

from shared_nets import CNNRes, FeatureSimilarityModule, XNet
from shared_nets.errors import UsageError
from shared_nets.inference import backends, for_inference
from shared_nets.inference.backends import CompiledNetwork
from tests.networks.base import as_trained
from tests.networks.oracle import weights as oracle


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "torch"])
def test_xnet_is_the_original_keras_model_on_every_backend(oracle_xnet: XNet, backend: str) -> None:
    if backend != "torch":
        pytest.importorskip(backend)
    x = torch.from_numpy(oracle.slices(64, 64)).permute(0, 3, 1, 2)
    published = torch.from_numpy(oracle.outputs()["small_prob"]).permute(0, 3, 1, 2)
    net = for_inference(oracle_xnet, backend)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")  # a fallback to PyTorch would say so
        torch.testing.assert_close(net(x).sigmoid(), published, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "torch"])
@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (partial(FeatureSimilarityModule, 64, similarity="dot"), 64),
        (partial(FeatureSimilarityModule, 64, similarity="softmax"), 64),
        (CNNRes, 2),
    ],
    ids=["code's FSM", "paper's FSM", "CNN-Res"],
)
def test_the_same_function_on_every_backend(
    make: Callable[[], nn.Module], channels: int, backend: str
) -> None:
    if backend != "torch":
        pytest.importorskip(backend)
    torch.manual_seed(0)
    net = as_trained(make())
    x = torch.rand(2, channels, 32, 48)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = net(x).sigmoid()
        assert expected.std() > 0.05
        torch.testing.assert_close(for_inference(net, backend)(x).sigmoid(), expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are bound to cores on Linux")
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_no_thread_is_bound_to_a_core(backend: str) -> None:
    """Else several processes on one machine compute on the same cores, and others stand idle."""
    pytest.importorskip(backend)
    whole = os.sched_getaffinity(0)
    if len(whole) < 2:
        pytest.skip("there is one core")
    thread, seen = threading.get_native_id(), Counter[bool]()
    net = for_inference(CNNRes(2).eval(), backend)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            seen[os.sched_getaffinity(thread) == whole] += 1

    with torch.inference_mode(), ThreadPoolExecutor(1) as watching:
        net(torch.rand(1, 2, 128, 128))  # compiled
        watching.submit(watch)
        for _ in range(5):
            net(torch.rand(4, 2, 128, 128))
        done.set()
    assert seen[True] > 10 * seen[False]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_any_batch_and_size(tiny: nn.Module, backend: str) -> None:
    pytest.importorskip(backend)
    net = for_inference(tiny, backend).eval()
    for shape in [(2, 1, 16, 32), (3, 1, 16, 32), (1, 1, 48, 16)]:
        x = torch.rand(shape)
        kept = x.clone()
        with torch.inference_mode():
            first, second = net(x), net(x + 1)
            torch.testing.assert_close(first, tiny(x), rtol=0, atol=1e-5)
            torch.testing.assert_close(second, tiny(x + 1), rtol=0, atol=1e-5)
        assert torch.equal(x, kept)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_an_input_of_the_wrong_size_is_told_in_words(backend: str) -> None:
    pytest.importorskip(backend)
    net = for_inference(CNNRes(), backend)
    with torch.inference_mode(), pytest.raises(ValueError, match="multiples of 16, not 40×32"):
        net(torch.rand(1, 2, 40, 32))


def test_one_openvino_core_for_the_process(tiny: nn.Module) -> None:
    pytest.importorskip("openvino")
    for _ in range(2):
        for_inference(tiny, "openvino")(torch.rand(1, 1, 16, 16))
    assert backends._openvino_core.cache_info().misses == 1


def test_openvino_tells_no_server_of_it() -> None:
    """Its telemetry sends from processes that it starts; a process of its own, as it is loaded only once."""
    pytest.importorskip("openvino")
    code = (
        "import multiprocessing, torch; from shared_nets.inference import for_inference\n"
        "started = []; multiprocessing.Process.start = started.append\n"
        "for_inference(torch.nn.Conv2d(1, 1, 3), 'openvino')(torch.rand(1, 1, 16, 16))\n"
        "import sys; print('openvino' in sys.modules, started)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True []\n", done.stderr


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_backend_that_is_not_installed(
    tiny: nn.Module, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match=rf"{backend} is not installed \(pip install .*runs in PyTorch"):
        net = for_inference(tiny, backend)
    x = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(net(x), tiny(x))


def test_auto_takes_the_fastest_that_is_there(tiny: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"openvino", "onnxruntime", "onnx"}
    monkeypatch.setattr(backends, "find_spec", lambda name: name if name in installed else None)
    chosen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for gone in ("", "openvino", "onnx"):
            installed.discard(gone)
            net = for_inference(tiny, "auto")
            chosen.append(net.backend if isinstance(net, CompiledNetwork) else "torch")
    assert chosen == ["openvino", "onnxruntime", "torch"]


def test_a_gpu_computes_in_pytorch(tiny: nn.Module) -> None:
    with pytest.warns(UserWarning, match="openvino runs on a CPU, not on a GPU"):
        net = for_inference(tiny, "openvino", device="meta")
    assert not isinstance(net, CompiledNetwork)


def test_a_network_that_the_runtime_cannot_take() -> None:
    pytest.importorskip("onnxruntime")

    class Unusual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.zeta(x, self.scale)  # ONNX has no such operation

    x = torch.rand(1, 1, 16, 16) + 2
    net = for_inference(Unusual(), "onnxruntime")
    with torch.inference_mode(), pytest.warns(UserWarning, match="could not take the network"):
        given = net(x)
    assert torch.equal(given, torch.special.zeta(x, torch.tensor(2.0)))


def test_unknown_backend(tiny: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"^tensorrt: no backend has this name; use one of auto, "):
        for_inference(tiny, "tensorrt")


@pytest.fixture
def a_cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "bfloat16_pays", lambda device: True)


@pytest.mark.usefixtures("a_cpu_with_bfloat16")
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_bfloat16_rounds_and_gives_float32(tiny: nn.Module, backend: str) -> None:
    """Emulated where the CPU has no bfloat16: eight bits, so a few thousandths of values up to 1."""
    if backend != "torch":
        pytest.importorskip(backend)
    x = torch.rand(2, 1, 32, 48)
    half, exact = (for_inference(tiny, backend, cpu_precision=one) for one in ("bfloat16", "float32"))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        found, wanted = half(x), exact(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)
    if backend == "torch":  # OpenVINO leaves it out where the CPU has none
        assert not torch.equal(found, wanted)


@pytest.mark.usefixtures("a_cpu_with_bfloat16")
def test_bfloat16_by_auto_is_never_onnx_runtimes(tiny: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    for installed, chosen in ((("openvino", "onnxruntime"), "openvino"), (("onnxruntime",), "torch")):
        monkeypatch.setattr(backends, "_is_installed", lambda name, there=installed: name in there)
        network = for_inference(tiny, cpu_precision="bfloat16")
        assert getattr(network, "backend", "torch") == chosen


def test_bfloat16_is_refused_where_it_cannot_pay(tiny: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "bfloat16_pays", lambda device: False)
    with pytest.raises(UsageError, match="no instructions for bfloat16"):
        for_inference(tiny, "torch", cpu_precision="bfloat16")
    with pytest.raises(UsageError, match=r"^onnxruntime does not compute in bfloat16: leave it out, or"):
        for_inference(tiny, "onnxruntime", cpu_precision="bfloat16")
    backends.check_precision("bfloat16", "cuda")  # a GPU has its own half precision


def test_a_precision_that_is_none() -> None:
    for device in ("cpu", "cuda"):
        with pytest.raises(UsageError, match=r"^cpu_precision is one of float32, bfloat16, int8, not int4"):
            backends.check_precision("int4", device)

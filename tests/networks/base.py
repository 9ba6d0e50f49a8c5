"""What every network promises: a network's test names the network and its counts."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

KEYS = Path(__file__).parent / "keys"


def as_trained(net: nn.Module) -> nn.Module:
    """The network, its batch norms drawn as a training might leave them, in evaluation mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return net.eval()


@functools.lru_cache(maxsize=1)
def evaluated(tests: type[NetworkTests]) -> nn.Module:
    """One network for all tests of a class, in evaluation mode: no test may change it."""
    torch.manual_seed(0)
    return tests.make().eval()


class NetworkTests:
    """Subclass as ``Test...`` and fill in the class variables."""

    make: ClassVar[Callable[..., nn.Module]]
    channels: ClassVar[int] = 1
    trainable: ClassVar[int]
    statistics: ClassVar[int]

    @pytest.fixture
    def net(self) -> nn.Module:
        return evaluated(type(self))

    def slices(self, *size: int) -> torch.Tensor:
        batch, height, width = size
        return torch.rand(batch, self.channels, height, width, generator=torch.Generator().manual_seed(1))

    def test_counts(self, net: nn.Module) -> None:
        running = [value for key, value in net.named_buffers() if "running_" in key]
        assert sum(p.numel() for p in net.parameters() if p.requires_grad) == self.trainable
        assert sum(value.numel() for value in running) == self.statistics

    @pytest.mark.parametrize("size", [(1, 16, 16), (2, 48, 32)])
    def test_logits_have_the_size_of_the_slices(self, net: nn.Module, size: tuple[int, int, int]) -> None:
        with torch.inference_mode():
            logits = net(self.slices(*size))
        assert logits.shape == (size[0], 1, *size[1:])
        assert logits.isfinite().all()

    def test_output_is_logits(self, net: nn.Module) -> None:
        head = net.head
        replaced = {"head.weight": torch.zeros_like(head.weight), "head.bias": torch.tensor([-2.0])}
        with torch.inference_mode():
            logits = torch.func.functional_call(net, replaced, self.slices(1, 16, 16))
        assert (logits == -2).all()  # neither a sigmoid nor a ReLU after the head

    def test_other_channels(self) -> None:
        with torch.device("meta"):  # shapes without values
            net = type(self).make(in_channels=3, out_channels=2).eval()
            assert net(torch.rand(1, 3, 16, 32)).shape == (1, 2, 16, 32)

    def test_gradients_reach_every_parameter(self, net: nn.Module) -> None:
        net = copy.deepcopy(net).train()
        net(self.slices(2, 32, 48)).square().mean().backward()
        without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)

    def test_evaluation_is_deterministic_and_leaves_the_state(self, net: nn.Module) -> None:
        before = {key: value.clone() for key, value in net.state_dict().items()}
        x = self.slices(2, 32, 32)
        with torch.inference_mode():
            first, second, alone = net(x), net(x), net(x[1:])
        assert torch.equal(first, second)
        scale = first.abs().max().item()
        torch.testing.assert_close(first[1:], alone, rtol=0, atol=1e-4 * scale)  # slices do not meet
        assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())

    def test_state_dict_saves_and_loads(self, net: nn.Module) -> None:
        file = io.BytesIO()
        torch.save(net.state_dict(), file)
        file.seek(0)
        with torch.device("meta"):  # without values of its own
            other = type(self).make().eval()
        other.load_state_dict(torch.load(file, weights_only=True), assign=True)
        x = self.slices(1, 32, 32)
        with torch.inference_mode():
            assert torch.equal(other(x), net(x))

    def test_state_dict_keys_are_a_promise(self, net: nn.Module) -> None:
        lines = [
            f"{key} {'x'.join(map(str, value.shape))}".rstrip() for key, value in net.state_dict().items()
        ]
        # Released weights have these keys: a change here needs a migration of theirs.
        assert lines == (KEYS / f"{type(self).__name__.removeprefix('Test')}.txt").read_text().splitlines()

    @pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
    def test_torchscript(self, net: nn.Module) -> None:
        scripted: Any = torch.jit.script(net)
        for x in (self.slices(2, 16, 32), self.slices(1, 48, 16)):
            # Its optimiser takes seconds and is torch's own affair.
            with torch.inference_mode(), torch.jit.optimized_execution(False):
                torch.testing.assert_close(scripted(x), net(x))
        with pytest.raises(Exception, match="multiples of 16, not 40×32"):
            scripted(self.slices(1, 40, 32))

    def test_export_with_any_batch_and_size(self, net: nn.Module) -> None:
        batch, rows, columns = (torch.export.Dim(name, min=1, max=64) for name in ("n", "h", "w"))
        exported = torch.export.export(
            net, (self.slices(2, 32, 48),), dynamic_shapes=({0: batch, 2: 16 * rows, 3: 16 * columns},)
        )
        x = self.slices(3, 32, 64)
        with torch.no_grad():
            torch.testing.assert_close(exported.module()(x), net(x))

    @pytest.mark.parametrize(("height", "width"), [(40, 32), (32, 33)])
    def test_size_that_does_not_divide(self, net: nn.Module, height: int, width: int) -> None:
        with pytest.raises(ValueError, match=f"multiples of 16, not {height}×{width}"):
            net(self.slices(1, height, width))

    def test_wrong_channels(self, net: nn.Module) -> None:
        wrong = self.channels + 1
        with pytest.raises(ValueError, match=rf"built for {self.channels} input .* input has {wrong}"):
            net(torch.rand(1, wrong, 32, 32))

    @pytest.mark.parametrize("shape", [(32, 32), (1, 32, 32), (1, 1, 32, 32, 32)])
    def test_wrong_dimension(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=f"not a {len(shape)}-D tensor"):
            net(torch.rand(shape))

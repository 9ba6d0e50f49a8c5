"""Several processes: how they join, and that they learn what one learns."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

from shared_nets import CNNRes
from shared_nets.errors import UsageError
from shared_nets.training import parallel, start_from
from shared_nets.training.processes import join_processes

STEPS = 3


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of four slices, the same in every process."""
    generator = torch.Generator().manual_seed(step)
    return (
        torch.rand(4, 2, 16, 16, generator=generator),
        (torch.rand(4, 1, 16, 16, generator=generator) > 0.8).float(),
    )


def learn(network: nn.Module, slices: slice) -> None:
    """A few steps of a loss that is a mean over pixels, on a part of every batch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    network.train()
    for step in range(STEPS):
        image, label = (tensor[slices] for tensor in data(step))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(image), label).backward()
        optimizer.step()


def make() -> CNNRes:
    torch.manual_seed(0)
    return start_from(None, CNNRes(dropout=0.0), frozen=["batch_norm"])


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    # They meet at a file: torchrun's port may be another's by the time it is opened.
    distributed.init_process_group = partial(
        distributed.init_process_group, init_method=f"file://{folder}/met", rank=rank, world_size=2
    )
    join_processes()
    network = make()
    learn(parallel(network, "cpu"), slice(2 * rank, 2 * rank + 2))
    torch.save(network.state_dict(), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_halves_of_a_batch_are_one_whole(tmp_path: Path) -> None:
    """Batch norms frozen, a loss per pixel: the same weights to 1e-4."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=one_of_two, args=(rank, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    alone = make()
    start = {key: value.clone() for key, value in alone.state_dict().items()}
    learn(alone, slice(0, 4))
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(first[key], value, rtol=0, atol=1e-4)
        assert torch.equal(first[key], second[key])
    moved = (alone.head.weight - start["head.weight"]).abs().max()
    assert moved > 2e-4  # and they did learn


@pytest.fixture
def _group_of_one(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_group_of_one")
def test_on_a_cpu_the_network_is_wrapped_as_it_is() -> None:
    network = CNNRes().eval()
    image = torch.rand(1, 2, 32, 32)
    expected = network(image)
    wrapped = parallel(network, "cpu")
    assert wrapped.module is network
    torch.testing.assert_close(wrapped(image), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_joined_by_what_torchrun_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}.items():
        monkeypatch.setenv(key, str(value))
    join_processes()
    try:
        assert distributed.get_backend() == "gloo"
        assert distributed.get_world_size() == 1
    finally:
        distributed.destroy_process_group()


def test_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="need one process each: start them with torchrun"):
        join_processes()

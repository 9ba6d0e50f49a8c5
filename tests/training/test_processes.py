"""Several processes learn what one learns."""

from __future__ import annotations

import multiprocessing
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
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
    torch.distributed.init_process_group = partial(
        torch.distributed.init_process_group, init_method=f"file://{folder}/met", rank=rank, world_size=2
    )
    join_processes()
    network = make()
    learn(parallel(network, "cpu"), slice(2 * rank, 2 * rank + 2))
    torch.save(network.state_dict(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


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


def test_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="need one process each: start them with torchrun"):
        join_processes()

"""Where a network runs unless told otherwise."""

from __future__ import annotations

import pytest
import torch

from shared_nets.devices import local_device


@pytest.mark.parametrize(("rank", "index"), [(None, 0), ("1", 1), ("2", 0)])
def test_each_process_has_its_gpu(rank: str | None, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert local_device() == torch.device("cuda", index)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_is_the_cpu() -> None:
    assert local_device() == torch.device("cpu")

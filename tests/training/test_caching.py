"""Prepared cases are kept in memory when they fit, else on disk, and are prepared once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import Dataset, PersistentDataset
from monai.transforms import Compose, Lambdad, MapTransform, RandFlipd

from shared_nets.errors import UsageError
from shared_nets.training import caching
from shared_nets.training.caching import CasesInMemory, cached, prepared_gb, share_gb


class Preparation(MapTransform):
    """Counts its calls; a case becomes a mebibyte."""

    calls = 0

    def __init__(self) -> None:
        super().__init__("image")

    def __call__(self, data: Any) -> dict[str, Any]:
        type(self).calls += 1
        if data["image"] < 0:
            raise ValueError("cannot be prepared")
        return {"image": torch.full((1, 512, 512), float(data["image"]))}


@pytest.fixture
def transform() -> Compose:
    Preparation.calls = 0
    return Compose([Preparation(), RandFlipd("image", prob=0.5)])


DATA = [{"image": n} for n in range(4)]
MIB = 2**-10


@pytest.mark.parametrize(
    ("cache_gb", "folder", "kind"),
    [(5 * MIB, True, CasesInMemory), (3 * MIB, True, PersistentDataset), (3 * MIB, False, Dataset)],
)
def test_by_size(transform: Compose, tmp_path: Path, cache_gb: float, folder: bool, kind: type) -> None:
    dataset = cached(DATA, transform, cache_gb, tmp_path if folder else None, quiet=True)
    assert type(dataset) is kind
    for _ in range(3):
        assert [float(dataset[n]["image"][0, 0, 0]) for n in range(4)] == [0, 1, 2, 3]
    # Three cases are prepared to be measured.
    assert Preparation.calls == 3 + (12 if kind is Dataset else 4)


class ReadAndScale(MapTransform):
    """A case becomes the numbers of its file and of its mask's, times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__(("image", "label"))
        self.factor = factor

    def __call__(self, data: Any) -> dict[str, Any]:
        return {key: torch.tensor([self.factor * float(Path(data[key]).read_text())]) for key in self.keys}


def test_a_lambda_cannot_be_told_from_another_on_disk(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name a function in place of a lambda"):
        cached(DATA, Compose([Lambdad("image", lambda n: torch.ones(2**17) * n)]), 0, tmp_path, quiet=True)


def test_what_changed_is_prepared_anew(tmp_path: Path) -> None:
    """Another preprocessing into the same folder, or a file edited in place, must not give old tensors."""
    case = {"image": str(tmp_path / "scan"), "label": str(tmp_path / "mask")}
    (tmp_path / "scan").write_text("3")
    (tmp_path / "mask").write_text("1")

    def prepared(factor: float) -> tuple[float, float]:
        data = cached([case], Compose([ReadAndScale(factor)]), 0.0, tmp_path / "cache", quiet=True)
        return data[0]["image"].item(), data[0]["label"].item()

    assert prepared(1) == (3, 1)
    assert prepared(2) == (6, 2)
    (tmp_path / "mask").write_text("0.5")
    assert prepared(2) == (6, 1)
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert prepared(1) == (3, 0.5)
    assert prepared(2) == (6, 1)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_case_that_cannot_be_prepared_is_told(transform: Compose) -> None:
    data = [{"image": -1}, *DATA]
    assert prepared_gb(data[0], transform) == 0
    with pytest.raises((RuntimeError, ValueError)):
        cached(data, transform, quiet=True)


class Slow(MapTransform):
    """The first case fails while the second is being prepared, which takes a moment."""

    def __init__(self) -> None:
        super().__init__("image")
        self.begun, self.done = threading.Event(), threading.Event()

    def __call__(self, data: Any) -> dict[str, Any]:
        if data["image"] == 0:
            self.begun.wait(10)
            raise ValueError("cannot be prepared")
        self.begun.set()
        time.sleep(0.3)
        self.done.set()
        return {"image": torch.zeros(1)}


def test_a_failing_case_ends_without_an_abort() -> None:
    """Threads still at work when Python ends abort it, so none may be."""
    transform = Slow()
    with pytest.raises(RuntimeError) as error:
        CasesInMemory([{"image": 0}, {"image": 1}], Compose([transform]), num_workers=2, progress=False)
    assert "cannot be prepared" in str(error.value.__cause__)
    assert transform.done.is_set()


def test_no_cases() -> None:
    dataset = cached([], Compose([]))
    assert len(dataset) == 0
    assert dataset.data == []


def test_three_tenths_of_the_memory_are_shared_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(caching, "memory_gb", lambda: 100.0)
    assert share_gb() == pytest.approx(30)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert share_gb() == pytest.approx(7.5)


@pytest.mark.parametrize(("memory_gb", "kind"), [(17 * MIB, CasesInMemory), (12 * MIB, Dataset)])
def test_without_a_limit_cases_are_kept_in_three_tenths_of_the_memory(
    transform: Compose, monkeypatch: pytest.MonkeyPatch, memory_gb: float, kind: type
) -> None:
    """Four of a mebibyte fit into five, not into three and a half."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(caching, "memory_gb", lambda: memory_gb)
    assert type(cached(DATA, transform, quiet=True)) is kind

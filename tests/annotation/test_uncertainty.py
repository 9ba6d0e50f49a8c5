"""Scoring by uncertainty, with what it uses of MONAI Label replaced: its server alone has that."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from shared_nets.errors import UnreadableScanError, UsageError


@pytest.fixture
def uncertainty(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, on classes that keep nothing but a description."""
    for name, base in (("scoring", "ScoringMethod"), ("strategy", "Strategy")):
        module = ModuleType(f"monailabel.interfaces.tasks.{name}")
        setattr(module, base, type(base, (), {"__init__": lambda self, description: None}))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("monailabel", "monailabel.interfaces", "monailabel.interfaces.tasks"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.delitem(sys.modules, "shared_nets.annotation.uncertainty", raising=False)
    yield importlib.import_module("shared_nets.annotation.uncertainty")
    sys.modules.pop("shared_nets.annotation.uncertainty", None)


class Store:
    """Scans by name, and what is noted with them."""

    def __init__(self, *names: str) -> None:
        self.notes: dict[str, dict[str, Any]] = {name: {} for name in names}

    def get_unlabeled_images(self) -> list[str]:
        return list(self.notes)

    def get_image_info(self, name: str) -> dict[str, Any]:
        return self.notes[name]

    def get_image_uri(self, name: str) -> str:
        return name

    def update_image_info(self, name: str, note: dict[str, Any]) -> None:
        self.notes[name] |= note


class Task:
    """A network that is sure of everything but stumbles over some scans."""

    def __init__(self, weights: Path) -> None:
        self.weights = weights

    def get_path(self) -> str:
        return str(self.weights)

    def __call__(self, request: dict[str, Any]) -> tuple[None, dict[str, Any]]:
        if request["image"] == "b":
            raise RuntimeError("no kernel image")
        if request["image"] == "c":
            raise UnreadableScanError("c is truncated: copy it again.")
        return None, {"probability": MetaTensor(torch.zeros(1, 4, 4, 4), affine=torch.eye(4))}


@pytest.fixture
def scoring(uncertainty: Any, tmp_path: Path) -> Any:
    (tmp_path / "model.pt").write_bytes(b"")
    return uncertainty.UncertaintyScoring("score", Task(tmp_path / "model.pt"))


def test_no_scan_keeps_those_after_it_from_being_scored(
    scoring: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store("a", "b", "c", "d")
    assert scoring({}, store) == {"scored": 2, "skipped": 0, "failed": 2}
    assert [name for name, note in store.notes.items() if note] == ["a", "d"]
    assert [record.getMessage() for record in caplog.records] == [
        "Not scored: b: RuntimeError('no kernel image')",
        "Not scored: c is truncated: copy it again.",
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [True, False]
    assert scoring({}, store)["skipped"] == 2


@pytest.mark.parametrize(("asked", "scored"), [(1, 1), ("1", 1), (None, 2), ("", 2), (0, 0)])
def test_how_many_are_scored_may_be_said_in_any_way(scoring: Any, asked: object, scored: int) -> None:
    assert scoring({"max_samples": asked}, Store("a", "d"))["scored"] == scored


@pytest.mark.parametrize("asked", ["all", [1]])
def test_what_is_no_number_of_scans_is_told(scoring: Any, asked: object) -> None:
    with pytest.raises(UsageError, match=r"max_samples is .*: give a number of scans, or leave it out\."):
        scoring({"max_samples": asked}, Store("a"))

"""Unbroken runs to compare with, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import Running
from tests.reliability.small import experiment, make_tree, predict, train


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five heads to learn from, and eight to segment."""
    return make_tree(tmp_path_factory.mktemp("small") / "data")


def _made_by(run: Callable[[Path, Path], Running], tree: Path, output: Path) -> Path:
    done = run(tree, output).wait()
    assert done.code == 0, done.err
    return output


@pytest.fixture(scope="session")
def trained(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole training."""
    return _made_by(train, tree, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def segmented(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole prediction."""
    return _made_by(predict, tree, tmp_path_factory.mktemp("segmented"))


@pytest.fixture(scope="session")
def crossvalidated(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole experiment."""
    return _made_by(experiment, tree, tmp_path_factory.mktemp("crossvalidated"))

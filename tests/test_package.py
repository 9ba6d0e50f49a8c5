"""What the package gives by name, and how little importing it takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

import shared_nets
from shared_nets import networks


def test_the_package_gives_every_network() -> None:
    assert set(networks.__all__) <= set(shared_nets.__all__)
    assert all(getattr(shared_nets, name) is getattr(networks, name) for name in networks.__all__)


def test_every_name_the_package_tells_is_there() -> None:
    assert all(callable(getattr(shared_nets, name)) for name in shared_nets.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'YNet'"):
        _ = shared_nets.YNet


@pytest.mark.parametrize(
    ("module", "not_loaded"), [("shared_nets", "torch"), ("shared_nets.networks", "h5py")]
)
def test_heavy_packages_wait_until_they_are_needed(module: str, not_loaded: str) -> None:
    code = f"import sys, {module}; sys.exit({not_loaded!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

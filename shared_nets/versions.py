"""Which versions are in use, and whether a bundle and the package belong together."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import shared_nets
from shared_nets.bundles import read_metadata
from shared_nets.errors import UsageError

LIBRARIES = ("torch", "monai", "nibabel", "numpy", "scipy", "connected-components-3d", "pytorch-ignite")
"""What results depend on."""


@cache
def software() -> dict[str, str]:
    """The versions of Python, this package and the libraries that results depend on."""
    found = {"python": platform.python_version(), "shared_nets": shared_nets.__version__}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def check_version(bundle_root: str | Path) -> None:
    """
    Refuse to build a bundle's network with another version of this package than the bundle is made for.

    Bundles of two releases in one program, as in an annotation server, would share the package that was
    imported first, whichever each brings along.

    Args:
        bundle_root: the bundle's folder; ``required_packages_version`` of its metadata.json is read. Without
            the file, or the entry, any version will do.

    Raises:
        UsageError: if the versions differ, or the file cannot be read.
    """
    if not Path(bundle_root, "configs", "metadata.json").is_file():
        return
    wanted = read_metadata(bundle_root).get("required_packages_version", {}).get("shared_nets")
    if wanted not in (None, shared_nets.__version__):
        raise UsageError(
            f"{Path(bundle_root).resolve()} is made for shared_nets {wanted}, but {shared_nets.__version__} "
            f"is in use (from {Path(shared_nets.__file__).parent}): take all bundles of one program from one "
            f"release, and start it anew."
        )

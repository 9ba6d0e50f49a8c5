"""Weight files: loaded, checked, saved."""

from shared_nets.release.weights import (
    check_architecture,
    load_into,
    load_weights,
    released_sha256,
    restore_shipped,
    save_weights,
    sha256,
)

__all__ = [
    "check_architecture",
    "load_into",
    "load_weights",
    "released_sha256",
    "restore_shipped",
    "save_weights",
    "sha256",
]

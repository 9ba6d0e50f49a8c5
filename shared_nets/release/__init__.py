"""What is passed on to others: weight files, exports, archives; and whether it fits together."""

from shared_nets.release.ranges import ranges_beside
from shared_nets.release.versions import check_version
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
    "check_version",
    "load_into",
    "load_weights",
    "ranges_beside",
    "released_sha256",
    "restore_shipped",
    "save_weights",
    "sha256",
]

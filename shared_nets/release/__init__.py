"""What is passed on to others: exports, archives, bundles of one's own; and whether it fits together."""

from shared_nets.inference.ranges import ranges_beside
from shared_nets.versions import check_version
from shared_nets.weights import (
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

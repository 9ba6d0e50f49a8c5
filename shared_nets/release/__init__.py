"""
What is passed on to others: exports, archives, bundles of one's own; and whether it fits together.

The names here are those that bundles' configs call, wherever the package keeps them.
"""

from shared_nets.inference.ranges import ranges_beside
from shared_nets.versions import check_version
from shared_nets.weights import load_into, sha256

__all__ = ["check_version", "load_into", "ranges_beside", "sha256"]

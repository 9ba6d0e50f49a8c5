"""What is passed on to others: exports, archives, bundles of one's own; and whether it fits together."""

# Bundles of before 0.3.0 call it by this name, and are told so which version they are made for.
from shared_nets.versions import check_version

__all__ = ["check_version"]

"""What is passed on to others: exports, archives, bundles of one's own; and whether it fits together."""

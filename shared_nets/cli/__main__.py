"""`python -m shared_nets.cli` is `strokeseg`."""

from shared_nets.cli import main

main()

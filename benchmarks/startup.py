"""
CPU seconds until a command has told its help: ours beside MONAI's.

    python benchmarks/startup.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

COMMANDS = {
    "strokeseg --help": [sys.executable, "-m", "shared_nets.cli", "--help"],
    "monai.bundle --help": [sys.executable, "-m", "monai.bundle", "--help"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(5):
        for name, command in COMMANDS.items():
            before = children()
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            seconds[name].append(children() - before)
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.2f} CPU s")
    ours, theirs = (statistics.median(values) for values in seconds.values())
    print(f"ours takes {ours / theirs:.3f} of theirs")


def children() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

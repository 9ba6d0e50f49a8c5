"""
A scan of a cohort by the clock, and the network's part of it.

    OMP_NUM_THREADS=2 python benchmarks/cohort.py demo/acute/*dwi.nii.gz demo/acute/*FLAIR.nii.gz \\
        --model cnnres

The scan is copied to a cohort of eight, and segmented by the bundle's inference.json on OpenVINO. While the
network works on a scan, the next one is read and the results of the last one are written, where a core is
free. What is told is the mean of the five scans in the middle, from the end of one network to that of the
next.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from shared_nets.bundles import bundle_folder, run_inference
from shared_nets.inference import cohort
from shared_nets.inference.backends import CompiledNetwork

SCANS = 8
SKIPPED = 2
"""At the start, which compile, and at the end, which have the machine for themselves: one fewer."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scan", type=Path, nargs="+", help="one scan; cnnres: DWI and FLAIR")
    parser.add_argument("--model", choices=("xnet", "cnnres"), default="xnet")
    options = parser.parse_args()
    ends, spent = timed(options.model, options.scan)
    middle = slice(SKIPPED - 1, SCANS - 1)
    ends, spent = ends[middle], spent[middle]
    scan, network = ((values[-1] - values[0]) / (len(values) - 1) for values in (ends, spent))
    print(f"a scan {scan:.2f} s, its network {network:.2f} s, around it {1 - network / scan:.0%}")


def timed(model: str, scans: list[Path]) -> tuple[list[float], list[float]]:
    """When each scan's network ended, and for how long networks had run by then, in seconds."""
    ends: list[float] = []
    spent: list[float] = []
    total = 0.0
    forward, run_engine = CompiledNetwork.forward, cohort.run_engine

    def measured(network: CompiledNetwork, x: Tensor) -> Tensor:
        nonlocal total
        start = time.perf_counter()
        output = forward(network, x)
        total += time.perf_counter() - start
        return output

    def noted(*inputs: Any) -> Any:
        finished = run_engine(*inputs)
        ends.append(time.perf_counter())
        spent.append(total)
        return finished

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(CompiledNetwork, "forward", measured),
        patch.object(cohort, "run_engine", noted),
    ):
        for number in range(SCANS):
            for path in scans:
                ending = path.name.split("_")[-1]
                shutil.copy(path, Path(folder, f"sub-{number}_{ending}"))
        settings = {"dataset_dir": folder, "output_dir": str(Path(folder, "out")), "quiet": True}
        run_inference(bundle_folder(model), {**settings, "backend": "openvino"})
    return ends, spent


if __name__ == "__main__":
    main()

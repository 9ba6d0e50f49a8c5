"""Many predictions in one process: memory and open files level off."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.heads import head, lesion_mask, write
from tests.reliability.programs import predict

Happened = Callable[[object], None]

LEVEL = "After the first ten, memory grows by less than 10 %, and open files not at all."
PLOT = ROOT / "docs" / "images" / "many_predictions.png"


def measured(folder: Path, number: int) -> list[tuple[float, int]]:
    """After each of so many predictions, each with all there is of a run: MiB in use, files open."""
    scan = write(folder / "scan.nii.gz", head("T1w", lesion_mask(1), 1))
    found = []
    for turn in range(number):
        run = predict([str(scan)], folder / "out", overwrite=True, save_picture=turn % 5 == 0)
        assert run.code == 0, run.err
        if turn % 10 == 9:
            gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append((pages * 4096 / 2**20, len(list(Path("/proc/self/fd").iterdir()))))
    return found


def check_level(found: list[tuple[float, int]], happened: Happened) -> None:
    memory, files = ([one[part] for one in found] for part in (0, 1))
    happened(
        f"Memory {memory[9]:.0f} MiB after 10 and {memory[-1]:.0f} MiB after {len(found)}; "
        f"open files {files[9]} and {files[-1]}."
    )
    assert max(files[10:]) <= max(files[:10])
    assert max(memory[10:]) < 1.1 * memory[9]


@pytest.mark.timeout(3600)  # on a busy machine
@pytest.mark.reliability("Resources", "50 predictions in one process", LEVEL)
def test_fifty(tmp_path: Path, happened: Happened) -> None:
    check_level(measured(tmp_path, 50), happened)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.reliability("Longer runs", "500 predictions in one process", LEVEL)
def test_five_hundred(tmp_path: Path, happened: Happened, request: pytest.FixtureRequest) -> None:
    found = measured(tmp_path, 500)
    if request.config.getoption("--reliability-table"):
        plot(found)
    check_level(found, happened)


def plot(found: list[tuple[float, int]]) -> None:
    """The picture in docs/reliability.md."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    for axes, values, name in zip(
        figure.subplots(1, 2), zip(*found, strict=True), ("memory in use, MiB", "open files"), strict=True
    ):
        axes.plot(range(1, len(found) + 1), values, linewidth=1)
        axes.set(xlabel="predictions", ylabel=name, ylim=(0, 1.15 * max(values)))
    figure.savefig(PLOT, dpi=110)

"""
How much of the network's own speed a training reaches: slices a second through train.json, beside a loop
over the same network that does nothing but compute on a batch in memory.

    python benchmarks/training_throughput.py xnet DATA_LIST [--set KEY=VALUE ...]

Both take turns in one process; the ratio is that of their median times. CPU time, too, is told: on a busy
machine it is the steadier of the two.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from shared_nets.bundles import Model, bundle_folder
from shared_nets.switches import parse_settings


def main(
    model: Model,
    data: Path,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A value of train.json.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 5,
) -> None:
    """Measure, and print a line each and the ratio."""
    bundle = bundle_folder(model.value)
    with TemporaryDirectory() as folder:
        workflow = ConfigWorkflow(
            config_file=str(bundle / "configs" / "train.json"), workflow_type="train",
            bundle_root=str(bundle), dataset_dir=str(data), output_dir=folder, quiet=True,
            **{"max_epochs": rounds + 1, "val_interval": 10**6} | parse_settings(setting),
        )  # fmt: skip
        workflow.initialize()
        measure(workflow.parser, rounds)


def measure(parser: Any, rounds: int) -> None:
    """One epoch of the trainer and as many bare steps, in turns."""
    trainer = parser.get_parsed_content("train#trainer")
    network, loss, optimizer = (parser.get_parsed_content(key) for key in ("network", "loss", "optimizer"))
    size = parser.get_parsed_content("scans_per_batch") * parser.get_parsed_content("slices_per_scan")
    window = parser.get_parsed_content("window")
    channels = parser.get_parsed_content("network_def").in_channels
    device = torch.device(parser.get_parsed_content("device"))
    image = torch.rand(size, channels, *window, device=device)
    label = (torch.rand(size, 1, *window, device=device) > 0.9).float()
    steps = len(parser.get_parsed_content("train#dataloader"))
    spent: dict[str, list[tuple[float, float]]] = {"train.json": [], "compute alone": []}

    def compute() -> None:
        network.train()
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bool(trainer.amp)):
                logits = network(image)
                error = loss(logits, label)
            error.backward()
            optimizer.step()

    def now() -> tuple[float, float]:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def since(start: tuple[float, float]) -> tuple[float, float]:
        end = now()
        return end[0] - start[0], end[1] - start[1]

    begun: list[tuple[float, float]] = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: begun.append(now()))

    def end_of_epoch() -> None:
        spent["train.json"].append(since(begun[-1]))
        start = now()
        compute()
        spent["compute alone"].append(since(start))

    # Before the checkpoint is written, which is not part of a step.
    trainer._event_handlers[Events.EPOCH_COMPLETED].insert(0, (lambda engine: end_of_epoch(), (trainer,), {}))
    trainer.run()
    for name, times in spent.items():
        wall, cpu = (median(values) for values in zip(*times[1:], strict=True))  # the first warms up
        print(
            f"{name:<14} {steps * size / wall:8.1f} slices/s {1000 * cpu / steps / size:8.2f} CPU ms a slice"
        )
    for kind, name in enumerate(("time", "CPU time")):
        bare, full = (median(t[kind] for t in spent[key][1:]) for key in ("compute alone", "train.json"))
        print(f"Training reaches {100 * bare / full:.0f} % of the network's own speed, by {name}.")


if __name__ == "__main__":
    typer.run(main)

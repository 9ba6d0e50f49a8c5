"""
Fine-tuning for another scanner: a bundle's weights before and after they have seen ten of its labelled scans.

    strokeseg simulate --model xnet --masks MASKS --held-out --cases 80 --output TEST
    python benchmarks/finetuning.py --model xnet --dataset TEST --runs RUNS --kind contrast --amount 2 \\
        --output docs/results/finetuning_xnet_contrast

The other scanner is every case of TEST changed as `robustness.py` changes it, much noisier by default.
`strokeseg finetune` is given the first ten cases of the folds 0 and 1 as labelled ones, of which it holds out
a fifth to choose the epoch; the folds from 2 on are the test. No lesion mask is in two folds, and with
`--held-out` the weights have seen none of them. Writes OUTPUT.csv, a row a test case, and OUTPUT.md. Goes on
in RUNS where it was stopped.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from common import listed, write_tables
from robustness import KINDS, changed

from shared_nets.bundles import Model, read_object
from shared_nets.evaluation.tables import read_cases, statistics
from shared_nets.experiments.tables import OVERLAPS, paired_p
from shared_nets.files import write_json

LABELLED = 10
"""Cases that the weights are tuned on, with those held out to choose the epoch."""


def main(
    model: Annotated[Model, typer.Option(help="Which bundle.")],
    dataset: Annotated[Path, typer.Option(help="Folder that `strokeseg simulate` wrote.")],
    runs: Annotated[Path, typer.Option(help="Folder for the changed scans and the run.")],
    output: Annotated[Path, typer.Option(help="Name of the tables, without ending.")],
    kind: Annotated[str, typer.Option(help=f"What is changed: {', '.join(KINDS)}.")] = "noise",
    amount: Annotated[float, typer.Option(help="How much of it.")] = 0.1,
    epochs: Annotated[int, typer.Option(min=1, help="Of fine-tuning.")] = 20,
    test_cases: Annotated[int | None, typer.Option(min=1, help="The first so many; all by default.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Another bundle folder.")] = None,
) -> None:
    """Change the scans, fine-tune, and write the tables."""
    data = other_scanner(dataset, runs, kind, amount, test_cases)
    command = [
        "finetune", str(data), "--model", model.value, "--output", str(runs / "run"), "--evaluate-on", "test",
        "--set", f"max_epochs={epochs}", "--set", f"val_interval={min(5, epochs)}",
    ]  # fmt: skip
    command += ["--bundle", str(bundle)] if bundle else []
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "shared_nets.cli", *command])
    if done.returncode:
        raise typer.Exit(done.returncode)
    before, after = (
        read_cases(runs / "run" / "fold0" / name / "metrics.csv").set_index("scan")[list(OVERLAPS)]
        for name in ("before_test", "after_test")
    )
    both = before.join(after, lsuffix="_before", rsuffix="_after")
    labelled = len(listed(runs, "training"))
    what = (
        f"Simulated cases with {kind} of {amount:g} ({KINDS[kind].amount}): `strokeseg finetune` with "
        f"{labelled} labelled cases and {epochs} epoch{'' if epochs == 1 else 's'}"
    )
    write_tables(both.reset_index(), markdown(before, after, what), output)


def other_scanner(dataset: Path, runs: Path, kind: str, amount: float, tests: int | None = None) -> Path:
    """The dataset's cases changed, as new files with a data list of labelled and test cases."""
    path = runs / "datalist.json"
    made_of = {"dataset": str(dataset.resolve()), "kind": kind, "amount": amount, "tests": tests}
    if path.is_file():
        if read_object(path).get("made_of") != made_of:
            raise typer.BadParameter(
                f"{runs} holds other scans than {made_of}: name another.", param_hint="--runs"
            )
    else:
        labelled = listed(dataset, "training")
        chosen = {
            "training": [case for case in labelled if case["fold"] < 2][:LABELLED],
            "test": [case for case in labelled if case["fold"] >= 2][:tests],
        }
        scans = (runs / "scans").absolute()
        sections: dict[str, list[dict[str, Any]]] = {
            name: [changed(case, dataset, kind, amount, scans) for case in cases]
            for name, cases in chosen.items()
        }
        write_json(path, {"made_of": made_of, **sections})
    return path


def markdown(before: pd.DataFrame, after: pd.DataFrame, what: str) -> str:
    """The table for people, under what was done."""
    better = int((after["dice"] > before["dice"]).sum())
    rows = [f"| weights | {' | '.join(OVERLAPS)} |", f"|{' --- |' * (1 + len(OVERLAPS))}"]
    for name, table in (("before", before), ("after", after)):
        found = [statistics(table[key].to_numpy(), 2000, 0) for key in OVERLAPS]
        cells = [f"{one['mean']:.3f} ({one['ci_low']:.3f}–{one['ci_high']:.3f})" for one in found]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return (
        f"{what}. Means over {len(after)} test cases, with 95 % bootstrap intervals; Dice rose in {better} "
        f"of them, p = {paired_p(after['dice'], before['dice']):.2g} (Wilcoxon's signed-rank test).\n\n"
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    typer.run(main)

"""Fine-tuning, judged on the same cases before and after."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shared_nets.evaluation import read_cases
from shared_nets.experiments.crossvalidation import Experiment, telling_how_to_go_on
from shared_nets.experiments.tables import OVERLAPS, paired_p


def before_and_after(tuning: Experiment, fold: int, start: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    Evaluate weights on a fold's cases, train them, and evaluate what came of it; what is done is kept.

    Args:
        tuning: the experiment, whose training starts from these weights.
        fold: which.
        start: the weights.

    Returns:
        A row a case, as `metrics.csv`, of each evaluation; failed cases have their ``status``.

    Raises:
        UsageError: see `Experiment.check`.
        StrokeSegError: if it cannot be trained.
        KeyboardInterrupt: if it is interrupted; its message tells how to go on.
    """
    tuning.check([fold])
    with telling_how_to_go_on(fold):
        before = read_cases(tuning.evaluate(fold, start, "before"))
        tuning.train(fold)
        return before, read_cases(tuning.evaluate(fold, None, "after"))


def before_and_after_text(before: pd.DataFrame, after: pd.DataFrame, which: str) -> str:
    """
    What fine-tuning brought, over the cases that neither evaluation failed on.

    Args:
        before: a row a case.
        after: the same cases.
        which: what these are called: ``"held-out"``, of which the epoch was chosen, so that a p value would
            say nothing of others, or ``"test"``.
    """
    before, after = (rows[rows["status"] == "ok"].set_index("scan") for rows in (before, after))
    both = before.index.intersection(after.index)
    before, after = before.loc[both], after.loc[both]
    if which == "test":
        told = f"Dice: p = {paired_p(after['dice'], before['dice']):.2g} (Wilcoxon's signed-rank test)"
    else:
        told = "No p value: the epoch was chosen on these cases, which flatters (--evaluate-on test has one)."
    return "\n".join(
        [
            f"Mean over {len(both)} {which} cases, before and after:",
            *(f"  {key:<10} {before[key].mean():.3f}  {after[key].mean():.3f}" for key in OVERLAPS),
            told,
        ]
    )

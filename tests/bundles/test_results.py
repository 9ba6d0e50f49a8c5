"""README, cards and metadata tell of the simulated cases what docs/results has."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from tests.commands import ROOT

RESULTS = ROOT / "docs" / "results"
TITLES = {"xnet": "X-Net", "cnnres": "CNN-Res"}


def rows_of_all(text: str, first: str) -> list[list[str]]:
    """Cells of a Markdown text's table rows that begin so."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {first}")]


@pytest.mark.parametrize("name", list(TITLES))
def test_the_mean_dice_of_simulated_cases_is_the_tables(name: str) -> None:
    cases = pd.read_csv(RESULTS / f"simulated_{name}.csv").query("method == @name")
    dice, false_ml = f"{cases['dice'].mean():.2f}", f"{cases['false_positive_ml'].mean():.1f}"

    ((_, _, number, with_interval, *_, marked),) = rows_of_all(
        (RESULTS / f"simulated_{name}.md").read_text(), f"{name} | all |"
    )
    assert (number, with_interval.split()[0], marked) == (str(len(cases)), dice, false_ml)

    card = (ROOT / f"{name}_bundle" / "docs" / "README.md").read_text()
    ((_, in_card, marked_in_card, *_),) = rows_of_all(card, "all, ")
    assert (in_card, marked_in_card) == (with_interval, false_ml)

    metadata = json.loads((ROOT / f"{name}_bundle" / "configs" / "metadata.json").read_text())
    assert f"{metadata['eval_metrics'][f'mean_dice_{number}_simulated_cases']:.2f}" == dice

    in_readme = re.search(rf"(\d\.\d\d) \({TITLES[name]}\b", (ROOT / "README.md").read_text())
    assert in_readme, f"README.md tells no mean Dice of {TITLES[name]}, as in 0.50 ({TITLES[name]})"
    assert in_readme[1] == dice

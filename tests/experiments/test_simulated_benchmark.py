"""What `benchmarks/simulated_test.py` tells of few cases, and what its likes share."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.commands import ROOT


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks find each other as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("volumes", [[5.0], [5.0] * 6, [1.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
def test_few_or_equal_volumes_make_fewer_parts(volumes: list[float]) -> None:
    module: Any = importlib.import_module("simulated_test")
    n = len(volumes)
    columns = dict.fromkeys(module.COLUMNS, 0.5)
    table = pd.DataFrame(
        {"method": "xnet", "case": [f"sim{i}" for i in range(n)], "reference_ml": volumes, **columns}
    )
    rows = [line.split(" | ") for line in module.markdown(table).splitlines()[2:]]
    assert rows[0][1:3] == ["all", str(n)]
    parts = [int(row[2]) for row in rows[1:]]
    assert sum(parts) in (0, n)
    assert len(parts) == 3 or n < 6 or len(set(volumes)) == 1


def test_cases_and_tables(tmp_path: Path) -> None:
    module: Any = importlib.import_module("common")
    cases = [{"name": "a", "image": "a.nii.gz"}, {"name": "b", "image": ["b0.nii.gz", None]}]
    (tmp_path / "datalist.json").write_text(json.dumps({"test": cases[1:], "training": cases[:1]}))
    assert module.listed(tmp_path, "training", "validation", "test") == cases
    assert [module.image_in(tmp_path, case) for case in cases] == [
        str(tmp_path / "a.nii.gz"),
        [str(tmp_path / "b0.nii.gz"), None],
    ]
    module.write_tables(pd.DataFrame({"x": [1 / 3]}), "1–2 mL\n", tmp_path / "new" / "t")
    assert (tmp_path / "new" / "t.csv").read_text() == "x\n0.3333\n"
    assert (tmp_path / "new" / "t.md").read_text(encoding="utf-8") == "1–2 mL\n"

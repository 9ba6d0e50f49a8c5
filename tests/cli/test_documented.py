"""What `strokeseg predict --help` and docs/cohorts.md say of the options is so in the bundles' configs."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import pytest
import typer

from shared_nets import LesionSegmenter
from shared_nets.cli import app
from tests.commands import ROOT

MODELS = {"xnet": "X-Net", "cnnres": "CNN-Res"}
CONFIGS: dict[str, dict[str, Any]] = {
    name: json.loads((ROOT / f"{name}_bundle" / "configs" / "inference.json").read_text()) for name in MODELS
}
COHORTS = (ROOT / "docs" / "cohorts.md").read_text()
SECTION = COHORTS.split("## Options that change results")[1].split("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.split(" | ")] for line in SECTION.splitlines() if line.startswith("| `")
]
TABLE = {row[1].strip("`"): row for row in ROWS}
"""Rows of the table of options that change results, by their name in inference.json."""

OTHERS = {
    "model", "scans", "dwi", "flair", "participant_label", "session",  # what is segmented
    "output", "save_probability", "save_labels", "overwrite", "shard",  # what is written
    "quiet", "json_lines", "debug",  # what is told
    "backend",  # who computes, by far less than masks show
}  # fmt: skip
"""Parameters of `predict` that are in no row of the table."""


def options() -> dict[str, Any]:
    """`predict`'s parameters by their names in Python, as the command line has them."""
    command = typer.main.get_command(app).commands["predict"]  # type: ignore[attr-defined]
    return {parameter.name: parameter for parameter in command.params if parameter.name != "help"}


def in_words(value: object) -> str:
    """A setting as the table writes it."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(
    "setting", ["threshold", "peak_threshold", "smallest_lesion_ml", "smoothing_mm", "mirror", "dwi_decides"]
)
def test_the_tables_defaults_are_the_configs(setting: str) -> None:
    values = {name: config[setting] for name, config in CONFIGS.items() if setting in config}
    if len(set(values.values())) == 1:
        expected = in_words(next(iter(values.values())))
    else:
        expected = ", ".join(f"{MODELS[name]} {in_words(value)}" for name, value in values.items())
    assert TABLE[setting][2] == expected


@pytest.mark.parametrize("setting", ["threshold", "peak_threshold", "smallest_lesion_ml", "smoothing_mm"])
def test_the_helps_defaults_are_the_configs(setting: str) -> None:
    values = {name: config[setting] for name, config in CONFIGS.items()}
    if len(set(values.values())) == 1:
        expected = f"{values['xnet']}"
    else:
        expected = ", ".join(f"{value} ({name})" for name, value in values.items())
    assert options()[setting].help.endswith(f"; as shipped {expected}.")


def test_who_mirrors_and_what_a_cpu_computes_in_by_default() -> None:
    by_default = [name for name, config in CONFIGS.items() if config["mirror"]]
    assert options()["mirror"].help.endswith(f"; by default for {' and '.join(by_default)}.")
    (precision,) = {config["cpu_precision"] for config in CONFIGS.values()}
    assert f" {precision} by default" in options()["cpu_precision"].help
    assert TABLE["cpu_precision"][2] == f"`{precision}`"
    (weights,) = {config["weights"] for config in CONFIGS.values()}
    assert "models/model.pt" in weights
    assert "models/model.pt" in TABLE["weights"][2]
    assert "models/model.pt" in options()["weights"].help
    (backend,) = {config["backend"] for config in CONFIGS.values()}
    assert f"by default ({backend})" in options()["backend"].help
    (shard,) = {config["shard"] for config in CONFIGS.values()}
    assert f"{shard} (default)" in options()["shard"].help


def test_the_command_python_and_the_table_have_the_same_settings() -> None:
    """An option that is new changes results, and so is in all three, or is told of among the others here."""
    table = {name if name != "–" else "bundle" for name in TABLE}
    assert len(ROWS) == len(table) == 10
    assert SECTION.strip().startswith("There are ten.")
    assert set(options()) - OTHERS == table
    python = set(inspect.signature(LesionSegmenter).parameters)
    assert python - {"model", "backend"} == table


def test_the_table_names_each_option_as_the_command_does() -> None:
    known = options()
    for setting, (named, *_) in TABLE.items():
        option = known["bundle" if setting == "–" else setting]
        assert set(re.findall(r"--[a-z-]+", named)) <= {*option.opts, *option.secondary_opts}
        assert option.opts[0] in named


def test_what_a_mask_records_is_in_the_table() -> None:
    """Of the settings of its own that a user can set: `precision` follows from two of them."""
    for config in CONFIGS.values():
        recorded = set(config["records"]["settings"]) - {"precision"}
        plain = {name for name in recorded if not isinstance(config.get(name), (dict, list, type(None)))}
        assert "threshold" in plain
        assert plain <= set(TABLE)


def test_every_option_has_the_name_in_the_config_that_is_told() -> None:
    told = COHORTS.split("In `inference.json` options have their own name")[1].split("\n\n")[0]
    others = dict(re.findall(r"`--([a-z-]+)`\s+\(`([a-z_]+)`\)", told))
    assert len(others) == 5
    for name, option in options().items():
        if option.param_type_name != "option" or name in ("model", "dwi", "flair"):
            continue
        flag = max(option.opts, key=len).removeprefix("--")
        assert others.get(flag, flag.replace("-", "_")) in CONFIGS["cnnres"], flag

"""Which labelled cases are scored: a section's, or those of a whole data set, each once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared_nets.data import find_cases
from shared_nets.data.names import Case
from shared_nets.data.pooled import pooled_cases
from shared_nets.errors import ScanNotFoundError, UsageError
from shared_nets.evaluation import labelled_cases
from tests.bundles.configs import items, write_list

Folders = Mapping[str, Path]


def source(path: Path, fold: int | None = None) -> Callable[..., list[Case]]:
    """A config's ``cases``."""
    return partial(find_cases, source=str(path), modalities=["T1w"], fold=fold)


def names(cases: list[Case]) -> list[str]:
    """In order."""
    return sorted(case["name"] for case in cases)


@pytest.mark.parametrize("fold", [None, 1])
def test_all_are_the_labelled_cases_of_every_fold_and_section(
    trees: Folders, tmp_path: Path, fold: int | None
) -> None:
    folds = [case for n in (1, 2) for case in items("xnet", [n], fold=n % 2)]
    data = write_list(
        tmp_path / "list.json", trees["xnet"], training=folds, validation=items("xnet", [3]),
        test=items("xnet", [4, 5]),
    )  # fmt: skip
    content: dict[str, Any] = json.loads(data.read_text())
    del content["test"][1]["label"]  # hidden
    data.write_text(json.dumps(content))
    found = labelled_cases(source(data, fold), "all")
    assert names(found) == ["case1", "case2", "case3", "case4"]
    assert all(Path(case["label"]).is_file() for case in found)
    assert names(labelled_cases(source(data, fold), "test")) == ["case4"]


@pytest.mark.parametrize("key", ["training", None])
def test_a_list_without_test_cases_and_one_without_sections_are_whole(
    trees: Folders, tmp_path: Path, key: str | None
) -> None:
    data = write_list(tmp_path / "list.json", trees["xnet"], training=items("xnet", range(1, 6)))
    if key is None:
        data.write_text(json.dumps(json.loads(data.read_text())["training"]))
    assert names(labelled_cases(source(data), "all")) == [f"case{n}" for n in range(1, 6)]


def test_cases_of_one_name_in_two_sections_are_told_apart(trees: Folders, tmp_path: Path) -> None:
    tree = Path(shutil.copytree(trees["xnet"], tmp_path / "tree"))
    assert {p.name for p in (tree / "imagesTs").iterdir()} <= {p.name for p in (tree / "imagesTr").iterdir()}
    shutil.copytree(tree / "labelsTr", tree / "labelsTs", dirs_exist_ok=True)
    found = labelled_cases(source(tree), "all")
    assert len({case["name"] for case in found}) == len(found) == 7
    shutil.rmtree(tree / "labelsTs")
    assert len(labelled_cases(source(tree), "all")) == 5


def test_pooled_channels_are_all_there(trees: Folders) -> None:
    cases = partial(pooled_cases, source=str(trees["cnnres"]))
    assert len(labelled_cases(cases, "all")) >= 10


def test_what_cannot_be_evaluated_is_told(trees: Folders, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no section 'al' .* choose one of training, validation, test, all"):
        labelled_cases(source(trees["xnet"]), "al")
    with pytest.raises(ScanNotFoundError, match=r"no\.json is not there"):
        labelled_cases(source(tmp_path / "no.json"), "all")
    with pytest.raises(UsageError, match="scans without labels"):
        labelled_cases(source(trees["xnet"] / "imagesTs"), "all")
    broken = write_list(tmp_path / "list.json", trees["xnet"], training=items("xnet", [1]), test=[])
    broken.write_text(json.dumps(json.loads(broken.read_text()) | {"test": "case4.nii.gz"}))
    with pytest.raises(UsageError, match="'test' must be a list of cases"):
        labelled_cases(source(broken), "all")

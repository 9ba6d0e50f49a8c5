"""The bundles' configs as commands name them, changed copies, and data lists of the small heads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import MODALITIES

WORKFLOWS = {
    "training": ("train",),
    "evaluating": ("train", "evaluate"),
    "inference": ("inference",),
}
"""Each workflow's configs, in the order in which they are laid over each other."""

QUICK = {"slices_per_scan": 1, "scans_per_batch": 2, "learning_rate": 0.001}
"""Settings of a training that takes seconds."""


def config(folder: Path, *files: str) -> str:
    """``--config_file`` of one file of a bundle, or several laid over each other."""
    paths = [str(folder / "configs" / f"{file}.json") for file in files]
    return paths[0] if len(paths) == 1 else str(paths)


def items(name: str, numbers: Iterable[int], **keys: Any) -> list[dict[str, Any]]:
    """A data list's items for cases of a bundle's tree, paths relative to it."""
    modalities = len(MODALITIES[name])
    endings = [f"_{channel:04d}" for channel in range(modalities)] if modalities > 1 else [""]
    cases = []
    for number in numbers:
        image = [f"imagesTr/case{number}{ending}.nii.gz" for ending in endings]
        label = f"labelsTr/case{number}.nii.gz"
        cases.append({"image": image if modalities > 1 else image[0], "label": label, **keys})
    return cases


def write_list(path: Path, tree: Path, **sections: Sequence[Mapping[str, Any]]) -> Path:
    """
    A data list of a tree that lies elsewhere, by absolute paths: no test writes into a tree that all read.

    Args:
        path: where the list goes.
        tree: the folder that the items' paths start from.
        sections: `items` by the name of their section.
    """
    content = {
        section: [case | {key: _inside(tree, case[key]) for key in ("image", "label")} for case in cases]
        for section, cases in sections.items()
    }
    path.write_text(json.dumps(content))
    return path


def _inside(tree: Path, paths: str | Sequence[str]) -> str | list[str]:
    return str(tree / paths) if isinstance(paths, str) else [str(tree / path) for path in paths]


def of_version(folder: Path, version: str | None, target: Path) -> Path:
    """A copy of a bundle that says it is made for a version of the package."""
    shutil.copytree(folder, target)
    path = target / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    if version is None:
        del content["required_packages_version"]["shared_nets"]
    else:
        content["required_packages_version"]["shared_nets"] = version
    path.write_text(json.dumps(content))
    return target

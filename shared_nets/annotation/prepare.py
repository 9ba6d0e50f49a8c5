"""A folder that MONAI Label's server starts from, with bundles to segment by and to train."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from shared_nets.bundles import NOT_PASSED_ON, check_parts
from shared_nets.errors import OutputError, UsageError
from shared_nets.files import new_folder, reason, write_text
from shared_nets.versions import check_version
from shared_nets.weights import CURRENT

logger = logging.getLogger(__name__)

MAIN = '''"""MONAI Label's server loads the app from here."""

from shared_nets.annotation.app import LesionApp  # noqa: F401
'''
PARTS = ("configs", "docs", "models", "shared_nets", "LICENSE")
OTHER_TASKS = ("detection", "classification", "deepgrow", "deepedit")


def prepare_app(app_dir: str | Path, bundles: Sequence[str | Path]) -> Path:
    """
    Make an app folder for MONAI Label: ``main.py`` and, under ``model``, a copy of each bundle.

    The copies are the server's own: training there replaces their ``models/model.pt``, never the originals'.

    Args:
        app_dir: the folder to make. Bundles may be added to one made earlier.
        bundles: folders of bundles.

    Returns:
        The folder.

    Raises:
        UsageError: if a folder is no bundle with weights, is made for another version of this package, has a
            name that MONAI Label takes for another task, or is in the app already; if the folder holds
            another ``main.py``.
        OutputError: if the folder cannot be written; no bundle is then added.
    """
    app_dir = Path(app_dir)
    main = app_dir / "main.py"
    if main.is_file() and main.read_bytes() != MAIN.encode():
        raise UsageError(f"{main} is not of such an app, and would be overwritten: name another folder.")
    targets = {Path(bundle).resolve(): app_dir / "model" / Path(bundle).resolve().name for bundle in bundles}
    for bundle, target in targets.items():
        _check(bundle, target)
    if len(set(targets.values())) < len(targets):
        names = ", ".join(map(str, targets))
        raise UsageError(
            f"{names}: two of these folders have one name, by which the server knows them; rename one."
        )
    # A server must not find half a bundle; nor may one be left, after another failed, that bars a repetition.
    with ExitStack() as stack:
        parts = {bundle: stack.enter_context(new_folder(target)) for bundle, target in targets.items()}
        for bundle, part in parts.items():
            try:  # here, where it is known which of them failed
                _copy(bundle, part)
            except shutil.Error as error:  # of all the files that failed, with the system's words
                raise OutputError(
                    f"{bundle} cannot be copied to {targets[bundle]} ({error.args[0][0][2]}): free some "
                    f"space, or correct the permissions."
                ) from error
            except OSError as error:
                raise OutputError(f"{targets[bundle]} cannot be written: {reason(error)}") from error
        write_text(main, MAIN)
    return app_dir


def _copy(bundle: Path, part: Path) -> None:
    """The parts of a bundle that a server needs, without what trainings left."""
    for name in PARTS:
        if (bundle / name).is_dir():
            ignore = shutil.ignore_patterns(*NOT_PASSED_ON, "*.ckpt")
            shutil.copytree(bundle / name, part / name, ignore=ignore)
        elif (bundle / name).is_file():
            shutil.copy2(bundle / name, part / name)


def bundles_to_serve(folder: Path, models: str) -> tuple[dict[str, str], list[str]]:
    """
    The bundles that a server offers.

    Args:
        folder: holds the bundles' folders.
        models: the names of those wanted, with commas; all if empty.

    Returns:
        The bundles' folders by name, and a sentence on each that is left out: of another version, without
        weights, or with a metadata.json that cannot be read.

    Raises:
        UsageError: if a bundle is wanted that is not there, or none can be served.
    """
    configs = folder.glob("[!.]*/configs/inference.json")
    found = {config.parents[1].name: config.parents[1] for config in configs}
    wanted = [name.strip() for name in models.split(",") if name.strip()] or sorted(found)
    served: dict[str, str] = {}
    refused: list[str] = []
    for name in wanted:
        if name not in found:
            there = ", ".join(sorted(found)) or "none"
            raise UsageError(f"{name}: there is no such bundle in {folder}; there are: {there}.")
        try:
            check_parts(found[name], "to serve", (CURRENT,))
            check_version(found[name])
            served[name] = str(found[name])
        except UsageError as error:
            logger.error("Not served: %s", error)
            refused.append(f"Not served: {error}")
    if not served:
        raise UsageError(" ".join([f"{folder} holds no bundle that can be served.", *refused]))
    return served, refused


def _check(bundle: Path, target: Path) -> None:
    check_parts(bundle, "to serve", ("configs/inference.json", "configs/metadata.json", CURRENT))
    for task in OTHER_TASKS:
        if task in bundle.name.lower():
            raise UsageError(
                f"{bundle}: MONAI Label takes a bundle with {task!r} in its name for another task; "
                f"rename the folder."
            )
    others = [path for path in (bundle / "models").glob("*.pt") if path.name != "model.pt"]
    if others:
        raise UsageError(
            f"{others[0]}: MONAI Label would offer this file as weights; leave only model.pt in the folder."
        )
    check_version(bundle)
    if target.exists():
        raise UsageError(
            f"{target} is there already, perhaps with weights trained in it; take another folder."
        )

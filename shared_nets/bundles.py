"""The bundles that come with this package: where they are, and running their configs."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from shared_nets.errors import UsageError, instead


class Model(str, Enum):
    """The networks that come as bundles."""

    xnet = "xnet"
    cnnres = "cnnres"


MODALITIES = {Model.xnet: ("T1w",), Model.cnnres: ("DWI", "FLAIR")}
"""What each model's bundle reads."""

NOT_PASSED_ON = (".*", "__pycache__", "monailabel_train.json")
"""Names in a bundle's folders that are no part of it; the last is MONAI Label's, with the paths of all cases
that it trained on."""

OF_TRACKING = ("tracking_uri", "experiment_name", "run_name", "save_execute_config")
"""What ``monai.bundle run --tracking`` takes beside its own arguments."""


class Backend(str, Enum):
    """What can compute a network, see :func:`shared_nets.inference.for_inference`."""

    auto = "auto"
    openvino = "openvino"
    onnxruntime = "onnxruntime"
    torch = "torch"


class CpuPrecision(str, Enum):
    """In what a CPU can compute a network, see :func:`shared_nets.inference.for_inference`."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


def bundle_folder(model: str, bundle: Path | None = None) -> Path:
    """
    The bundle to run: one that the user names, or the one that this package lies beside or in.

    It lies beside both in the repository, and in each of them in a released archive.

    Args:
        model: ``xnet`` or ``cnnres``.
        bundle: the folder named.

    Raises:
        UsageError: if there is no bundle, or one of another model.
    """
    folder = bundle or (_ROOT if _lies_in_one() else _ROOT / f"{model}_bundle")
    if not (folder / "configs" / "inference.json").is_file():
        raise UsageError(
            f"{folder} is no bundle (no configs/inference.json): name one's folder with --bundle."
        )
    scans = read_inference_config(folder).get("scans")
    reads = scans.get("modalities", ()) if isinstance(scans, dict) else ()
    if not set(reads) & set(MODALITIES[Model(model)]):
        for other in Model:
            if set(reads) & set(MODALITIES[other]):
                raise UsageError(
                    f"{folder}: this bundle reads {' and '.join(reads)}; say {other.value}, not {model}."
                )
    return folder


def own_bundles() -> list[Path]:
    """
    The bundles that this package lies beside; in a released archive, the one that it lies in.

    Raises:
        UsageError: if it lies beside none.
    """
    return [_ROOT] if _lies_in_one() else [bundle_folder(model.value) for model in Model]


_ROOT = Path(__file__).resolve().parents[1]


def _lies_in_one() -> bool:
    """Whether this package is part of an unpacked archive."""
    return (_ROOT / "configs" / "inference.json").is_file()


def check_parts(bundle: Path, purpose: str, parts: Iterable[str]) -> None:
    """
    Refuse a folder in which a file is missing.

    Args:
        bundle: the bundle's folder.
        purpose: what it shall serve for, for the message: ``to release``.
        parts: the files' paths in it.

    Raises:
        UsageError: naming the first that is missing.
    """
    for part in parts:
        if not (bundle / part).is_file():
            raise UsageError(
                f"{bundle} is no bundle {purpose} ({part} is missing): add it, or name another folder."
            )


NO_RECIPES = {"train.json", "evaluate.json", "inference.json", "metadata.json"}
"""Configs of every bundle that are none to lay over train.json."""


def recipe_files(bundle: Path, recipes: Iterable[Path] | None) -> tuple[Path, ...]:
    """
    Configs to lay over a bundle's train.json.

    Args:
        bundle: its folder.
        recipes: by their path, or by their name in the bundle's configs.

    Raises:
        UsageError: if one is at neither place.
    """
    found = []
    for recipe in recipes or []:
        inside = bundle / "configs" / recipe
        path = recipe if recipe.is_file() else inside
        if not path.is_file():
            names = sorted({p.name for p in (bundle / "configs").glob("*.json")} - NO_RECIPES)
            raise UsageError(f"{recipe} is not there, and {bundle.name} has only {', '.join(names)}.")
        found.append(path.resolve())
    return tuple(found)


def plain_path(path: str | os.PathLike[str]) -> str:
    """
    A path as a value in a config: absolute, since MONAI runs what begins with ``$`` and follows ``@`` and
    ``%``, which names of files may begin with.

    Args:
        path: any, ``~`` included.
    """
    return str(Path(os.path.expanduser(path)).absolute())  # leaves ~x of no user x alone


def run_inference(bundle: Path, settings: dict[str, Any]) -> None:
    """
    Run a bundle's inference.json with settings overridden.

    Args:
        bundle: the bundle's folder.
        settings: values by their id in inference.json.

    Raises:
        StrokeSegError: if nothing can be segmented.
        SystemExit: with code 1 if a scan failed.
    """
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        workflow_type="infer",
        bundle_root=plain_path(bundle),
        **settings,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def check_settings(bundle: Path, settings: Iterable[str]) -> None:
    """
    Refuse what a bundle's inference.json, perhaps of another version, would pass over in silence.

    Args:
        bundle: the bundle's folder.
        settings: ids in inference.json that are to be overridden.

    Raises:
        UsageError: if the bundle has no such setting, or its inference.json is no JSON.
    """
    config = read_inference_config(bundle)
    for setting in settings:
        if setting not in config:
            raise UsageError(f"{bundle}: this bundle has no setting {setting}; leave it out.")


def config_of(command: Sequence[str]) -> dict[str, Any] | None:
    """
    The config files that a command of ``monai.bundle`` names, laid over each other as MONAI does; values set
    on the command line are not in it. None if the command names none.
    """
    from fire.parser import DefaultParseValue
    from monai.bundle import ConfigParser

    for word, following in zip(command, [*command[1:], ""], strict=True):
        option, _, value = word.partition("=")
        if option == "--config_file":
            config: dict[str, Any] = ConfigParser.load_config_files(DefaultParseValue(value or following))
            return config
    return None


def check_command(command: Sequence[str]) -> None:
    """
    Refuse options of ``python -m monai.bundle run`` that its config files do not have, as mistyped ones.

    MONAI adds them to the config, where nothing reads them, and the run looks as if it had heard them.

    Args:
        command: as in ``sys.argv``; other programs' are not looked at.

    Raises:
        UsageError: if an option is neither MONAI's nor a top-level name of the config files.
    """
    from monai.bundle import ConfigParser, run

    is_run = Path(command[0]).parts[-3:] == ("monai", "bundle", "__main__.py") and command[1] == "run"
    config = config_of(command) if is_run else None
    if config is None:
        return
    known = [*config, *inspect.signature(run).parameters, *OF_TRACKING, ConfigParser.meta_key]
    for word in command[2:]:
        if word == "--":
            break  # what follows are Fire's own
        option = re.split("=|#|::", word)[0].removeprefix("--").lstrip("+").replace("-", "_")
        if word.startswith("--") and option not in known:
            raise UsageError(
                f"--{option}: the config files have no such setting; {instead(option, known, '--')}"
            )


def read_metadata(bundle: str | Path) -> dict[str, Any]:
    """
    What a bundle says of itself, its metadata.json.

    Args:
        bundle: the bundle's folder.

    Raises:
        UsageError: if the file is missing or no JSON object.
    """
    return read_object(Path(bundle, "configs", "metadata.json"))


def read_inference_config(bundle: str | Path) -> dict[str, Any]:
    """
    A bundle's inference.json, nothing in it followed or evaluated.

    Args:
        bundle: the bundle's folder.

    Raises:
        UsageError: if the file is missing or no JSON object.
    """
    return read_object(Path(bundle, "configs", "inference.json"))


def read_object(path: Path) -> dict[str, Any]:
    """
    The object that a JSON file must hold.

    Args:
        path: the file.

    Raises:
        UsageError: if it is missing or no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no object in braces")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not readable JSON ({error}): correct it.") from error
    return config

"""The bundles that come with this package: where they are, and running their configs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

from shared_nets.errors import UsageError


class Model(str, Enum):
    """The networks that come as bundles."""

    xnet = "xnet"
    cnnres = "cnnres"


class Backend(str, Enum):
    """What can compute a network, see :func:`shared_nets.inference.for_inference`."""

    auto = "auto"
    openvino = "openvino"
    onnxruntime = "onnxruntime"
    torch = "torch"


def bundle_folder(model: str, bundle: Path | None = None) -> Path:
    """
    The bundle to run: one that the user names, or the one that this package lies beside or in.

    It lies beside both in the repository, and in each of them in a released archive.

    Args:
        model: ``xnet`` or ``cnnres``.
        bundle: the folder named.

    Raises:
        UsageError: if there is no bundle.
    """
    root = Path(__file__).resolve().parents[1]
    folder = bundle or (root if root.name == f"{model}_bundle" else root / f"{model}_bundle")
    if not (folder / "configs" / "inference.json").is_file():
        raise UsageError(
            f"{folder} is no bundle (no configs/inference.json): name one's folder with --bundle."
        )
    return folder


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
        bundle_root=str(bundle),
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
        UsageError: if the bundle has no such setting, or its inference.json cannot be read.
    """
    path = bundle / "configs" / "inference.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not readable JSON ({error}): correct it.") from error
    for setting in settings:
        if setting not in config:
            raise UsageError(f"{bundle}: this bundle has no setting {setting}; leave it out.")

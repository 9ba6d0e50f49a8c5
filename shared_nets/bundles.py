"""The bundles that come with this package: where they are, and running their configs."""

from __future__ import annotations

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
    The bundle to run: one that the user names, or the one beside this package, as in the repository.

    Args:
        model: ``xnet`` or ``cnnres``.
        bundle: the folder named.

    Raises:
        UsageError: if there is no bundle.
    """
    folder = bundle or Path(__file__).resolve().parents[1] / f"{model}_bundle"
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

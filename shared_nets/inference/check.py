"""What can be told before any work: no scans, no weights, no GPU, no place for results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from shared_nets.errors import DeviceError, ScanNotFoundError, StrokeSegError, UsageError, WeightsError
from shared_nets.inference.outputs import make_output_folder


def check_run(
    dataset_dir: Any,
    output_dir: str | Path | None = None,
    weights: str | Path | None = None,
    device: torch.device | str | None = None,
    find: Callable[[], Sequence[Any]] | None = None,
) -> None:
    """
    Make sure that a run can start, or say in one sentence why not and exit.

    It stands first in a bundle's ``run`` list: any later error inside a config is told by the bundle
    command line in dozens of tracebacks, and in ``initialize`` an exit would end programs that only
    create the workflow.

    Args:
        dataset_dir: folder or data list with the scans, or what else ``find_cases`` takes.
        output_dir: where results go; created if need be.
        weights: the network's weights file.
        device: where the network runs.
        find: lists the scans; :func:`shared_nets.data.find_cases` of ``dataset_dir`` by default.

    Raises:
        SystemExit: with code 1, after one sentence on standard error.
    """
    try:
        check_scans(dataset_dir, find)
        if weights is not None:
            check_weights(weights)
        if device is not None:
            check_device(device)
        if output_dir is not None:
            make_output_folder(output_dir)
    except StrokeSegError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


def check_scans(dataset_dir: Any, find: Callable[[], Sequence[Any]] | None = None) -> None:
    """
    Args:
        dataset_dir: folder or data list with the scans, or what else ``find_cases`` takes.
        find: lists the scans, see :func:`check_run`.

    Raises:
        UsageError: if no ``dataset_dir`` is named.
        ScanNotFoundError: if it is not there or holds no scans.
    """
    if not dataset_dir:
        raise UsageError("No scans are named: add --dataset_dir FOLDER, the folder with your scans.")
    if isinstance(dataset_dir, (str, Path)) and not Path(dataset_dir).exists():
        raise ScanNotFoundError(
            f"{dataset_dir}: there is no such file or folder; check the path "
            f"(a relative one starts from {Path.cwd()})."
        )
    if find is None:
        from shared_nets.data import find_cases

        find = partial(find_cases, dataset_dir)

    if not find():
        raise ScanNotFoundError(f"{dataset_dir}: it holds no scans; they must end in .nii.gz or .nii.")


def check_weights(weights: str | Path) -> None:
    """
    Args:
        weights: the network's weights file.

    Raises:
        WeightsError: if it is not there.
    """
    if not Path(weights).is_file():
        raise WeightsError(
            f"{weights}: there is no such weights file; run from the bundle's folder, or give "
            f"--bundle_root FOLDER."
        )


def check_device(device: torch.device | str) -> None:
    """
    Args:
        device: a PyTorch device or its name.

    Raises:
        DeviceError: if this machine or this PyTorch has no such device.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"{device}: no device has this name; use cpu, cuda or cuda:NUMBER.") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"{device}: PyTorch finds no GPU here; add --device cpu, or install CUDA's driver and PyTorch."
        )
    if wanted.type == "cuda" and wanted.index is not None and wanted.index >= torch.cuda.device_count():
        raise DeviceError(
            f"{device}: this machine's GPUs are cuda:0 to cuda:{torch.cuda.device_count() - 1}; choose one."
        )
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(f"{device}: PyTorch finds no Apple GPU here; add --device cpu.")

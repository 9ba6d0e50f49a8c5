"""What can be told before any work: no weights, no GPU, no place for results."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from shared_nets.bundles import check_command
from shared_nets.devices import check_device
from shared_nets.errors import UsageError, WeightsError, tell_errors_in_words
from shared_nets.files import make_output_folder
from shared_nets.inference.backends import check_backend, check_precision
from shared_nets.switches import check_amount, is_number, is_true


def check_run(
    output_dir: str | Path,
    weights: str | Path | None = None,
    device: torch.device | str | None = None,
    debug: bool | str = False,
    backend: str | None = None,
    threshold: float = 0.5,
    smallest_lesion_ml: float = 0.0,
    cpu_precision: str = "float32",
    peak_threshold: float = 0.0,
    smoothing_mm: float = 0.0,
) -> None:
    """
    Make sure that a run can start, and have any error of ours end it with one sentence and exit code 1.

    It stands first in a bundle's ``run`` list, before anything is loaded: the bundle command line would
    tell an error inside a config in dozens of tracebacks. In ``initialize`` it would concern programs
    that only create the workflow.

    Args:
        output_dir: where results go; created if need be.
        weights: the network's weights file, if it needs one.
        device: where the network runs.
        debug: keep tracebacks; also as a command line's text, since what is wrong with it is told here too.
        backend: what computes the network, see :func:`~shared_nets.inference.for_inference`.
        threshold: see :func:`check_limits`.
        smallest_lesion_ml: see :func:`check_limits`.
        cpu_precision: see :func:`~shared_nets.inference.for_inference`.
        peak_threshold: see :func:`check_limits`.
        smoothing_mm: see :func:`check_limits`.

    Raises:
        WeightsError: if the weights are not there.
        DeviceError: if this machine has no such device.
        UsageError: if the command has an option that its config files do not have, a path is something else,
            no backend or precision has this name, a number is out of range, a switch is neither true nor
            false, or the CPU or the backend cannot compute in the precision.
        OutputError: if the output folder cannot be made or written.
    """
    tell_errors_in_words()
    tell_errors_in_words(is_true(debug))
    check_command(sys.argv)
    check_paths(output_dir=output_dir, weights=weights)
    check_limits(threshold, smallest_lesion_ml, peak_threshold, smoothing_mm)
    check_network(weights, device, backend, cpu_precision)
    make_output_folder(output_dir)


def check_paths(**paths: object) -> None:
    """
    Args:
        paths: what shall be a path or None, by its name.

    Raises:
        UsageError: if one is something else: MONAI's command line takes ``2024`` for a number.
    """
    for name, path in paths.items():
        if not isinstance(path, (str, Path, type(None))):
            raise UsageError(f"{name}: {path!r} is taken for something else than a path; write ./{path}.")


def check_network(
    weights: str | Path | None,
    device: torch.device | str | None,
    backend: str | None,
    cpu_precision: str = "float32",
) -> None:
    """
    Make sure that the network can be set up; what is None is not looked at.

    Args:
        weights: its weights file.
        device: where it runs.
        backend: what computes it, see :func:`~shared_nets.inference.for_inference`.
        cpu_precision: see there.

    Raises:
        UsageError: if no backend or precision has this name, or the CPU or the backend cannot compute in it.
        WeightsError: if the weights are not there.
        DeviceError: if this machine has no such device.
    """
    if backend is not None:
        check_backend(backend)
    if weights is not None:
        check_weights(weights)
    if device is not None:
        check_device(device)
    check_precision(cpu_precision, device, backend)


def check_limits(
    threshold: float, smallest_lesion_ml: float, peak_threshold: float = 0.0, smoothing_mm: float = 0.0
) -> None:
    """
    Args:
        threshold: probability from which on a voxel is lesion.
        smallest_lesion_ml: lesions below this volume in mL are dropped.
        peak_threshold: lesions in which no voxel has at least this probability are dropped.
        smoothing_mm: see :class:`~shared_nets.inference.SliceWindowInferer`.

    Raises:
        UsageError: if a threshold is not a number of 0–1, or the volume or distance not one of at least 0.
    """
    for name, value in {"threshold": threshold, "peak_threshold": peak_threshold}.items():
        if not is_number(value) or not 0 <= value <= 1:
            raise UsageError(f"{name} is a probability, from 0 to 1, not {value!r}.")
    check_amount("smallest_lesion_ml", smallest_lesion_ml, "a volume in mL")
    check_amount("smoothing_mm", smoothing_mm, "a distance in mm")


def check_weights(weights: str | Path) -> None:
    """
    Args:
        weights: the network's weights file.

    Raises:
        WeightsError: if it is not there.
    """
    if not Path(weights).is_file():
        raise WeightsError(
            f"{weights}: there is no such weights file; check the path, which follows the working directory "
            f"(that of a bundle's own weights: --bundle_root of monai.bundle)."
        )

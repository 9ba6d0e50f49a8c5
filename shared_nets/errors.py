"""Errors a user can act on: one sentence with the file, what is wrong with it, and what to do."""

from __future__ import annotations

import sys
from types import TracebackType


class StrokeSegError(ValueError):
    """Base of every error this package raises on purpose; its message is one sentence for the user."""


class UsageError(StrokeSegError):
    """A command, option or setting that cannot be followed."""


class ScanNotFoundError(StrokeSegError):
    """A scan, folder or data list that is not there, or a folder without scans."""


class UnreadableScanError(StrokeSegError):
    """A file that is not NIfTI, is truncated, or whose compression is corrupt."""


class ScanGeometryError(StrokeSegError):
    """A wrong dimension, a missing or singular affine, or an implausible voxel size or field of view."""


class ScanIntensityError(StrokeSegError):
    """NaN or infinite voxels, or an image that is constant."""


class ScanMismatchError(StrokeSegError):
    """DWI and FLAIR that do not overlap in space, or a mask on another grid than its scan."""


class MaskError(StrokeSegError):
    """A lesion mask that is not binary."""


class WeightsError(StrokeSegError):
    """Weights that are missing, corrupt, unsafe, or of another architecture."""


class OutputError(StrokeSegError):
    """An output folder without space or permission to write."""


class DeviceError(StrokeSegError):
    """A device that was asked for and is not there, or that ran out of memory."""


def own_error(error: BaseException | None) -> StrokeSegError | None:
    """
    The error this package raised on purpose, however deeply other libraries wrapped it.

    Args:
        error: any exception.

    Returns:
        The first :class:`StrokeSegError` in its chain of causes, or None.
    """
    while error is not None and not isinstance(error, StrokeSegError):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error


def tell_errors_in_words(debug: bool = False) -> None:
    """
    From now on, end the program on an uncaught :class:`StrokeSegError` with its sentence and exit code 1.

    MONAI's bundle command line would print dozens of chained tracebacks instead. Other errors keep their
    traceback, as do all with ``debug``. Programs that catch exceptions themselves see no difference.

    Args:
        debug: keep tracebacks.
    """
    sys.excepthook = sys.__excepthook__ if debug else _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    told = own_error(error)
    if told is not None:
        print(told, file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("Interrupted; what was finished is kept.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)

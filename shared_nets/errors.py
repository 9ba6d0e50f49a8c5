"""Errors a user can act on: one sentence with the file, what is wrong with it, and what to do."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from difflib import get_close_matches
from io import TextIOWrapper
from types import TracebackType
from typing import Any


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


class NetworkOutputError(StrokeSegError):
    """A network's output for a scan that is NaN or infinite."""


class OutputError(StrokeSegError):
    """An output folder without space or permission to write."""


class DeviceError(StrokeSegError):
    """A device that was asked for and is not there, or that ran out of memory."""


class ScanWarning(UserWarning):
    """A scan that can be used but deserves a look; one sentence, as in the errors."""


_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


def warn_of_scan(sentence: str) -> None:
    """
    Give a :class:`ScanWarning`, or hand it to who listens in this thread (:func:`scan_warnings`).

    Args:
        sentence: file, what is odd about it, and what to do.
    """
    heard = _heard.get()
    if heard is None:
        warnings.warn(sentence, ScanWarning, stacklevel=3)
    else:
        heard.append(sentence)


@contextmanager
def scan_warnings() -> Iterator[list[str]]:
    """
    A list that fills with the sentences of what is odd about scans, instead of warnings.

    Only for this thread, which :func:`warnings.catch_warnings` cannot do: scans load beside each other.
    """
    sentences: list[str] = []
    token = _heard.set(sentences)
    try:
        yield sentences
    finally:
        _heard.reset(token)


def own_error(error: BaseException | None) -> StrokeSegError | None:
    """
    The error this package raised on purpose, however deeply other libraries wrapped it.

    Args:
        error: any exception.

    Returns:
        The first :class:`StrokeSegError` in its chain of causes, or None.
    """
    return next((one for one in causes(error) if isinstance(one, StrokeSegError)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """
    An exception, its cause, the cause's cause.

    Args:
        error: any exception.
    """
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_out_of_memory(error: BaseException) -> bool:
    """
    Whether memory was short: Python's, NumPy's, or PyTorch's on a CPU or GPU, of which it tells in words.

    Args:
        error: any exception.
    """
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


_NO_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def one_sentence(error: BaseException, name: str) -> str:
    """
    What to tell the user about an error, however deeply MONAI wrapped it.

    Args:
        error: the exception caught.
        name: the scan's name.

    Returns:
        The message of the :class:`StrokeSegError` in its chain, otherwise its first cause; one line that
        names the scan.
    """
    ours = own_error(error)
    if ours is not None:
        sentence = " ".join(str(ours).split())
        # As a word where a file's name stands: a scan may be called "a".
        is_named = re.search(rf"(^|[/\\]){re.escape(name)}(?![^\W_])", sentence)
        return sentence if is_named else f"{name}: {sentence}"
    if any(map(is_out_of_memory, causes(error))):
        return f"{name}: there is not enough memory for it; close other programs, or use a machine with more."
    *_, cause = causes(error)
    first_line = next(iter(str(cause).strip().splitlines()), "").rstrip(".")
    what = f"{type(cause).__name__}: {first_line}" if first_line else type(cause).__name__
    return f"{name}: unexpected {what}; run again with debug to see where."


def tell_errors_in_words(debug: bool = False) -> None:
    """
    From now on, end the program on an uncaught :class:`StrokeSegError` with its sentence and exit code 1.

    MONAI's bundle command line would print dozens of chained tracebacks instead. So does running out of disk
    or memory, and a pipe that nobody reads any more ends the program silently; other errors keep their
    traceback, as do all with ``debug``. Programs that catch exceptions themselves see no difference. Warnings
    of ours are told as sentences too, without the line of code they come from. A request to end (SIGTERM, as
    clusters send it) does what Ctrl-C does. A path with characters that standard output or standard error
    cannot show, as in Windows's code pages, is told with ``\\u4e2d`` in their place.

    Args:
        debug: keep tracebacks.
    """
    sys.excepthook = sys.__excepthook__ if debug else _tell
    warnings.formatwarning = _format_others if debug else _format
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a program may have put something else there
            with suppress(OSError, ValueError):  # nobody may be reading, or it is closed
                stream.reconfigure(errors="backslashreplace")
    # A handler that somebody set stays; only the main thread may set one.
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


_format_others = warnings.formatwarning


def _format(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if issubclass(category, ScanWarning):
        return f"Warning: {message}\n"
    return _format_others(message, category, filename, lineno, line)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _end_progress_bars()
    told = own_error(error)
    if told is not None:
        print(told, file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print(str(error) or "Interrupted; what was finished is kept.", file=sys.stderr)
    elif any(isinstance(one, OSError) and one.errno in NO_SPACE for one in causes(error)):
        print(
            "There is no space left on a disk; free some, or choose another output folder.", file=sys.stderr
        )
    elif any(map(is_out_of_memory, causes(error))):
        print(
            "There is not enough memory: close other programs, make batches smaller, or use a machine with "
            "more.",
            file=sys.stderr,
        )
    elif any(isinstance(one, BrokenPipeError) for one in causes(error)):
        # What Python still wants to write when it ends goes nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
    else:
        sys.__excepthook__(kind, error, trace)


def _end_progress_bars() -> None:
    """So that a sentence stands on a line of its own."""
    tqdm: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    with suppress(OSError):  # nobody may be reading
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()


def few(names: Sequence[str], at_most: int = 3) -> str:
    """
    Names for a sentence: the first ones, and how many more there are.

    Args:
        names: in the order in which they are told.
        at_most: how many are named.
    """
    shown = ", ".join(names[:at_most])
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most} more"


def times(numbers: Iterable[float]) -> str:
    """Numbers along the axes: ``2×2×4``."""
    return "×".join(f"{number:g}" for number in numbers)


def instead(name: str, known: Iterable[str], prefix: str = "") -> str:
    """What to write in place of an unknown name: the one most like it, if any is."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else "leave it out."

"""Errors in words: found however deeply they are wrapped, and one sentence when nobody catches them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from shared_nets import errors
from shared_nets.errors import ScanNotFoundError, StrokeSegError, WeightsError, one_sentence, own_error

SENTENCE = "model.pt: there is no such weights file; name another."


def wrapped(*layers: Exception, cause: Exception) -> Exception:
    """``cause``, raised inside the first layer, inside the second..."""
    error = cause
    for layer in layers:
        try:
            raise layer from error
        except Exception as raised:
            error = raised
    return error


def test_all_are_value_errors_of_one_base() -> None:
    own = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
    ]
    assert len(own) > 5
    assert all(issubclass(kind, StrokeSegError) and issubclass(kind, ValueError) for kind in own)


def test_own_error_is_found_behind_any_number_of_others() -> None:
    cause = WeightsError(SENTENCE)
    assert own_error(cause) is cause
    assert own_error(wrapped(RuntimeError("a"), RuntimeError("b"), KeyError("c"), cause=cause)) is cause


def test_the_outermost_of_several_counts() -> None:
    outer = ScanNotFoundError("outer")
    assert (
        own_error(wrapped(RuntimeError("a"), outer, RuntimeError("b"), cause=WeightsError("inner"))) is outer
    )


def test_own_error_behind_one_raised_while_handling_it() -> None:
    error = RuntimeError("while handling")
    error.__context__ = WeightsError(SENTENCE)
    assert own_error(error) is error.__context__


@pytest.mark.parametrize(
    "error", [None, ValueError("theirs"), wrapped(RuntimeError("a"), cause=KeyError("b"))]
)
def test_errors_of_others_are_not_ours(error: Exception | None) -> None:
    assert own_error(error) is None


def test_what_was_dealt_with_is_not_told() -> None:
    error = wrapped(RuntimeError("new"), cause=WeightsError("dealt with"))
    error.__cause__ = None  # as `raise ... from None` leaves it
    assert error.__suppress_context__
    assert own_error(error) is None


@pytest.mark.parametrize(
    ("name", "sentence", "is_named"),
    [
        ("a", "out cannot be written: a folder has its name.", False),
        ("a", "in/data.nii.gz: it is cut short.", False),
        ("a", "in/a.nii.gz: it is cut short.", True),
        ("a", "a: the network returned NaN.", True),
        ("p1", "in/p1_dwi.nii.gz and in/p1_FLAIR.nii.gz do not overlap.", True),
        ("p1", "in/p10_dwi.nii.gz: it is cut short.", False),
        ("p1", r"C:\in\p1.nii.gz: it is cut short.", True),
        ("$print(1)", "in/$print(1).nii.gz: it is cut short.", True),
    ],
)
def test_a_sentence_that_does_not_name_the_scan_gets_its_name(
    name: str, sentence: str, is_named: bool
) -> None:
    assert one_sentence(StrokeSegError(sentence), name) == (sentence if is_named else f"{name}: {sentence}")


def end(
    raising: str, setup: str = "tell_errors_in_words()", **environment: str
) -> subprocess.CompletedProcess[str]:
    """How a program ends in which ``raising`` is executed."""
    code = f"from shared_nets.errors import *\n{setup}\n{textwrap.dedent(raising)}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment
    )


def test_an_uncaught_error_is_its_sentence_and_exit_code_1() -> None:
    done = end(f"raise WeightsError({SENTENCE!r})")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", SENTENCE + "\n")


NESTED = f"""
    try:
        try:
            raise WeightsError({SENTENCE!r})
        except Exception as error:
            raise RuntimeError("Failed to instantiate component") from error
    except Exception as error:
        raise RuntimeError("Failed to evaluate ConfigExpression") from error
"""


def test_wrapped_as_monai_wraps_it() -> None:
    done = end(NESTED)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", SENTENCE + "\n")


def test_debug_keeps_the_traceback() -> None:
    done = end(NESTED, setup="tell_errors_in_words(); tell_errors_in_words(debug=True)")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 3
    assert SENTENCE in done.stderr


def test_errors_of_others_keep_their_traceback() -> None:
    done = end("1 / 0")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    ("raising", "words"),
    [
        ("open('/dev/full', 'wb', 0).write(b'x')", "no space left on a disk"),
        ("bytes(2**62)", "not enough memory"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB.')", "not enough memory"),
    ],
)
def test_what_every_machine_runs_out_of(raising: str, words: str) -> None:
    done = end(raising)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(".\n")


def test_a_sentence_stands_on_a_line_of_its_own() -> None:
    done = end(
        f"bar = tqdm(total=9)\nraise WeightsError({SENTENCE!r})",
        "from tqdm import tqdm; tell_errors_in_words()",
    )
    assert done.stderr.splitlines()[-1] == SENTENCE


def test_a_pipe_that_nobody_reads_ends_silently() -> None:
    program = "r, w = os.pipe(); os.close(r); os.dup2(w, 1); print('a line', flush=True)"
    done = end(program, setup="import os; tell_errors_in_words()")
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_paths_that_standard_output_cannot_show_are_told_all_the_same(encoding: str) -> None:
    program = "print('scans/\u4e2d.nii.gz'); print('\u4e2d', file=sys.stderr)"
    done = end(program, "import sys; tell_errors_in_words()", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, "scans/\\u4e2d.nii.gz\n", "\\u4e2d\n")


@pytest.mark.parametrize("gone", ["sys.stdout.close()", "sys.stdout = None", "print('a'); os.close(1)"])
def test_a_program_without_standard_output(gone: str) -> None:
    done = end(f"raise WeightsError({SENTENCE!r})", f"import os, sys; {gone}; tell_errors_in_words()")
    assert SENTENCE in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupted() -> None:
    done = end("raise KeyboardInterrupt")
    assert done.returncode != 0
    assert done.stderr == "Interrupted; what was finished is kept.\n"


def test_programs_that_catch_see_no_difference() -> None:
    done = end(f"try:\n    raise WeightsError({SENTENCE!r})\nexcept ValueError as error:\n    print(error)")
    assert (done.returncode, done.stdout, done.stderr) == (0, SENTENCE + "\n", "")

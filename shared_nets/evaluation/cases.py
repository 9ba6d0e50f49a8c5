"""Which labelled cases of a data set an evaluation scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from shared_nets.data.cases import trained_and_validated
from shared_nets.data.grouping import make_names_unique
from shared_nets.data.names import Case
from shared_nets.errors import ScanNotFoundError, UsageError

ALL = "all"
EVALUATED = ("training", "validation", "test", ALL)


def labelled_cases(cases: Callable[..., Sequence[Case]], which: str) -> list[Case]:
    """
    The labelled cases of one section, or of a whole data set.

    Args:
        cases: `find_cases` of a source.
        which: ``"training"``, ``"validation"``, ``"test"``, or ``"all"``: every labelled case of the three,
            once, whatever its fold; test cases whose labels are hidden are none.

    Raises:
        UsageError: if there is no such section; and as `find_cases`.
        ScanNotFoundError: as `find_cases`; ``"all"`` needs cases that could train.
    """
    if which not in EVALUATED:
        raise UsageError(f"There is no section {which!r} to evaluate: choose one of {', '.join(EVALUATED)}.")
    if which != ALL:
        return list(cases(section=which, labelled=True))
    whole = partial(cases, fold=None)  # a fold would leave out the list's own validation section
    found, tests = trained_and_validated(whole), []
    with suppress(ScanNotFoundError):  # of a source that has no test cases
        tests = [case for case in whole(section="test", labelled=False) if "label" in case]
    # A list without sections serves each of them.
    seen = [(case["name"], case["image"]) for case in found]
    found += [case for case in tests if (case["name"], case["image"]) not in seen]
    make_names_unique(found)
    return found

"""Who trains and who validates: by subject, the same on every machine for the same seed."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from shared_nets.data.names import Case, subject_of
from shared_nets.errors import UsageError, few

Section = Literal["training", "validation", "test"]

FOLDS = 5  # a hold-out is a fifth of the subjects

logger = logging.getLogger(__name__)


def shuffled(subjects: Sequence[str], seed: int) -> list[str]:
    """
    Subjects in an order that depends on their names and the seed alone: that of a hash.

    Args:
        subjects: in any order; repeats count once.
        seed: another one gives another order.
    """
    # A name that is no UTF-8, as of an old disk, counts by its bytes.
    names = {s: f"{seed}:{s}".encode(errors="surrogateescape") for s in subjects}
    return sorted(names, key=lambda s: hashlib.sha256(names[s]).hexdigest())


def folds_of(subjects: Mapping[str, str], folds: int, seed: int) -> dict[str, int]:
    """
    Deal subjects to folds, each group evenly.

    Args:
        subjects: each one's group, such as its site; one group for all where nothing is to be balanced.
        folds: how many.
        seed: of the order.

    Returns:
        Each subject's fold. Sizes of folds differ by one at most, and so do a group's shares in them.

    Raises:
        UsageError: if there are fewer subjects than folds.
    """
    check_enough(len(subjects), folds)
    groups: dict[str, list[str]] = defaultdict(list)
    for subject in shuffled(list(subjects), seed):
        groups[subjects[subject]].append(subject)
    # The next group goes on dealing where the last one stopped.
    order = [subject for group in sorted(groups) for subject in groups[group]]
    return {subject: position % folds for position, subject in enumerate(order)}


def unshuffled_folds(subjects: Sequence[str], folds: int) -> dict[str, int]:
    """
    Consecutive subjects in the order of their names, as in X-Net's code: scikit-learn's unshuffled ``KFold``.

    Args:
        subjects: in any order; repeats count once.
        folds: how many; the first ones have a subject more where it does not divide.

    Raises:
        UsageError: if there are fewer subjects than folds.
    """
    names = sorted(set(subjects))
    check_enough(len(names), folds)
    parts = np.array_split(np.arange(len(names)), folds)
    return {names[index]: fold for fold, part in enumerate(parts) for index in part}


def parts_of(subjects: Sequence[str], sizes: tuple[int, int, int], seed: int) -> dict[str, str]:
    """
    Training, validation and test of given numbers of subjects, such as CNN-Res's 34, 5 and 5.

    Args:
        subjects: in any order; repeats count once.
        sizes: subjects of each.
        seed: of the order.

    Returns:
        Each subject's section.

    Raises:
        UsageError: if the sizes do not sum to the number of subjects.
    """
    order = shuffled(subjects, seed)
    if sum(sizes) != len(order) or min(sizes) < 0:
        raise UsageError(
            f"{'/'.join(map(str, sizes))} are {sum(sizes)} subjects, but there are {len(order)}: make them "
            f"sum to that."
        )
    sections = ["training"] * sizes[0] + ["validation"] * sizes[1] + ["test"] * sizes[2]
    return dict(zip(order, sections, strict=True))


def check_enough(subjects: int, folds: int) -> None:
    """
    Refuse folds that cannot be made.

    Args:
        subjects: how many there are.
        folds: how many are wanted.

    Raises:
        UsageError: if there are fewer subjects than folds, or fewer than two folds.
    """
    if folds < 2:
        raise UsageError(f"{folds} folds leave nothing to train on: take at least 2.")
    if subjects < folds:
        if subjects == 1:
            raise UsageError(f"{subjects} subject does not make {folds} folds: label scans of more subjects.")
        raise UsageError(f"{subjects} subjects do not make {folds} folds: take fewer folds.")


def held_out(subjects: Sequence[str], fold: int, seed: int) -> set[str]:
    """
    Every fifth subject in the order of a hash: the same on every machine, whatever the list's order.

    Args:
        subjects: in any order; repeats count once.
        fold: which fifth, from 0.
        seed: of the order.

    Raises:
        UsageError: if there is no such fold, as there are fewer subjects.
    """
    order = shuffled(subjects, seed)
    folds = number_of_folds(len(order))
    if not 0 <= fold < max(folds, 1):
        raise UsageError(f"There is no fold {fold}: {len(order)} subjects make the folds 0 to {folds - 1}.")
    return set(order[fold::folds]) if folds > 1 else set()


def number_of_folds(subjects: int) -> int:
    """How many folds a data set that names none is split in: five, or fewer where it has fewer subjects."""
    return min(FOLDS, subjects)


def read_fold(item: Mapping[str, Any], where: str) -> int:
    """
    The fold of a data list's item.

    Args:
        item: with ``fold``: a whole number, or its digits as text.
        where: the item's place, for the message.

    Raises:
        UsageError: if it is anything else.
    """
    fold = item["fold"]
    if isinstance(fold, str) and fold.isdecimal():
        return int(fold)
    if not isinstance(fold, int) or isinstance(fold, bool):
        raise UsageError(f"{where} has the fold {fold!r:.40}: give a whole number, or leave 'fold' out.")
    return fold


def split_cases(pool: Mapping[str, list[Case]], section: Section, fold: int | None, seed: int) -> list[Case]:
    """
    Training or validation: by ``fold`` keys, by the list's own sections, or by a hold-out of subjects.

    Args:
        pool: cases by section, ``training`` and, where the source has it, ``validation``.
        section: which is wanted.
        fold: which fold validates; None for the first, or the list's own validation. A list that has that
            and no ``fold`` keys has fold 0 alone.
        seed: of the hold-out.

    Raises:
        UsageError: if there is no such fold.
    """
    training = pool.get("training", [])
    has_folds = any("fold" in case for case in training)
    if pool.get("validation") and (fold is None or not has_folds):
        if fold:
            raise UsageError(
                f"There is no fold {fold}: the data list names its validation cases; leave the fold out."
            )
        tell_shared_subjects(training, pool["validation"])
        return pool.get(section, [])
    if unused := pool.get("validation"):
        logger.warning(
            "Folds leave out the list's 'validation' section: %s; give these a fold, or run without one.",
            few(sorted(str(case["name"]) for case in unused)),
        )
    wanted = 0 if fold is None else fold
    if has_folds:
        folds = sorted({case["fold"] for case in training if "fold" in case})
        if wanted not in folds:
            raise UsageError(
                f"No case of the data list is in fold {wanted}: choose one of {', '.join(map(str, folds))}."
            )
        held = [case.get("fold") == wanted for case in training]
    else:
        validating = held_out([subject_of(case) for case in training], wanted, seed)
        held = [subject_of(case) in validating for case in training]
    parts: tuple[list[Case], list[Case]] = ([], [])
    for case, out in zip(training, held, strict=True):
        parts[out].append(case)
    tell_shared_subjects(*parts)
    return parts[section == "validation"]


def tell_shared_subjects(training: Sequence[Case], judged: Sequence[Case], what: str = "validate") -> None:
    """
    Warn of subjects that a network is both trained and judged on.

    Args:
        training: cases.
        judged: other cases.
        what: what these do: ``"validate"`` or ``"test"``.
    """
    both = {subject_of(case) for case in training} & {subject_of(case) for case in judged}
    if both:
        logger.warning("The same subjects train and %s, so scores flatter: %s", what, few(sorted(both)))

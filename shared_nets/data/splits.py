"""Who trains and who validates: by subject, the same on every machine for the same seed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from shared_nets.errors import UsageError


def shuffled(subjects: Sequence[str], seed: int) -> list[str]:
    """
    Subjects in an order that depends on their names and the seed alone: that of a hash.

    Args:
        subjects: in any order; repeats count once.
        seed: another one gives another order.
    """
    return sorted(set(subjects), key=lambda s: hashlib.sha256(f"{seed}:{s}".encode()).hexdigest())


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
    size, more = divmod(len(names), folds)
    ends = [size * (fold + 1) + min(fold + 1, more) for fold in range(folds)]
    return {name: next(f for f, end in enumerate(ends) if i < end) for i, name in enumerate(names)}


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
    Raises:
        UsageError: if there are fewer subjects than folds, or fewer than two folds.
    """
    if folds < 2:
        raise UsageError(f"{folds} folds leave nothing to train on: take at least 2.")
    if subjects < folds:
        raise UsageError(f"{subjects} subjects do not make {folds} folds: take fewer folds.")

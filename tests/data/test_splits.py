"""Splits are by subject and the same everywhere."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from shared_nets.data.datalist import split_items
from shared_nets.data.splits import folds_of, parts_of, unshuffled_folds
from shared_nets.errors import UsageError

names = st.text("abcdefgh0123456789", min_size=1, max_size=6)
groups = st.dictionaries(names, st.sampled_from("ABC"), min_size=5, max_size=40)


@given(groups, st.integers(2, 5), st.integers(0, 99))
def test_folds_are_even_in_all_and_in_every_group(sites: dict[str, str], folds: int, seed: int) -> None:
    fold = folds_of(sites, folds, seed)
    assert fold.keys() == sites.keys()
    for group in ("A", "B", "C", "ABC"):
        count = Counter(fold[s] for s in sites if sites[s] in group)
        sizes = [count[f] for f in range(folds)]
        assert max(sizes) - min(sizes) <= 1


@given(groups, st.integers(0, 99), st.randoms())
def test_the_order_of_the_files_does_not_matter(sites: dict[str, str], seed: int, random) -> None:
    other = list(sites.items())
    random.shuffle(other)
    assert folds_of(dict(other), 3, seed) == folds_of(sites, 3, seed)


@given(st.lists(st.tuples(names, st.integers(1, 4)), min_size=12, max_size=40), st.integers(0, 9))
def test_a_subject_with_sessions_stays_in_one_fold(sessions: list[tuple[str, int]], seed: int) -> None:
    items = [{"name": f"{s}-{n}", "subject": s} for s, n in sessions]
    assume(len({s for s, _ in sessions}) >= 3)
    for split in ("shuffled", "unshuffled"):
        fold: dict[str, set[int]] = {}
        for item in split_items(items, 3, split, None, seed)["training"]:
            fold.setdefault(item["subject"], set()).add(item["fold"])
        assert all(len(of) == 1 for of in fold.values())


@given(st.lists(st.tuples(names, st.sampled_from("ABC")), min_size=12, max_size=40), st.integers(0, 9))
def test_stratified_by_site_a_subject_stays_in_one_fold_too(visits: list[tuple[str, str]], seed: int) -> None:
    """Even one that was scanned at several sites."""
    items = [{"name": f"{s}-{n}", "subject": s, "site": site} for n, (s, site) in enumerate(visits)]
    assume(len({s for s, _ in visits}) >= 3)
    folds: dict[str, set[int]] = {}
    for item in split_items(items, 3, "shuffled", "site", seed)["training"]:
        folds.setdefault(item["subject"], set()).add(item["fold"])
    assert all(len(of) == 1 for of in folds.values())


@given(st.lists(names, min_size=3, max_size=40, unique=True), st.integers(0, 99), st.randoms())
def test_sizes_are_kept_whatever_the_order_of_the_files(subjects: list[str], seed: int, random) -> None:
    sizes = (len(subjects) - 2, 1, 1)
    parts = parts_of(subjects, sizes, seed)
    assert sorted(parts) == sorted(subjects)
    assert [sum(part == name for part in parts.values()) for name in ("training", "validation", "test")] == [
        *sizes
    ]
    random.shuffle(subjects)
    assert parts_of(subjects, sizes, seed) == parts


@given(st.lists(st.tuples(names, st.integers(1, 3)), min_size=6, max_size=30))
def test_no_session_of_a_test_subject_trains(sessions: list[tuple[str, int]]) -> None:
    items = [{"name": f"{s}-{n}", "subject": s} for s, n in sessions]
    subjects = {s for s, _ in sessions}
    assume(len(subjects) >= 3)
    sections = split_items(items, 0, f"{len(subjects) - 2}/1/1", None, 0)
    of = [{item["subject"] for item in part} for part in sections.values()]
    assert set().union(*of) == subjects
    assert sum(map(len, of)) == len(subjects)


def test_the_same_split_on_every_machine() -> None:
    """Written down once: it must never change."""
    fold = folds_of({f"sub-{n:02d}": "" for n in range(1, 11)}, 5, seed=0)
    assert [fold[f"sub-{n:02d}"] for n in range(1, 11)] == WRITTEN_DOWN


def test_the_same_sections_on_every_machine() -> None:
    """Written down once, too."""
    parts = parts_of([f"sub-{n:02d}" for n in range(1, 11)], (6, 2, 2), seed=0)
    assert {name for name, part in parts.items() if part == "validation"} == {"sub-08", "sub-01"}
    assert {name for name, part in parts.items() if part == "test"} == {"sub-07", "sub-09"}


WRITTEN_DOWN = [2, 2, 3, 0, 0, 4, 3, 1, 4, 1]


@given(st.lists(names, min_size=5, max_size=40, unique=True), st.integers(2, 5))
def test_unshuffled_is_scikit_learns_kfold(subjects: list[str], folds: int) -> None:
    ordered = sorted(subjects)
    ours = unshuffled_folds(subjects, folds)
    for fold, (_, held) in enumerate(KFold(folds).split(ordered)):
        assert [ordered[i] for i in held] == [s for s in ordered if ours[s] == fold]


def test_cnn_res_sizes() -> None:
    parts = parts_of([f"s{n}" for n in range(44)], (34, 5, 5), seed=3)
    assert Counter(parts.values()) == {"training": 34, "validation": 5, "test": 5}
    assert parts != parts_of([f"s{n}" for n in range(44)], (34, 5, 5), seed=4)


@pytest.mark.parametrize("folds", [1, 0, 4])
def test_too_few_subjects_or_folds(folds: int) -> None:
    with pytest.raises(UsageError, match="folds"):
        folds_of({"a": "", "b": "", "c": ""}, folds, 0)


def test_sizes_that_do_not_sum() -> None:
    with pytest.raises(UsageError, match="44 subjects, but there are 43"):
        parts_of([f"s{n}" for n in range(43)], (34, 5, 5), seed=0)

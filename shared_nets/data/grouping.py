"""Files to cases: DWI with FLAIR by their names, and a name of its own for each case."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from shared_nets.data.left_out import LeftOut, in_words, leave_out
from shared_nets.data.names import (
    CHANNEL,
    MAPS,
    Case,
    before_contrast,
    case_name,
    contrast_of,
    first_path,
    flair_of,
    modality_of,
    modality_of_folder,
    paired_name,
    parse_name,
    patient_key,
    stem_of,
    without_contrasts,
)
from shared_nets.errors import ScanNotFoundError, few


def group_files(files: Iterable[Path], modalities: tuple[str, ...], left_out: LeftOut) -> list[Case]:
    """
    Cases of loose files: one a file for one modality, DWI with FLAIR by name for two.

    Args:
        files: scans, masks and ADC maps.
        modalities: what is wanted, see `find_cases`.
        left_out: gets the files that are in no case.

    Raises:
        ScanNotFoundError: if all are masks or ADC maps.
    """
    shown = {p: modality_of(p) for p in files}
    scans = [p for p in shown if shown[p] not in MAPS]
    if not scans:
        raise ScanNotFoundError(
            f"{few([str(p) for p in shown])}: named as a mask or ADC map, give a {in_words(modalities)} scan."
        )
    if others := [p for p in shown if shown[p] in MAPS]:
        leave_out(left_out, "the names say mask or ADC", others)
    # As LoadScand finds them: what is called a FLAIR itself has none beside it.
    dwis = [p for p in scans if shown[p] not in modalities[1:]] if len(modalities) > 1 else []
    pairs = {p: flair_of(p) for p in dwis if flair_of(p).is_file()}
    paired = {*pairs, *pairs.values()}

    numbers: dict[tuple[Path, str], set[int]] = defaultdict(set)
    for p in scans:
        if match := CHANNEL.fullmatch(stem_of(p)):
            numbers[p.parent, match[1]].add(int(match[2]))

    cases: list[Case] = [{"image": [str(p), str(pairs[p])], "name": paired_name(p)} for p in pairs]
    further: list[Path] = []
    groups: dict[tuple[Path, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for p in scans:
        if p in paired:
            continue
        parsed = parse_name(p)
        match = CHANNEL.fullmatch(parsed.stem)
        name, modality, key = case_name(p), parsed.modality or modality_of_folder(p), patient_key(p, parsed)
        if match and _are_channels(numbers[p.parent, match[1]], len(modalities)):
            if int(match[2]) >= len(modalities):
                further.append(p)
                continue
            name, modality, key = match[1], modalities[int(match[2])], (p.parent, match[1])
        elif match:
            name = parsed.stem
        modality = modality or contrast_of(p)
        if len(modalities) > 1 and modality in modalities:
            groups[key][str(modality)].append(p)
        else:
            cases.append({"image": str(p), "name": name})
    if len(modalities) > 1:
        _join_by_shorter_names(groups, modalities)
    if further:
        leave_out(left_out, f"the numbers say further channels than {in_words(modalities)}", further)
    return cases + [case for group in groups.values() for case in _pairs(group, modalities, left_out)]


def _join_by_shorter_names(
    groups: dict[tuple[Path, str], dict[str, list[Path]]], modalities: tuple[str, ...]
) -> None:
    """
    Pair a DWI and a FLAIR that are alone by what their names begin with: p1_DWI_b1000 with p1_FLAIR, and then
    p1_DWI with p1_FLAIR_brain, where one has nothing behind that could be another patient's.

    Only now: T1 and T2 may be points in time, by which p1_T2_FLAIR goes with p1_T2_DWI.
    """

    def join(start: Callable[[tuple[Path, str], Path], str]) -> None:
        alone: dict[tuple[Path, str], list[tuple[Path, str]]] = defaultdict(list)
        for key, group in groups.items():
            if len(group) == 1 and all(len(paths) == 1 for paths in group.values()):
                (path,) = next(iter(group.values()))
                alone[key[0], start(key, path)].append(key)
        for (_, begin), keys in alone.items():
            is_pair = sorted(m for key in keys for m in groups[key]) == sorted(modalities)
            if is_pair and any(without_contrasts(key[1]) == begin for key in keys):
                first, second = sorted(keys, key=lambda key: modalities.index(next(iter(groups[key]))))
                groups[first] |= groups.pop(second)

    join(lambda key, path: without_contrasts(key[1]))
    join(lambda key, path: before_contrast(stem_of(path)))


def _are_channels(numbers: set[int], channels: int) -> bool:
    """
    Whether ``CASE_0000``, ``CASE_0001``... are one case's channels rather than numbered scans.

    They are when they start at 0 and are at most four (nnU-Net's own data sets have no more),
    or when ``_0001`` stands alone and a second modality is known.
    """
    return (0 in numbers and max(numbers) < 4) or (numbers == {1} and channels > 1)


def _pairs(group: dict[str, list[Path]], modalities: tuple[str, ...], left_out: LeftOut) -> list[Case]:
    """The cases of one patient's session: each DWI with its FLAIR, or each FLAIR alone."""
    first, second = group.get(modalities[0], []), group.get(modalities[1], [])
    if not first:
        return [{"image": [None, str(p)], "name": paired_name(p)} for p in second]
    cases: list[Case] = []
    for p in first:
        # Of several FLAIRs of a session, the one whose run-, acq-... agree most.
        entities = set(parse_name(p).entities)
        other = max(second, key=lambda q: len(entities & set(parse_name(q).entities)), default=None)
        cases.append({"image": [str(p), str(other) if other else None], "name": paired_name(p)})
    used = {case["image"][1] for case in cases}
    if unused := [str(p) for p in second if str(p) not in used]:
        leave_out(left_out, f"another {modalities[1]} goes with the same {modalities[0]}", unused)
    return cases


def without_repeats(cases: list[Case]) -> list[Case]:
    """A scan that was named twice (itself and its folder, say) is one case."""
    return list({str((case["image"], case.get("label"))): case for case in reversed(cases)}.values())[::-1]


def make_names_unique(cases: list[Case]) -> None:
    """Tell scans of one name apart: in one folder by full name and number, else by folders before it."""
    folder = {id(case): Path(first_path(case["image"])).parent for case in cases}

    def clashing(*, within_folder: bool = False) -> list[Case]:
        def key(case: Case) -> tuple[Path | None, str]:
            return folder[id(case)] if within_folder else None, case["name"].casefold()

        count = Counter(map(key, cases))
        return [case for case in cases if count[key(case)] > 1]

    for case in clashing(within_folder=True):
        case["name"] = stem_of(Path(first_path(case["image"])))
    taken = {case["name"].casefold() for case in cases}
    again: set[tuple[Path, str]] = set()
    for case in clashing(within_folder=True):
        first, number = (folder[id(case)], case["name"].casefold()), 2
        if first not in again:
            again.add(first)
            continue
        while f"{case['name']}-{number}".casefold() in taken:
            number += 1
        case["name"] = f"{case['name']}-{number}"
        taken.add(case["name"].casefold())

    base = {id(case): case["name"] for case in cases}
    for depth in range(1, max((len(f.parts) for f in folder.values()), default=0)):
        for case in clashing():
            case["name"] = "_".join((*folder[id(case)].parts[1:][-depth:], base[id(case)]))

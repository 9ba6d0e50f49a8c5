"""find_cases: every layout a user may name, and what is said when it is not one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared_nets.data import ScanWarning, case_name, find_cases, folders, modality_of, read_folds, subject_of
from shared_nets.data.cases import left_out_of
from shared_nets.errors import ScanNotFoundError, UsageError

PAIR = ("DWI", "FLAIR")


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """``make("imagesTr/a.nii.gz", ...)`` creates empty files under tmp_path."""

    def touch(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return touch


@pytest.fixture
def data_list(tmp_path: Path) -> Any:
    def write(content: Any, name: str = "datalist.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def names(cases: list[dict[str, Any]]) -> list[str]:
    return [case["name"] for case in cases]


def images(cases: list[dict[str, Any]], root: Path) -> list[Any]:
    def short(p: str | None) -> str | None:
        return p and os.path.relpath(p, root)

    return [
        short(c["image"]) if isinstance(c["image"], str) else [short(p) for p in c["image"]] for c in cases
    ]


# ---- names ----


@pytest.mark.parametrize(
    ("file", "name", "modality"),
    [
        ("sub-1_ses-2_T1w.nii.gz", "sub-1_ses-2", "T1w"),
        ("sub-soop1_rec-TRACE_dwi.nii.gz", "sub-soop1", "DWI"),
        ("sub-1_acq-b_run-2_FLAIR.nii", "sub-1_acq-b_run-2", "FLAIR"),
        ("sub-1_space-MNI152_T1w.nii.gz", "sub-1_space-MNI152", "T1w"),
        ("sub-1_rec-ADC_dwi.nii.gz", "sub-1", "ADC"),
        ("sub-1_trace.nii.gz", "sub-1", "DWI"),
        ("sub-1_label-lesion_mask.nii.gz", "sub-1_label-lesion", "mask"),
        ("x_label-L_desc-T1lesion_probseg.nii.gz", "x_label-L_desc-T1lesion_probseg", "mask"),
        ("CASE_0000.nii.gz", "CASE", None),
        ("CASE_0001.nii.gz", "CASE", None),
        ("CASE_0017.nii.gz", "CASE_0017", None),
        ("patient.3.nii", "patient.3", None),
        ("patient3_T1w.nii", "patient3_T1w", "T1w"),
        ("FLAIR.nii.gz", "FLAIR", "FLAIR"),
        ("flairish.nii.gz", "flairish", None),
        ("sub-1_T2w.nii.gz", "sub-1", "other"),
        ("sub-01_ses-T1_T1w.nii.gz", "sub-01_ses-T1", "T1w"),
        ("sub-PD_acq-MPRAGE_T1w.nii.gz", "sub-PD", "T1w"),
        ("Müller Straße.nii.gz", "Müller Straße", None),
        ("T1_brainmask.nii.gz", "T1_brainmask", "mask"),
        ("p1_LesionSmooth.nii.gz", "p1_LesionSmooth", "mask"),
        ("p1_ROI.nii", "p1_ROI", "mask"),
        ("p1_CT.nii.gz", "p1_CT", "other"),
        ("tof.nii.gz", "tof", "other"),
        ("Scott.nii.gz", "Scott", None),
        ("sub-1_part-phase_dwi.nii.gz", "sub-1_part-phase", "other"),
        ("sub-1_part-mag_dwi.nii.gz", "sub-1_part-mag", "DWI"),
    ],
)
def test_name_and_modality_of_a_file(file: str, name: str, modality: str | None) -> None:
    assert case_name(f"/somewhere/{file}") == name
    assert modality_of(f"/somewhere/{file}") == modality


@pytest.mark.reliability(
    "Bad input", "Two scans of one name, in different folders", "Each has a name of its own in the results."
)
def test_same_name_in_different_folders_gets_the_folder_before_it(make: Any) -> None:
    root = make("a/x/T1.nii.gz", "b/x/T1.nii.gz", "b/y/other.nii.gz")
    found = find_cases([root / "a/x", root / "b/x", root / "b/y"])
    assert names(found) == ["a_x_T1", "b_x_T1", "other"]
    again = find_cases([root / "b/y", root / "b/x/T1.nii.gz", root / "a/x/T1.nii.gz"])
    assert {c["image"]: c["name"] for c in found} == {c["image"]: c["name"] for c in again}


def test_names_differ_where_only_the_extension_or_the_case_of_letters_does(make: Any) -> None:
    root = make("s/a.nii", "s/a.nii.gz", "s/A.nii.gz")
    assert names(find_cases(root / "s")) == ["A", "a-2", "a-3"]


def test_two_dwi_of_one_session_keep_their_full_names(make: Any) -> None:
    root = make("s/sub-1_acq-trace_dwi.nii.gz", "s/sub-1_acq-b1000_dwi.nii.gz", "s/sub-2_dwi.nii.gz")
    found = names(find_cases(root / "s", modalities=PAIR))
    assert found == ["sub-1_acq-b1000_dwi", "sub-1_acq-trace_dwi", "sub-2"]


def test_a_scan_named_twice_is_one_case(make: Any) -> None:
    root = make("s/a.nii.gz", "s/b.nii.gz")
    assert names(find_cases([root / "s", root / "s/a.nii.gz"])) == ["a", "b"]


def test_a_name_in_a_data_list_cannot_leave_the_output_folder(data_list: Any) -> None:
    path = data_list({"test": [{"image": "a.nii.gz", "name": "../../a"}]})
    assert names(find_cases(path)) == [".._.._a"]


# ---- folders and files ----


def test_flat_folder_leaves_out_what_is_not_the_modality(make: Any) -> None:
    root = make(
        "s/sub-1_T1w.nii.gz", "s/sub-1_FLAIR.nii.gz", "s/sub-1_T1w_label-lesion_mask.nii.gz", "s/scan.nii",
        "s/._scan.nii", "s/notes.txt", "s/sub-1_label-lesion_probseg.nii.gz", "s/sub-2_adc.nii.gz",
    )  # fmt: skip
    with pytest.warns(ScanWarning) as told:
        found = find_cases(str(root / "s"), "test", ["T1w"])
    assert images(found, root / "s") == ["scan.nii", "sub-1_T1w.nii.gz"]
    assert names(found) == ["scan", "sub-1"]
    assert [str(one.message) for one in told] == [  # masks and ADC maps are never meant
        f"{root / 's'}: left out, as the names say something else than T1w: sub-1_FLAIR.nii.gz; name a file "
        f"itself to have it segmented."
    ]


def test_what_a_folder_has_beside_its_scans_is_told(make: Any) -> None:
    """T1 and T2 may be points in time; FreeSurfer's files are not read. One line each, however many."""
    files = ["pat1_T1.nii.gz", "pat1_T1map.nii.gz", "pat1_T2.nii.gz", "fs/fs_T1w.mgz"]
    root = make(*files, *(f"old/p{n}_T2.nii" for n in range(4)))
    make(
        "old/p1.img",
        "old/p1.hdr",
        "pat1_T1_mask.nii.gz",
        "pat2_lesion.nii.gz",
        "pat1_label-lesion_mask.nii.gz",
    )
    others = ("pat1_T1map.nii.gz", "pat1_T2.nii.gz", *(f"old/p{n}_T2.nii" for n in range(4)))
    with pytest.warns(ScanWarning) as told:
        found = find_cases(root)
    assert names(found) == ["pat1_T1"]
    assert found.left_out == {
        "they are neither NIfTI, MHA, NRRD nor DICOM": [f"{root}/fs/fs_T1w.mgz", f"{root}/old/p1.img"],
        "the names say something else than T1w": [f"{root}/{name}" for name in others],
        "the names say mask or ADC": [f"{root}/pat1_T1_mask.nii.gz", f"{root}/pat2_lesion.nii.gz"],
    }
    assert [str(one.message) for one in told] == [
        f"{root}: left out, as they are neither NIfTI, MHA, NRRD nor DICOM: fs/fs_T1w.mgz, old/p1.img; "
        f"convert them to NIfTI.",
        f"{root}: left out, as the names say something else than T1w: pat1_T1map.nii.gz, pat1_T2.nii.gz, "
        f"old/p0_T2.nii and 3 more; name a file itself to have it segmented.",
    ]
    assert names(find_cases([root / "pat1_T1.nii.gz", root / "pat1_T2.nii.gz"])) == ["pat1_T1", "pat1_T2"]


@pytest.mark.parametrize(
    ("files", "modalities", "told"),
    [
        (["a.nii", "a_mask.nii"], ["T1w"], "Left out, as the names say mask or ADC: {}/a_mask.nii."),
        (
            ["C_0000.nii", "C_0001.nii", "D_0000.nii", "D_0001.nii"],
            ["T1w"],
            "Left out, as the numbers say further channels than T1w: {0}/C_0001.nii, {0}/D_0001.nii.",
        ),
        (
            ["p_dwi.nii", "p_FLAIR.nii", "p-FLAIR.nii"],
            PAIR,
            "Left out, as another FLAIR goes with the same DWI: {}/p-FLAIR.nii.",
        ),
    ],
)
def test_files_that_become_no_case_are_told(make: Any, files: list[str], modalities: Any, told: str) -> None:
    root = make(*files)
    with pytest.warns(ScanWarning) as warned:
        find_cases([root / name for name in files], modalities=modalities)
    assert [str(one.message) for one in warned] == [told.format(root)]


def test_relative_paths_follow_the_working_directory(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make("s/a.nii.gz")
    monkeypatch.chdir(root / "s")
    assert find_cases("a.nii.gz")[0]["image"] == str(root / "s/a.nii.gz")
    assert find_cases(".")[0]["image"] == str(root / "s/a.nii.gz")


def test_a_folder_named_by_a_number(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make("2024/a.nii.gz"))
    assert names(find_cases(2024)) == ["a"]
    assert names(find_cases((2024,))) == ["a"]


def test_a_missing_file_is_a_case_that_fails_in_loading(make: Any) -> None:
    root = make("a.nii.gz")
    assert names(find_cases([root / "a.nii.gz", root / "gone.nii.gz"])) == ["a", "gone"]


def test_numbered_scans_are_not_channels(make: Any) -> None:
    root = make(*(f"s/scan_{i:04d}.nii.gz" for i in range(1, 7)))
    expected = [f"scan_{i:04d}" for i in range(1, 7)]
    assert names(find_cases(root / "s")) == expected
    assert names(find_cases(root / "s", modalities=PAIR)) == expected


def test_a_scan_named_for_another_modality_is_taken_when_asked_for(make: Any) -> None:
    root = make("sub-1_T2w.nii.gz")
    assert names(find_cases(root / "sub-1_T2w.nii.gz")) == ["sub-1"]


def test_a_case_in_memory_can_train() -> None:
    found = find_cases([{"image": "/a.nii", "label": "/m.nii", "site": 1}], "training")
    assert found == [{"image": "/a.nii", "label": "/m.nii", "site": 1, "name": "a"}]
    with pytest.raises(UsageError, match="has no 'label'"):
        find_cases([{"image": "/a.nii"}], "training")


def test_other_files_of_a_patient_are_not_lost(make: Any) -> None:
    root = make("s/p7.nii.gz", "s/p7_dwi.nii.gz", "s/p7_flair.nii.gz")
    found = images(find_cases(root / "s", modalities=PAIR), root / "s")
    assert found == ["p7.nii.gz", ["p7_dwi.nii.gz", "p7_flair.nii.gz"]]


def test_one_modality_takes_the_first_channel(make: Any) -> None:
    root = make("s/C_0000.nii.gz", "s/C_0001.nii.gz")
    found = find_cases(root / "s")
    assert images(found, root / "s") == ["C_0000.nii.gz"]
    assert names(found) == ["C"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["C_0000.nii.gz", "C_0001.nii.gz"], [("C", ["C_0000.nii.gz", "C_0001.nii.gz"])]),
        (["C_0000.nii.gz"], [("C", ["C_0000.nii.gz", None])]),
        (["C_0001.nii.gz"], [("C", [None, "C_0001.nii.gz"])]),
        (["C.nii.gz"], [("C", "C.nii.gz")]),
        (
            ["sub-1_dwi.nii.gz", "sub-1_FLAIR.nii.gz", "sub-1_adc.nii.gz"],
            [("sub-1", ["sub-1_dwi.nii.gz", "sub-1_FLAIR.nii.gz"])],
        ),
        (
            ["sub-1_rec-TRACE_dwi.nii.gz", "sub-1_rec-ADC_dwi.nii.gz", "sub-1_FLAIR.nii.gz",
             "sub-1_desc-approximate_mask.nii.gz"],
            [("sub-1", ["sub-1_rec-TRACE_dwi.nii.gz", "sub-1_FLAIR.nii.gz"])],
        ),
        (["sub-1_ses-1_trace.nii", "sub-1_ses-2_FLAIR.nii"], [
            ("sub-1_ses-1", ["sub-1_ses-1_trace.nii", None]), ("sub-1_ses-2", [None, "sub-1_ses-2_FLAIR.nii"])
        ]),
        (["sub-1_FLAIR.nii.gz"], [("sub-1", [None, "sub-1_FLAIR.nii.gz"])]),
        (["p7_dwi.nii.gz", "p7_flair.nii.gz"], [("p7", ["p7_dwi.nii.gz", "p7_flair.nii.gz"])]),
        (["DWI.nii.gz", "FLAIR.nii.gz"], [("DWI", ["DWI.nii.gz", "FLAIR.nii.gz"])]),
        (
            ["sub-1_run-1_dwi.nii", "sub-1_run-2_dwi.nii", "sub-1_run-1_FLAIR.nii", "sub-1_run-2_FLAIR.nii"],
            [("sub-1_run-1", ["sub-1_run-1_dwi.nii", "sub-1_run-1_FLAIR.nii"]),
             ("sub-1_run-2", ["sub-1_run-2_dwi.nii", "sub-1_run-2_FLAIR.nii"])],
        ),
    ],
)  # fmt: skip
def test_dwi_and_flair_of_one_case_are_grouped(make: Any, files: list[str], expected: list[Any]) -> None:
    root = make(*(f"s/{f}" for f in files))
    found = find_cases(root / "s", modalities=PAIR)
    assert sorted(zip(names(found), images(found, root / "s"), strict=True)) == expected
    one_by_one = find_cases([root / "s" / f for f in files], modalities=PAIR)
    assert sorted(names(one_by_one)) == sorted(names(found))


@pytest.mark.parametrize(
    "pair",
    [
        ("p2/dwi/dwi.nii.gz", "p2/flair.nii.gz"),
        ("p2/DWI/DWI.nii.gz", "p2/FLAIR/FLAIR.nii.gz"),
        ("dwi/p2_dwi.nii.gz", "flair/p2_flair.nii.gz"),
    ],
)
def test_folders_named_by_what_they_hold_are_grouped(make: Any, pair: tuple[str, str]) -> None:
    others = tuple(name.replace("p2", "p3") for name in pair)
    root = make(*pair, *others)
    assert sorted(images(find_cases(root, modalities=PAIR), root)) == sorted(map(list, (pair, others)))


def test_bids_folders_anat_and_dwi_are_grouped(make: Any) -> None:
    root = make("sub-1/dwi/sub-1_dwi.nii.gz", "sub-1/anat/sub-1_FLAIR.nii.gz")
    found = find_cases([root / "sub-1/dwi", root / "sub-1/anat"], modalities=PAIR)
    assert images(found, root) == [["sub-1/dwi/sub-1_dwi.nii.gz", "sub-1/anat/sub-1_FLAIR.nii.gz"]]


@pytest.mark.parametrize("wrap", [list, lambda pair: {"image": list(pair)}])
def test_an_explicit_pair_is_one_case_whatever_its_names(make: Any, wrap: Any) -> None:
    root = make("b1000.nii.gz", "elsewhere/tirm.nii.gz")
    pair = (str(root / "b1000.nii.gz"), str(root / "elsewhere/tirm.nii.gz"))
    found = find_cases([wrap(pair)], modalities=PAIR)
    assert found == [{"image": list(pair), "name": "b1000"}]
    assert find_cases([wrap((None, pair[1]))], modalities=PAIR)[0]["image"] == [None, pair[1]]


# ---- trees ----


def test_tree(make: Any) -> None:
    files = [f"imagesTr/C{i}_0000.nii.gz" for i in range(10)] + [f"labelsTr/C{i}.nii.gz" for i in range(10)]
    root = make(*files, "imagesTs/T_0000.nii.gz", "dataset.json")
    training, validation = find_cases(root, "training"), find_cases(root, "validation")
    assert len(training) == 8
    assert len(validation) == 2
    assert set(names(training)) | set(names(validation)) == {f"C{i}" for i in range(10)}
    for case in training + validation:
        assert case["label"] == str(root / f"labelsTr/{case['name']}.nii.gz")
    assert find_cases(root, "test") == [{"image": str(root / "imagesTs/T_0000.nii.gz"), "name": "T"}]


def test_tree_of_two_modalities_and_of_plain_names(make: Any) -> None:
    root = make(
        "imagesTr/A_0000.nii.gz", "imagesTr/A_0001.nii.gz", "labelsTr/A.nii.gz",
        "imagesTr/B.nii.gz", "labelsTr/B.nii.gz", "labelsTs/T.nii.gz", "imagesTs/T_0001.nii.gz",
    )  # fmt: skip
    found = find_cases(root, "training", PAIR) + find_cases(root, "validation", PAIR)
    by_name = {case["name"]: case["image"] for case in found}
    assert by_name["A"] == [str(root / "imagesTr/A_0000.nii.gz"), str(root / "imagesTr/A_0001.nii.gz")]
    assert by_name["B"] == str(root / "imagesTr/B.nii.gz")
    test = find_cases(root, "test", PAIR, labelled=True)
    assert test[0]["image"][0] is None
    assert test[0]["label"] == str(root / "labelsTs/T.nii.gz")


@pytest.mark.parametrize(
    ("files", "section", "words"),
    [
        (["imagesTr/A.nii.gz", "imagesTr/B.nii.gz", "labelsTr/A.nii.gz"], "training", "no label for B"),
        (
            ["imagesTr/A.nii.gz", "labelsTr/A.nii.gz", "labelsTr/Z.nii.gz"],
            "training",
            "2 labels for the 1 cases",
        ),
        (["imagesTr/A.nii.gz"], "training", "no folder labelsTr"),
        (["imagesTs/A.nii.gz"], "training", "no folder imagesTr"),
        (["imagesTr/A.nii.gz", "labelsTr/A.nii.gz"], "test", "no folder imagesTs"),
        (["imagesTs/notes.txt"], "test", "no .nii, .nii.gz, .mha or .nrrd file"),
        (["notes.txt"], "test", "imagesTr or imagesTs lies in it"),
        (["a_T2w.nii.gz", "a_mask.nii.gz"], "test", r"its 2 scan\(s\)"),
    ],
)
def test_incomplete_folders(make: Any, files: list[str], section: Any, words: str) -> None:
    root = make(*files)
    with pytest.raises(ScanNotFoundError, match=words) as error:
        find_cases(root, section)
    assert str(root) in str(error.value)


@pytest.mark.parametrize("name", ["gone", "gone.json", "loop"])
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ScanNotFoundError, match="not there"):
        find_cases(tmp_path / name)


def test_a_very_long_path_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match="not there"):
        find_cases(str(tmp_path / ("x" * 5000)))


def test_only_masks_named(make: Any) -> None:
    root = make("a_label-lesion_mask.nii.gz")
    with pytest.raises(ScanNotFoundError, match="mask or ADC"):
        find_cases(root / "a_label-lesion_mask.nii.gz")


def test_scans_without_labels_cannot_train(make: Any) -> None:
    root = make("s/a.nii.gz")
    with pytest.raises(UsageError, match="labels"):
        find_cases(root / "s", "training")


def test_nothing_named() -> None:
    with pytest.raises(UsageError, match="at least one"):
        find_cases([])
    with pytest.raises(UsageError, match="--dataset_dir"):
        find_cases("")  # what the bundles' configs hold: the working directory is not meant


def test_unknown_section(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'train'"):
        find_cases(tmp_path, "train")  # type: ignore[arg-type]


# ---- data lists ----


def test_data_list(make: Any, data_list: Any) -> None:
    root = make("lists/img/a.nii.gz")
    path = data_list(
        {
            "name": "ours",
            "training": [{"image": "img/a.nii.gz", "label": ["m1.nii.gz", "m2.nii.gz"], "site": 3}],
            "validation": [{"image": "img/gone.nii.gz", "label": "/abs/m.nii.gz"}],
            "test": ["img/sub-9_T1w.nii.gz"],
        },
        "lists/d.json",
    )
    lists = root / "lists"
    assert find_cases(path, "training") == [
        {"image": str(lists / "img/a.nii.gz"), "label": [str(lists / "m1.nii.gz"), str(lists / "m2.nii.gz")],
         "site": 3, "name": "a"}
    ]  # fmt: skip
    # A missing image is that scan's own failure, later.
    assert find_cases(path, "validation")[0]["image"] == str(lists / "img/gone.nii.gz")
    assert find_cases(path, "validation")[0]["label"] == "/abs/m.nii.gz"
    assert find_cases(path) == [{"image": str(lists / "img/sub-9_T1w.nii.gz"), "name": "sub-9"}]


def test_data_list_of_pairs(data_list: Any, tmp_path: Path) -> None:
    path = data_list(
        {"test": [{"image": i} for i in (["d.nii", "f.nii"], [None, "g.nii"], "stack.nii", ["e.nii"])]}
    )
    found = images(find_cases(path, modalities=PAIR), tmp_path)
    assert found == [["d.nii", "f.nii"], [None, "g.nii"], "stack.nii", ["e.nii", None]]


def test_decathlon_list_names_cases_without_the_channel(make: Any, data_list: Any) -> None:
    root = make("imagesTr/C_0000.nii.gz", "imagesTr/C_0001.nii.gz")
    path = data_list(
        {"training": [{"image": "./imagesTr/C.nii.gz", "label": "./labelsTr/C.nii.gz"}], "validation": []},
        "dataset.json",
    )
    assert images(find_cases(path, "training"), root) == ["imagesTr/C_0000.nii.gz"]
    found = find_cases(path, "training", PAIR)
    assert images(found, root) == [["imagesTr/C_0000.nii.gz", "imagesTr/C_0001.nii.gz"]]
    assert names(found) == ["C"]
    assert find_cases(path, "validation", PAIR) == []


def test_bare_list_serves_every_section(data_list: Any) -> None:
    path = data_list([{"image": f"{i}.nii", "label": f"m{i}.nii"} for i in range(5)])
    assert len(find_cases(path, "test")) == 5
    assert len(find_cases(path, "training")) == 4


def no_list(done: str) -> pytest.MarkDecorator:
    return pytest.mark.reliability(
        "Bad input", done, "One sentence with the place in the list; nothing is run."
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param('{"test": [\n"a.nii",\n]}', "line 3", marks=no_list("A data list of malformed JSON")),
        ("", "line 1"),
        ('{"test": "a.nii"}', "must be a list"),
        ('"a.nii"', "must hold the lists"),
        pytest.param(
            {"test": [{"label": "m.nii"}]},
            "item 1 of 'test' has no 'image'",
            marks=no_list("A data list whose item lacks a key"),
        ),
        ({"test": ["a.nii", 7]}, "item 2 of 'test' must be a dictionary"),
        ({"test": [{"image": ["a.nii", "b.nii"]}]}, "names 2 images where T1w"),
        ({"test": [{"image": [None]}]}, "names 1 images"),
    ],
)
def test_malformed_data_lists(data_list: Any, content: Any, words: str, happened: Any) -> None:
    path = data_list(content)
    with pytest.raises(UsageError, match=words) as error:
        find_cases(path)
    happened(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_data_list_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UsageError, match="UTF-8"):
        find_cases(path)


def test_data_list_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "d.json").mkdir()
    with pytest.raises(ScanNotFoundError, match="cannot be read"):
        find_cases(tmp_path / "d.json")


@pytest.mark.parametrize("section", ["training", "validation", "test"])
def test_empty_section(data_list: Any, section: Any) -> None:
    path = data_list({"other": [1]})
    with pytest.raises(ScanNotFoundError, match=f"no cases under '{section}' .*other"):
        find_cases(path, section)


def test_label_missing_in_data_list(data_list: Any) -> None:
    path = data_list({"training": [{"image": "a.nii", "label": "b.nii"}, {"image": "c.nii"}]})
    with pytest.raises(UsageError, match="item 2 of 'training' has no 'label'"):
        find_cases(path, "training")


# ---- splits ----


def items(n: int, **extra: Any) -> list[dict[str, Any]]:
    return [
        {"image": f"c{i}.nii", "label": f"m{i}.nii", **{k: f(i) for k, f in extra.items()}} for i in range(n)
    ]


def test_fold_keys(data_list: Any) -> None:
    path = data_list({"training": items(9, fold=lambda i: i % 3)})
    assert names(find_cases(path, "validation", fold=1)) == ["c1", "c4", "c7"]
    assert names(find_cases(path, "training", fold=1)) == ["c0", "c2", "c3", "c5", "c6", "c8"]
    assert names(find_cases(path, "validation")) == ["c0", "c3", "c6"]
    with pytest.raises(UsageError, match="fold 3: choose one of 0, 1, 2"):
        find_cases(path, "validation", fold=3)


def test_a_validation_section_leaves_no_other_fold(data_list: Any) -> None:
    path = data_list({"training": items(9), "validation": [{"image": "v.nii", "label": "m.nii"}]})
    for fold in (None, 0):  # 0 is what cross-validation asks of it
        assert names(find_cases(path, "validation", fold=fold)) == ["v"]
    for section in ("training", "validation"):
        with pytest.raises(UsageError, match="no fold 3: the data list names its validation cases"):
            find_cases(path, section, fold=3)


def test_an_empty_validation_section_is_none(data_list: Any) -> None:
    """Else all would train and nothing validate, though there are five folds."""
    path = data_list({"training": items(10), "validation": []})
    assert read_folds(path) == []
    for fold in (None, 0, 3):
        assert len(find_cases(path, "training", fold=fold)) == 8
        assert len(find_cases(path, "validation", fold=fold)) == 2


def test_cases_without_fold_always_train(data_list: Any) -> None:
    content = items(4, fold=lambda i: i % 2)
    del content[1]["fold"]
    path = data_list({"training": content})
    assert names(find_cases(path, "training", fold=1)) == ["c0", "c1", "c2"]


def test_hold_out_partitions_by_subject(data_list: Any) -> None:
    path = data_list({"training": items(40, subject=lambda i: i // 2)})
    held_out: list[str] = []
    for fold in range(5):
        training = find_cases(path, "training", fold=fold)
        validation = find_cases(path, "validation", fold=fold)
        assert len(validation) == 8
        assert not {subject_of(c) for c in training} & {subject_of(c) for c in validation}
        assert len(training) + len(validation) == 40
        held_out += names(validation)
    assert sorted(held_out) == sorted(f"c{i}" for i in range(40))


def test_hold_out_knows_bids_subjects(data_list: Any) -> None:
    content = [
        {"image": f"sub-{s}_ses-{t}_T1w.nii", "label": f"sub-{s}_ses-{t}_mask.nii"}
        for s in range(6)
        for t in "123"
    ]
    path = data_list({"training": content})
    validation = find_cases(path, "validation")
    assert len(validation) in (3, 6)
    assert all(len([c for c in validation if subject_of(c) == subject_of(v)]) == 3 for v in validation)


@pytest.mark.parametrize(
    ("image", "subject"),
    [
        ("set/sub-06/ses-2/anat/T1w.nii.gz", "sub-06"),
        ("set/sub-06/anat/scan.nii.gz", "sub-06"),
        ("sub-lab/data/nifti/t1/p1.nii.gz", "p1"),  # too far up to be a subject's
        ("p1_ses2_T1w.nii.gz", "p1"),
        ("p1-visit-03.nii.gz", "p1"),
        ("ses2.nii.gz", "ses2"),
        ("obsession.nii.gz", "obsession"),
    ],
)
def test_sessions_of_a_person_are_of_one_subject(make: Any, image: str, subject: str) -> None:
    root = make(image)
    (case,) = find_cases(root / image)
    case["name"] = {"p1_ses2_T1w": "p1_ses2"}.get(case["name"], case["name"])
    assert subject_of(case) == subject


def test_hold_out_is_the_same_on_every_machine(data_list: Any) -> None:
    # Ranked by the SHA-256 of "0:<name>", by sha256sum: independent of order and Python's hash seed.
    ranking = ["c4", "c3", "c6", "c5", "c2", "c0", "c9", "c7", "c8", "c1"]
    path = data_list({"training": items(10)[::-1]})
    assert set(names(find_cases(path, "validation", fold=0))) == {ranking[0], ranking[5]}
    assert set(names(find_cases(path, "validation", fold=4))) == {ranking[4], ranking[9]}
    assert len({tuple(names(find_cases(path, "validation", seed=seed))) for seed in range(5)}) > 2


def test_one_case_trains_and_validates_nothing(data_list: Any) -> None:
    path = data_list({"training": items(1)})
    assert names(find_cases(path, "training")) == ["c0"]
    assert find_cases(path, "validation") == []


def test_two_cases_are_one_and_one(data_list: Any) -> None:
    path = data_list({"training": items(2)})
    assert len(find_cases(path, "training")) == len(find_cases(path, "validation")) == 1
    with pytest.raises(UsageError, match="fold 2: 2 subjects"):
        find_cases(path, "training", fold=2)


@pytest.mark.reliability(
    "Bad input",
    "A data list with one subject in training and validation",
    "A warning that names the subject.",
)
@pytest.mark.parametrize("by", ["section", "fold"])
def test_a_subject_on_both_sides_is_told(data_list: Any, caplog: Any, by: str, happened: Any) -> None:
    lists = {
        "section": {
            "training": items(3, subject=lambda i: i),
            "validation": items(1, subject=lambda i: 2),
        },
        "fold": {"training": items(3, subject=lambda i: max(i, 1) + 1, fold=lambda i: i)},
    }
    assert len(find_cases(data_list(lists[by]), "training")) in (2, 3)
    happened(caplog.messages[-1])
    assert "The same subjects train and validate, so scores flatter: 2" in caplog.text


def test_validation_section_alone_can_be_evaluated(data_list: Any) -> None:
    path = data_list({"validation": items(2)})
    assert names(find_cases(path, "validation")) == ["c0", "c1"]


# ---- nested folders, BIDS, lists of paths ----


def test_folders_are_searched_with_all_their_subfolders(
    make: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = make("a.nii", "site/p1/t1.nii.gz", "site/p2/t1.nrrd", "site/p2/deep/er/b.mha", "site/.trash/c.nii")
    (root / "site" / "loop").symlink_to(root)
    (root / "latest").symlink_to(root / "site" / "p1")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "c.nii").touch()
    (root / "linked").symlink_to(elsewhere)
    found = find_cases(root)
    assert images(found, root) == [
        "a.nii", "site/p1/t1.nii.gz", "site/p2/t1.nrrd", "site/p2/deep/er/b.mha", "linked/c.nii",
    ]  # fmt: skip
    assert names(found) == ["a", "p1_t1", "p2_t1", "b", "c"]


def test_a_link_renames_no_case(make: Any) -> None:
    """Though it lies in a folder that comes first."""
    root = make("controls/01_T1w.nii.gz", "zz/01_T1w.nii.gz")
    found = find_cases(root)
    (root / "controls" / "others").symlink_to(root / "zz")
    assert find_cases(root) == found


def test_a_folder_named_like_a_scan_may_hold_one(make: Any) -> None:
    """As some programs unpack ``p1_t1.nii.gz``; without a scan in it, it is one that fails."""
    root = make("p1/p1_t1.nii/p1_t1.nii", "p2_t1.nii/notes")
    assert images(find_cases(root), root) == ["p2_t1.nii", "p1/p1_t1.nii/p1_t1.nii"]


def test_a_folder_that_cannot_be_listed_is_left_out(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as lost+found: what else there is can be segmented."""
    root = make("a.nii", "lost+found/b.nii")
    listed = folders.list_folder

    def list_folder(folder: Path) -> list[Path]:
        if folder.name == "lost+found":
            raise ScanNotFoundError(f"{folder} cannot be listed")
        return listed(folder)

    monkeypatch.setattr(folders, "list_folder", list_folder)
    with pytest.warns(ScanWarning, match=r"left out, as they cannot be listed: lost\+found; check"):
        found = find_cases(root)
    assert names(found) == ["a"]
    assert found.left_out == {"they cannot be listed": [str(root / "lost+found")]}
    with pytest.raises(ScanNotFoundError, match="cannot be listed"):
        find_cases(root / "lost+found")


def test_results_among_the_scans_are_no_scans(make: Any) -> None:
    root = make("a.nii", "out/a_label-lesion_mask.nii.gz", "out/a_label-lesion_probseg.nii.gz")
    make("out/a_label-lesion_dseg.nii.gz")
    assert names(find_cases(root)) == ["a"]


def test_a_tree_may_hold_series_and_tells_what_is_not_read(make: Any) -> None:
    root = make("imagesTs/A.nii.gz", "imagesTs/B.mgz", "imagesTs/C/1")
    (root / "imagesTs/C/1").write_bytes(bytes(128) + b"DICM")
    with pytest.warns(ScanWarning, match=r"left out, as they are neither .*: B\.mgz; convert them to"):
        assert images(find_cases(root), root) == ["imagesTs/A.nii.gz", "imagesTs/C"]


def test_a_dicom_series_is_its_folder(make: Any) -> None:
    root = make("p1/1.2.840.10/notes.txt", "p2/T1w/1", "p3/DWI/1", "p3/FLAIR/1")
    for folder in ("p1/1.2.840.10", "p2/T1w", "p3/DWI", "p3/FLAIR"):
        (root / folder / "1").write_bytes(bytes(128) + b"DICM")
    assert images(find_cases(root), root) == ["p1/1.2.840.10", "p2/T1w"]
    assert names(find_cases(root / "p1")) == ["1.2.840.10"]
    assert images(find_cases(root / "p2" / "T1w"), root) == ["p2/T1w"]
    pairs = images(find_cases(root / "p3", modalities=PAIR), root)
    assert pairs == [["p3/DWI", "p3/FLAIR"]]


def test_two_words_of_one_contrast_do_not_part_a_patients_scans(make: Any) -> None:
    root = make("p1_DWI_b1000.nii.gz", "p1_FLAIR.nii.gz", "2_DWI.nii.gz", "2_T2_FLAIR.nii.gz")
    assert images(find_cases(root, modalities=PAIR), root) == [
        ["2_DWI.nii.gz", "2_T2_FLAIR.nii.gz"], ["p1_DWI_b1000.nii.gz", "p1_FLAIR.nii.gz"]
    ]  # fmt: skip


def test_a_contrast_anywhere_in_a_name_pairs_and_leaves_out(make: Any) -> None:
    """If it is the only one that the name says; a FLAIR was taken for another DWI."""
    root = make("p1/DWI_b1000.nii.gz", "p1/FLAIR_brain.nii.gz", "p1/ADC_brain.nii.gz", "p2/p2_dwi.nii.gz",
                "p2/p2_flair_reg.nii.gz")  # fmt: skip
    found = find_cases(root, modalities=("DWI", "FLAIR"))
    assert sorted(tuple(Path(p).name for p in case["image"]) for case in found) == [
        ("DWI_b1000.nii.gz", "FLAIR_brain.nii.gz"), ("p2_dwi.nii.gz", "p2_flair_reg.nii.gz")
    ]  # fmt: skip
    (left_out,) = left_out_of(found).values()
    assert [Path(p).name for p in left_out] == ["ADC_brain.nii.gz"]


@pytest.mark.parametrize(
    "pairs",
    [
        [("DWI_001", "FLAIR_001"), ("DWI_002", "FLAIR_002")],
        [("dwi_anna", "flair_anna"), ("dwi_bob", "flair_bob")],
        [("dwi/DWI_001", "flair/FLAIR_001"), ("dwi/DWI_002", "flair/FLAIR_002")],
        [("p1_DWI_tp1", "p1_FLAIR_tp1"), ("p1_DWI_tp2", "p1_FLAIR_tp2")],
        [("p1_DWI_20200101", "p1_FLAIR_20200101"), ("p1_DWI_20210101", "p1_FLAIR_20210101")],
        [("p1_DWI1", "p1_FLAIR1"), ("p1_DWI2", "p1_FLAIR2")],
        [("DWI_001", None), (None, "FLAIR_002")],
        [("dwi_anna", None), (None, "flair_bob")],
        [("p1_DWI_left", None), (None, "p1_FLAIR_right")],
        [("case_T1_0000", "case_T1_0001"), ("case_T2_0000", "case_T2_0001")],
        [("dwi/p1_T1_reg", "flair/p1_T1_reg"), ("dwi/p1_T2_reg", "flair/p1_T2_reg")],
    ],
)
def test_a_dwi_goes_with_no_other_patients_flair(
    make: Any, pairs: list[tuple[str | None, str | None]]
) -> None:
    root = make(*(f"{name}.nii.gz" for pair in pairs for name in pair if name))
    found = images(find_cases(root, modalities=PAIR), root)
    assert found == [[f"{name}.nii.gz" if name else None for name in pair] for pair in pairs]


def test_t1_and_t2_in_a_name_may_be_points_in_time(make: Any) -> None:
    root = make("p1_T1_scan.nii.gz", "p1_T2_scan.nii.gz", "p1_FLAIR_scan.nii.gz")
    assert images(find_cases(root), root) == ["p1_T1_scan.nii.gz", "p1_T2_scan.nii.gz"]


def test_two_contrasts_in_a_name_say_nothing(make: Any) -> None:
    root = make("p1_dwi_flair_both.nii.gz", "p2_brain.nii.gz")
    assert len(find_cases(root, modalities=("T1w",))) == 2


def test_points_in_time_called_like_contrasts_stay_apart(make: Any) -> None:
    """And two that would both do for one are left as they are."""
    root = make(*(f"p1_T{n}_{m}.nii.gz" for n in (1, 2) for m in PAIR), "q_T1_DWI.nii.gz")
    make("q_T2_DWI.nii.gz", "q_FLAIR.nii.gz")
    assert images(find_cases(root, modalities=PAIR), root) == [
        ["p1_T1_DWI.nii.gz", "p1_T1_FLAIR.nii.gz"], ["p1_T2_DWI.nii.gz", "p1_T2_FLAIR.nii.gz"],
        [None, "q_FLAIR.nii.gz"], ["q_T1_DWI.nii.gz", None], ["q_T2_DWI.nii.gz", None],
    ]  # fmt: skip


def test_labelled_test_cases_beside_hidden_ones(data_list: Any) -> None:
    """As a data set's hidden test scans, which data lists name with the others."""
    hidden = [{"image": "h1.nii"}, "h2.nii"]
    path = data_list({"training": items(2), "test": [{"image": "a.nii", "label": "m.nii"}, *hidden]})
    with pytest.warns(ScanWarning, match=r"as they are test cases without a label: h1\.nii, h2\.nii\."):
        found = find_cases(path, "test", labelled=True)
    assert names(found) == ["a"]
    assert [len(files) for files in found.left_out.values()] == [2]
    assert names(find_cases(path, "test")) == ["a", "h1", "h2"]
    with pytest.raises(UsageError, match="item 1 of 'test' has no 'label'"):
        find_cases(data_list({"training": items(2), "test": hidden}), "test", labelled=True)


def test_folders_may_say_what_their_files_show(make: Any) -> None:
    root = make(
        "s/dwi/p1.nii.gz", "s/FLAIR/p1.nii.gz", "s/dwi/p2.nii.gz", "s/t1/p1.nii.gz", "s/T2w/p3_T1w.nii.gz"
    )
    with pytest.warns(ScanWarning, match="something else than DWI or FLAIR"):
        found = find_cases(root / "s", modalities=PAIR)
    assert images(found, root / "s") == [["dwi/p1.nii.gz", "FLAIR/p1.nii.gz"], ["dwi/p2.nii.gz", None]]
    assert names(found) == ["p1", "p2"]
    with pytest.warns(ScanWarning, match="something else than T1w"):
        assert images(find_cases(root / "s"), root / "s") == ["T2w/p3_T1w.nii.gz", "t1/p1.nii.gz"]
    assert names(find_cases(root / "s/dwi")) == [
        "p1",
        "p2",
    ]  # the folder itself was named: its scans are meant
    assert images(find_cases(root / "s/FLAIR", modalities=PAIR), root) == [[None, "s/FLAIR/p1.nii.gz"]]


@pytest.mark.parametrize("source", ["", "p1.nii.gz"])
def test_a_flair_where_monai_label_has_it(make: Any, source: str) -> None:
    """Both are the case's files, told in its record, and noticed when they change."""
    root = make("p1.nii.gz", "flair/p1.nii.gz")
    (found,) = find_cases(root / source, modalities=PAIR)
    assert (found["name"], images([found], root)) == ("p1", [["p1.nii.gz", "flair/p1.nii.gz"]])


def test_a_flair_has_no_flair_of_its_own(make: Any) -> None:
    root = make("p1_FLAIR.nii.gz", "flair/p1_FLAIR.nii.gz")
    assert all(case["image"][0] is None for case in find_cases(root, modalities=PAIR))


@pytest.fixture
def dataset(make: Any) -> Path:
    root: Path = make(
        "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz", "sub-01/anat/sub-01_T1w.json",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.nii", "sub-02/ses-a/anat/sub-02_ses-a_run-2_T1w.nii",
        "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz", "sub-02/ses-b/anat/sub-02_ses-b_FLAIR.nii.gz",
        "sub-02/ses-b/dwi/sub-02_ses-b_rec-TRACE_dwi.nii.gz", "sub-02/ses-b/func/sub-02_ses-b_bold.nii.gz",
        "derivatives/other/sub-01/anat/sub-01_desc-brain_T1w.nii.gz", "sourcedata/x.nii",
    )  # fmt: skip
    return root


def test_bids_dataset(dataset: Path) -> None:
    found = find_cases(dataset)
    assert {case["name"]: case["results_folder"] for case in found} == {
        "sub-01": "sub-01/anat",
        "sub-02_ses-a_run-1": "sub-02/ses-a/anat",
        "sub-02_ses-a_run-2": "sub-02/ses-a/anat",
        "sub-02_ses-b": "sub-02/ses-b/anat",
    }
    (pair,) = find_cases(dataset, modalities=PAIR)
    assert images([pair], dataset) == [[
        "sub-02/ses-b/dwi/sub-02_ses-b_rec-TRACE_dwi.nii.gz", "sub-02/ses-b/anat/sub-02_ses-b_FLAIR.nii.gz",
    ]]  # fmt: skip
    assert pair["results_folder"] == "sub-02/ses-b/anat"


def test_what_lies_astray_in_a_bids_dataset_is_told(dataset: Path, make: Any) -> None:
    before = find_cases(dataset)
    astray = (
        "code_of_others/a_T1w.nii",
        "extra_T1w.nii.gz",
        "patient7/T1.nii.gz",
        "sub-01/anat/sub-01_run-2_T1w.mgz",
        "sub-03/sub-03_T1w.nii",
    )
    make(*astray, "out/sub-01_label-lesion_mask.nii.gz", "sub-03/sub-03_T2w.nii.gz")
    with pytest.warns(ScanWarning, match=r"they do not lie in sub-\*/\[ses-\*/\]anat or dwi"):
        found = find_cases(dataset)
    assert found == before
    assert [sorted(files) for files in found.left_out.values()] == [[f"{dataset}/{name}" for name in astray]]
    assert not find_cases(dataset, participants="01").left_out  # nor asked for


@pytest.mark.parametrize("modalities", [("T1w",), PAIR])
def test_in_a_bids_dataset_the_suffix_says_what_a_scan_shows(
    dataset: Path, make: Any, modalities: Any, recwarn: Any
) -> None:
    """A uniform MP2RAGE is neither a T1w nor a DWI. Maps and other contrasts are no surprise."""
    before = find_cases(dataset, modalities=modalities)
    assert not list(recwarn)
    make("sub-01/anat/sub-01_UNIT1.nii.gz", "sub-01/anat/sub-01_inv-1_MP2RAGE.nii.gz")
    make("sub-01/anat/sub-01_T1map.nii.gz")
    with pytest.warns(ScanWarning, match="the names do not say") as told:
        assert find_cases(dataset, modalities=modalities) == before
    assert all(name in str(told[0].message) for name in ("sub-01_UNIT1", "MP2RAGE"))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"participants": "01"}, ["sub-01"]),
        ({"participants": ["sub-01"]}, ["sub-01"]),
        ({"participants": ["02"], "sessions": "ses-b"}, ["sub-02_ses-b"]),
        ({"participants": "01, 02", "sessions": ["b,"]}, ["sub-02_ses-b"]),
        ({"sessions": ["a", "b"]}, ["sub-02_ses-a_run-1", "sub-02_ses-a_run-2", "sub-02_ses-b"]),
    ],
)
def test_participants_and_sessions(dataset: Path, chosen: dict[str, Any], expected: list[str]) -> None:
    assert names(find_cases(dataset, **chosen)) == expected


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"participants": "03"}, "has no sub-03: choose .*sub-01, sub-02"),
        ({"participants": "01", "sessions": "b"}, "has no ses-b: choose .*none"),
        ({"sessions": "c"}, "has no ses-c: choose .*ses-a, ses-b"),
    ],
)
def test_participants_that_are_not_there(dataset: Path, chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(ScanNotFoundError, match=words):
        find_cases(dataset, **chosen)


@pytest.mark.parametrize("closed", ["", "sub-01", "sub-01/anat", "sub-02/ses-b/anat"])
def test_a_folder_that_may_not_be_read(dataset: Path, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    listed = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder == dataset / closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(ScanNotFoundError, match=r"cannot be listed \(Permission denied\): check its name"):
        find_cases(dataset)


def test_participants_of_a_plain_folder(make: Any) -> None:
    with pytest.raises(UsageError, match="is no BIDS dataset"):
        find_cases(make("a.nii"), participants=["01"])


def test_a_list_of_paths(make: Any) -> None:
    root = make("more/x.nii.gz", "more/y.nii.gz", "d.nii", "f.nii")
    (root / "scans.txt").write_text(f"# chosen\nmore\n\n  {root}/d.nii \nabsent.nii\n")
    assert images(find_cases(root / "scans.txt"), root) == [
        "more/x.nii.gz",
        "more/y.nii.gz",
        "d.nii",
        "absent.nii",
    ]
    (root / "pairs.txt").write_text("d.nii\tf.nii\nmore/x.nii.gz\t\n")
    pairs = images(find_cases(root / "pairs.txt", modalities=PAIR), root)
    assert pairs == [["d.nii", "f.nii"], ["more/x.nii.gz", None]]


def test_the_home_folder_in_lists(make: Any, data_list: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make("home/d.nii", "home/f.nii", "home/m.nii", "~odd.nii")
    monkeypatch.setenv("HOME", str(root / "home"))
    (root / "pairs.txt").write_text("~/d.nii\t~/f.nii\n~odd.nii\n")
    pairs = images(find_cases(root / "pairs.txt", modalities=PAIR), root)
    assert pairs == [["home/d.nii", "home/f.nii"], "~odd.nii"]
    item = {"image": ["~/d.nii", "~/f.nii"], "label": "~/m.nii"}
    (case,) = find_cases(data_list({"training": [item]}), "training", PAIR)
    assert images([case], root) == [["home/d.nii", "home/f.nii"]]
    assert case["label"] == str(root / "home" / "m.nii")


def test_a_bids_dataset_in_a_list_of_paths_is_one(make: Any, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "scans.txt").write_text(f"{dataset}\n")
    assert find_cases(tmp_path / "scans.txt") == find_cases(dataset)
    chosen = {"participants": "01"}
    assert find_cases(tmp_path / "scans.txt", **chosen) == find_cases(dataset, **chosen)
    (tmp_path / "scans.txt").write_text(f"{dataset}\n{make('a.nii') / 'a.nii'}\n")
    with pytest.raises(UsageError, match=r"a\.nii is no BIDS dataset"):
        find_cases(tmp_path / "scans.txt", **chosen)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", ScanNotFoundError, "names no scan"),
        (b"# nothing\n", ScanNotFoundError, "names no scan"),
        (b"\xff\xfe\n", UsageError, "UTF-8"),
        (b"a\xe9.nii\n", UsageError, "save it as plain text"),
        (b"other.txt\n", UsageError, "line 1 names another list"),
        (b'a.nii\n""\n', UsageError, "line 2 names no path: write one, or remove the line"),
        (b"a.nii\tb.nii\tc.nii\n", UsageError, "line 1 names 3 images"),
        (b"a.nii\nfolder\n", ScanNotFoundError, "folder is not there"),
    ],
)
def test_malformed_lists_of_paths(tmp_path: Path, content: bytes, error: Any, words: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(error, match=words):
        find_cases(tmp_path / "list.txt")


# ---- lists as other programs write them ----


def test_a_list_as_windows_writes_it(make: Any) -> None:
    """PowerShell's ``>`` writes UTF-16, and Explorer copies paths in quotation marks."""
    root = make("a b.nii", "c.nii")
    (root / "scans.txt").write_bytes('"a b.nii"\r\nc.nii\r\n'.encode("utf-16"))
    assert names(find_cases(root / "scans.txt")) == ["a b", "c"]


@pytest.mark.parametrize("name", ["participants.tsv", "scans.CSV"])
def test_a_table_is_no_list(make: Any, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} is no list .*give a \.txt with a path a line"):
        find_cases(make(name) / name)


def test_a_table_beside_scans_fails_alone(make: Any) -> None:
    """Of ``predict dataset/*``, where BIDS has its participants, or in a list."""
    root = make("a.nii", "participants.tsv", "scores.csv")
    assert images(find_cases(sorted(root.iterdir())), root) == ["a.nii", "participants.tsv", "scores.csv"]
    (root / "scans.txt").write_text("a.nii\nscores.csv\n")
    assert images(find_cases(root / "scans.txt"), root) == ["a.nii", "scores.csv"]


@pytest.mark.parametrize("text", ["a.nii\n", "# scans\na.nii\n"])
def test_lists_with_a_byte_order_mark(make: Any, text: str) -> None:
    """Windows' Notepad, Excel and PowerShell write one."""
    root = make("a.nii")
    (root / "scans.txt").write_text(text, encoding="utf-8-sig")
    items = [{"image": "a.nii", "label": "a.nii", "fold": 3}]
    (root / "list.json").write_text(json.dumps({"training": items, "test": items}), encoding="utf-8-sig")
    assert images(find_cases(root / "scans.txt"), root) == ["a.nii"]
    assert images(find_cases(root / "list.json"), root) == ["a.nii"]
    assert read_folds(root / "list.json") == [3]


def test_values_that_are_missing_are_left_out_of_a_case(make: Any, data_list: Any) -> None:
    """MONAI batches no None, and pandas writes missing values so."""
    root = make("a.nii")
    item = {"image": "a.nii", "label": None, "age": None, "site": 3}
    (found,) = find_cases(data_list({"test": [item]}))
    assert found == {"image": str(root / "a.nii"), "name": "a", "site": 3}


def test_no_list_says_where_results_go(make: Any, data_list: Any) -> None:
    make("a.nii")
    (found,) = find_cases(data_list({"test": [{"image": "a.nii", "results_folder": "/etc", "folder": "b"}]}))
    assert "results_folder" not in found
    assert found["folder"] == "b"  # is the user's own

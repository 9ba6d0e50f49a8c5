"""Each public dataset, in its own layout and with its own oddities, to a data list that loads."""

from __future__ import annotations

import json
import ntpath
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.utils import ensure_tuple

from shared_nets.data import LoadMaskd, LoadScand, find_cases
from shared_nets.data.datalist import make_data_list, relative_to
from shared_nets.data.datasets import (
    Found,
    files_of,
    read_atlas,
    read_bids,
    read_folder,
    read_isles2022,
    read_spes,
)
from shared_nets.data.lists import read_folds
from shared_nets.errors import ScanNotFoundError, UsageError
from tests.commands import strokeseg
from tests.data import trees
from tests.heads import affine, lesion_mask, write


def listed(found: Found, output: Path, **options: Any) -> dict[str, Any]:
    make_data_list(found, output, quiet=True, **options)
    return json.loads(output.read_text())


def by_name(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in items}


def test_atlas_r11_merges_masks_and_keeps_a_subjects_sessions_together(tmp_path: Path) -> None:
    found = read_atlas(trees.atlas_r11(tmp_path))
    content = listed(found, tmp_path / "list.json", folds=2)
    items = by_name(content["training"])
    assert set(items) == {"031768_t01", "031768_t02", "031769_t01", "031806_t01", "031900_t01", "031901_t01"}
    assert items["031768_t01"]["image"] == "ATLAS_R1.1/Site1/031768/t01/031768_t1w_deface_stx.nii.gz"
    assert items["031768_t01"]["fold"] == items["031768_t02"]["fold"]
    assert items["031806_t01"]["site"] == "Site2"
    assert [Path(p).name for p in items["031806_t01"]["label"]] == [
        f"031806_LesionSmooth{part}_stx.nii.gz" for part in ("_1", "_2", "")
    ]
    assert ["native" in why for what, why in found.left_out if "c0001s0004t01" in what] == [True]
    assert any("229" in remark for remark in found.remarks)

    case = next(c for c in find_cases(str(tmp_path / "list.json"), "training", fold=1) + find_cases(
        str(tmp_path / "list.json"), "validation", fold=1) if c["name"] == "031806_t01")  # fmt: skip
    loaded = LoadMaskd()(LoadScand()(case))
    union = np.max([lesion_mask(n, trees.SMALL) for n in (3, 4, 5)], axis=0)
    np.testing.assert_array_equal(loaded["label"][0].numpy(), union)


def test_atlas_r11s_normalised_set_in_the_papers_folds(tmp_path: Path) -> None:
    """229 scans are all that there are, so nothing is remarked; consecutive fifths, as in X-Net's code."""
    found = read_atlas(trees.atlas_r11_normalised(tmp_path, shape=(2, 2, 2)))
    assert (found.left_out, found.remarks) == ([], [])
    items = listed(found, tmp_path / "list.json", split="unshuffled", check=False)["training"]
    folds = [item["fold"] for item in sorted(items, key=lambda item: item["subject"])]
    assert folds == sorted(folds)
    assert [folds.count(fold) for fold in range(5)] == [46, 46, 46, 46, 45]


def test_atlas_r20_has_sites_and_a_test_set(tmp_path: Path) -> None:
    found = read_atlas(trees.atlas_r20(tmp_path))
    text = make_data_list(found, tmp_path / "list.json", folds=2, stratify="site", quiet=True)
    content = json.loads((tmp_path / "list.json").read_text())
    assert len(content["training"]) == 6
    assert {item["site"] for item in content["training"]} == {"r001", "r002", "r009"}
    assert [item["subject"] for item in content["test"]] == ["sub-r030s001"]
    assert "label" not in content["test"][0]
    folds = {item["subject"]: item["fold"] for item in content["training"]}
    for one, other in (("sub-r001s001", "sub-r001s002"), ("sub-r009s001", "sub-r009s002")):
        assert folds[one] != folds[other]  # two subjects of a site, two folds
    assert "6 labelled cases of 5 subjects" in text
    assert "empty masks: 1" in text
    assert "sites: r001 3, r002 1, r009 2" in text


def test_isles2022_keeps_flair_on_its_own_grid(tmp_path: Path) -> None:
    found = read_isles2022(trees.isles2022(tmp_path))
    content = listed(found, tmp_path / "lists" / "isles.json")
    item = content["training"][0]
    case = "../ISLES-2022/sub-strokecase0001/ses-0001"
    assert item["image"] == [
        f"{case}/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz",
        f"{case}/anat/sub-strokecase0001_ses-0001_FLAIR.nii.gz",
    ]
    assert content["training"][-1]["image"][1] is None
    assert any("sub-strokecase0005: no FLAIR" in remark for remark in found.remarks)
    cases = find_cases(str(tmp_path / "lists" / "isles.json"), "training", ("DWI", "FLAIR"), fold=4)
    loaded = LoadMaskd()(LoadScand(modalities=("DWI", "FLAIR"))(cases[0]))
    assert loaded["image"].shape == (2, *trees.SMALL)
    assert loaded["image"][1].any()
    assert loaded["label"].shape == (1, *trees.SMALL)


def test_isles2022_as_first_released(tmp_path: Path) -> None:
    """rawdata, no dwi and anat folders, flair in small letters."""
    for number in (1, 2):
        name = f"sub-strokecase{number:04d}_ses-0001"
        case = tmp_path / "rawdata" / f"sub-strokecase{number:04d}" / "ses-0001"
        for kind in ("dwi", "adc", "flair"):
            trees.scan(case / f"{name}_{kind}.nii.gz", "DWI", number)
        trees.mask(tmp_path / "derivatives" / case.parent.name / "ses-0001" / f"{name}_msk.nii.gz", number)
    items = read_isles2022(tmp_path).training
    assert [[Path(p).name.rsplit("_", 1)[1] for p in item["image"]] for item in items] == [
        ["dwi.nii.gz", "flair.nii.gz"]
    ] * 2


@pytest.mark.parametrize("label", ["penumbra", "core"])
def test_spes_with_chosen_channels_and_label(tmp_path: Path, label: str) -> None:
    found = read_spes(trees.spes(tmp_path), ("T2", "DWI"), label)
    content = listed(found, tmp_path / "list.json", split="3/1/1")
    assert [len(content[key]) for key in ("training", "validation", "test")] == [3, 1, 1]
    items = by_name(content["training"] + content["validation"] + content["test"])
    assert set(items) == {f"spes_Nr{n}" for n in range(1, 6)}
    for name, item in items.items():
        t2, dwi = (Path(path).name for path in item["image"])
        assert "T2" in t2
        assert "DWI" in dwi
        assert f"{label}label" in item["label"]
        assert "MR_T2_reg" in t2 if name == "spes_Nr2" else t2 == "T2.nii"


def test_bids_matches_masks_by_session_and_run(tmp_path: Path) -> None:
    found = read_bids(trees.bids(tmp_path / "set"), ("T1w",))
    items = by_name(found.training)
    assert len(items) == 6
    assert items["sub-03_ses-1_run-2"]["label"].endswith("sub-03_ses-1_run-2_label-lesion_mask.nii.gz")
    assert items["sub-01_ses-2"]["label"].endswith("sub-01_ses-2_label-lesion_mask.nii.gz")
    assert [item["subject"] for item in found.test] == ["sub-04"]
    assert not any("brain" in str(item["label"]) for item in found.training)
    assert [Path(what).name for what, _ in found.left_out] == ["sub-99_ses-1_label-lesion_mask.nii.gz"]
    folds = {}
    for item in listed(found, tmp_path / "list.json", folds=2)["training"]:
        folds.setdefault(item["subject"], set()).add(item["fold"])
    assert all(len(of) == 1 for of in folds.values())


def test_a_mask_in_the_scans_own_space_comes_before_one_in_another(tmp_path: Path) -> None:
    root = trees.bids(tmp_path / "set")
    (own,) = root.rglob("sub-01_ses-2_label-lesion_mask.nii.gz")
    trees.mask(own.with_name("sub-01_ses-2_space-MNI152_label-lesion_mask.nii.gz"))
    found = read_bids(root, ("T1w",))
    assert by_name(found.training)["sub-01_ses-2"]["label"] == str(own)
    own.unlink()
    found = read_bids(root, ("T1w",))
    assert "space-MNI152" in by_name(found.training)["sub-01_ses-2"]["label"]


def test_bids_for_acute_scans_pairs_dwi_with_flair(tmp_path: Path) -> None:
    found = read_bids(trees.bids(tmp_path / "set"), ("DWI", "FLAIR"))
    assert all("_dwi." in item["image"][0] and "_FLAIR." in item["image"][1] for item in found.training)
    assert len(found.training) == 5
    both = next(item for item in found.training if item["subject"] == "sub-03")
    assert len(both["label"]) == 2  # DWI has no run: masks of both runs


def drawn_by_strokeseg(path: Path) -> None:
    """A mask as `strokeseg predict` leaves it, its record beside it."""
    trees.mask(path)
    made_by = {"GeneratedBy": {"Name": "X-Net", "WeightsSHA256": "0" * 64}}
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(made_by))


@pytest.mark.parametrize("layout", ["bids", "folder", "atlas"])
def test_masks_that_strokeseg_drew_are_no_ground_truth(tmp_path: Path, layout: str) -> None:
    """Neither merged with a reader's mask nor in its place."""
    root, read, with_mask, without = {
        "bids": (trees.bids, read_bids, "sub-01/ses-1/anat/sub-01_ses-1", "sub-04/ses-1/anat/sub-04_ses-1"),
        "folder": (trees.loose, read_folder, "p1_T1w", "p6_T1w"),
        "atlas": (
            trees.atlas_r20,
            read_atlas,
            "ATLAS_2/Training/R001/sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym",
            "ATLAS_2/Testing/R030/sub-r030s001/ses-1/anat/sub-r030s001_ses-1_space-MNI152NLin2009aSym",
        ),
    }[layout]  # fmt: skip
    root(tmp_path / "set")
    before = read(tmp_path / "set")
    results = tmp_path / "set" / ("derivatives/strokeseg" if layout == "bids" else "")
    ours = [results / f"{name}_label-lesion_mask.nii.gz" for name in (with_mask, without)]
    for path in ours:
        drawn_by_strokeseg(path)
    # Other programs' sidecars name who made a mask, too.
    reader = Path(ensure_tuple(before.training[0]["label"])[0])
    reader.with_name(reader.name.replace(".nii.gz", ".json")).write_text('{"GeneratedBy": [{"Name": "ITK"}]}')
    found = read(tmp_path / "set")
    assert (found.training, found.test) == (before.training, before.test)
    left_out = dict(found.left_out)
    assert all("drawn by strokeseg, not by a reader" in left_out[str(path)] for path in ours)


def test_loose_files_go_together_by_name(tmp_path: Path) -> None:
    found = read_folder(trees.loose(tmp_path))
    assert sorted(by_name(found.training)) == [f"p{n}_T1w" for n in range(1, 6)]
    for item in found.training:
        assert Path(item["label"]).name == Path(item["image"]).name.replace("T1w", "lesion_mask")
    assert len(found.test) == 1
    assert [Path(what).name for what, _ in found.left_out] == ["q9_mask.nii.gz"]


def test_hidden_folders_hold_no_scans_and_linked_ones_do(tmp_path: Path) -> None:
    """A DataLad clone has its files under .git/annex, linked to where they belong."""
    elsewhere = trees.loose(tmp_path / "elsewhere")
    clone = tmp_path / "clone"
    (clone / ".git" / "annex").mkdir(parents=True)
    (clone / ".git" / "annex" / "MD5E-s0--p7_T1w.nii.gz").touch()
    os.symlink(elsewhere, clone / "linked")
    found = read_folder(clone)
    assert sorted(by_name(found.training)) == [f"p{n}_T1w" for n in range(1, 6)]
    assert ".git" not in f"{found.test} {found.left_out}"


def test_folders_named_like_their_scans_are_listed(tmp_path: Path) -> None:
    for name in ("p1_t1.nii", "p1_mask.nii"):
        (tmp_path / "p1" / name).mkdir(parents=True)
        (tmp_path / "p1" / name / name).touch()
    assert [path.name for path in files_of(tmp_path)] == ["p1_mask.nii", "p1_t1.nii"]


def test_all_masks_of_a_scan_are_its_label(tmp_path: Path) -> None:
    for name in ("p1_T1w", "p1_mask", "p1_T1w_lesion", "p2_T1w", "p2_mask"):
        (tmp_path / f"{name}.nii.gz").touch()
    found = by_name(read_folder(tmp_path).training)
    assert {Path(path).name for path in found["p1_T1w"]["label"]} == {
        "p1_mask.nii.gz",
        "p1_T1w_lesion.nii.gz",
    }
    assert Path(found["p2_T1w"]["label"]).name == "p2_mask.nii.gz"


def test_a_data_list_on_another_drive_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.relpath", ntpath.relpath)
    item = {"image": ["D:\\a.nii", None], "label": "C:\\lists\\m.nii"}
    assert relative_to(item, Path("C:\\lists")) == {"image": ["D:\\a.nii", None], "label": "m.nii"}


def test_nnunets_dataset_json_is_no_list(tmp_path: Path) -> None:
    folder = trees.decathlon(tmp_path, "xnet")
    about = {"description": "for training", "numTraining": 5, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about))
    assert len(read_folder(folder).training) == 5


def test_a_decathlon_dataset_json(tmp_path: Path) -> None:
    written = listed(read_folder(trees.decathlon(tmp_path, "xnet")), tmp_path / "list.json", folds=2)
    assert sorted(item["image"] for item in written["training"]) == [
        f"imagesTr/STROKE_{n}.nii.gz" for n in range(1, 6)
    ]
    assert [item["image"] for item in written["test"]] == ["imagesTs/STROKE_9.nii.gz"]
    assert read_folds(tmp_path / "list.json") == [0, 1]


def test_a_decathlon_tree_of_two_channels(tmp_path: Path) -> None:
    """dataset.json names STROKE_1.nii.gz; nnU-Net has STROKE_1_0000.nii.gz and STROKE_1_0001.nii.gz."""
    found = read_folder(trees.decathlon(tmp_path, "cnnres"), ("DWI", "FLAIR"))
    written = listed(found, tmp_path / "list.json", folds=2)
    assert written["training"][0]["image"] == [f"imagesTr/STROKE_1_{i:04d}.nii.gz" for i in (0, 1)]
    assert [item["image"] for item in written["test"]] == [
        [f"imagesTs/STROKE_9_{i:04d}.nii.gz" for i in (0, 1)]
    ]


def test_folds_to_go_through(tmp_path: Path) -> None:
    """Those of the list; one training alone where it has a validation section; none where it has neither."""
    items = [{"image": f"{n}.nii.gz", "label": f"{n}_mask.nii.gz"} for n in range(6)]
    path = tmp_path / "list.json"
    for content, folds in (
        ({"training": [item | {"fold": n % 3} for n, item in enumerate(items)]}, [0, 1, 2]),
        ({"training": items[:3], "validation": items[3:5], "test": items[5:]}, [0]),
        ({"training": items}, []),
        (items, []),
    ):
        path.write_text(json.dumps(content))
        assert read_folds(path) == folds
    assert read_folds(tmp_path) == []
    path.write_text('{"training": 5}')
    assert read_folds(path) == []  # finding the cases tells what is wrong


def test_folds_may_be_numbers_as_text(tmp_path: Path) -> None:
    items = [
        {"image": f"{n}.nii.gz", "label": "m.nii.gz", "fold": fold} for n, fold in enumerate([0, "1", 10])
    ]
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": items}))
    assert read_folds(path) == [0, 1, 10]
    for source in (str(path), items):
        assert [case["name"] for case in find_cases(source, "validation", fold=1)] == ["1"]
        with pytest.raises(UsageError, match="choose one of 0, 1, 10"):
            find_cases(source, "training", fold=2)


@pytest.mark.parametrize("fold", [None, [0], {"a": 1}, True, 0.5, "first", "-"])
def test_folds_that_are_no_numbers_are_told_with_their_item(tmp_path: Path, fold: Any) -> None:
    items = [{"image": f"{n}.nii.gz", "label": "m.nii.gz", "fold": one} for n, one in enumerate([0, fold])]
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": items, "test": items}))
    for read in (
        read_folds,
        partial(find_cases, section="training"),
        partial(find_cases, section="validation"),
    ):
        with pytest.raises(UsageError, match="item 2 of 'training' has the fold") as error:
            read(path)
        assert repr(fold) in str(error.value)
    assert len(find_cases(path, "test")) == 2  # where folds are not used, whatever stands there is let be


def test_an_ending_in_capitals_is_listed(tmp_path: Path) -> None:
    trees.loose(tmp_path)
    (tmp_path / "p1_T1w.nii.gz").rename(tmp_path / "p1_T1w.NII.GZ")
    found = listed(read_folder(tmp_path), tmp_path / "list.json", folds=2)
    assert by_name(found["training"])["p1_T1w"]["image"] == "p1_T1w.NII.GZ"


def bad_values(folder: Path) -> str:
    write(
        folder / "p2_lesion_mask.nii.gz",
        lesion_mask(2, trees.SMALL) * np.float32(0.4),
        affine(trees.MM, trees.SMALL),
    )
    return "binary"


def bad_grid(folder: Path) -> str:
    write(folder / "p2_lesion_mask.nii.gz", lesion_mask(2, (11, 14, 12)), affine(trees.MM, (11, 14, 12)))
    return "grid"


def bad_file(folder: Path) -> str:
    (folder / "p2_lesion_mask.nii.gz").write_bytes(b"no scan")
    return "p2_lesion_mask.nii.gz"


@pytest.mark.parametrize("spoil", [bad_values, bad_grid, bad_file])
def test_masks_that_cannot_be_used_are_left_out_and_named(
    tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    told = spoil(trees.loose(tmp_path))
    text = make_data_list(read_folder(tmp_path), tmp_path / "list.json", folds=2, quiet=True)
    assert "4 labelled cases" in text
    line = next(line for line in text.splitlines() if "p2" in line)
    assert line.startswith("left out: ")
    assert told in line


def test_masks_of_test_cases_are_read_too(tmp_path: Path) -> None:
    folder = trees.decathlon(tmp_path, "xnet")
    (folder / "dataset.json").unlink()
    tests = sorted(p.name.replace("_0000", "") for p in (folder / "imagesTs").glob("*.nii.gz"))
    for number, name in enumerate(tests):
        trees.mask(folder / "labelsTs" / name, number + 1)
    assert f"test {len(tests)}" in make_data_list(
        read_folder(folder), tmp_path / "a.json", folds=2, quiet=True
    )
    write(
        folder / "labelsTs" / tests[0],
        lesion_mask(1, trees.SMALL) * np.float32(0.4),
        affine(trees.MM, trees.SMALL),
    )
    text = make_data_list(read_folder(folder), tmp_path / "list.json", folds=2, quiet=True)
    assert "is not binary" in next(line for line in text.splitlines() if line.startswith("left out: "))
    assert len(json.loads((tmp_path / "list.json").read_text()).get("test", [])) == len(tests) - 1


def test_a_name_that_is_no_utf_8_is_listed_and_found_again(tmp_path: Path) -> None:
    for path in trees.loose(tmp_path).glob("p2_*"):
        path.rename(tmp_path / os.fsdecode(b"M\xfcller" + path.name.removeprefix("p2").encode()))
    make_data_list(read_folder(tmp_path), tmp_path / "list.json", folds=2, quiet=True)
    sections = ("training", "validation")
    cases = [case for name in sections for case in find_cases(str(tmp_path / "list.json"), name, fold=1)]
    assert len(cases) == 5
    assert all(Path(case["image"]).is_file() for case in cases)
    assert os.fsdecode(b"M\xfcller_T1w") in by_name(cases)


def test_folds_that_do_not_work_out_tell_what_was_left_out(tmp_path: Path) -> None:
    """Two of three masks cannot be used: it is these that are to be mended, not the number of folds."""
    for number in (1, 2, 3):
        trees.scan(tmp_path / f"p{number}_T1w.nii.gz", number=number)
        trees.mask(tmp_path / f"p{number}_lesion_mask.nii.gz", number)
    bad_values(tmp_path)
    (tmp_path / "p3_lesion_mask.nii.gz").write_bytes(b"no scan")
    with pytest.raises(UsageError) as error:
        make_data_list(read_folder(tmp_path), tmp_path / "list.json", folds=2, quiet=True)
    said = str(error.value)
    assert said.startswith("1 subject does not make 2 folds: ")
    assert "Left out: p2_T1w: " in said
    assert "is not binary" in said
    assert f"p3_T1w: {tmp_path / 'p3_lesion_mask.nii.gz'}" in said


def test_volumes_are_those_of_the_masks(tmp_path: Path) -> None:
    text = make_data_list(read_folder(trees.loose(tmp_path)), tmp_path / "list.json", folds=2, quiet=True)
    ml = sorted(lesion_mask(n, trees.SMALL).sum() * 12**3 / 1000 for n in range(1, 6))
    assert f"lesion volumes: median {ml[2]:.1f} mL, {ml[0]:.2f} to {ml[-1]:.1f} mL" in text


@pytest.mark.parametrize("read", [read_atlas, read_isles2022, read_spes, read_bids, read_folder])
def test_an_empty_folder_and_one_that_is_not_there(tmp_path: Path, read: Callable[[Path], Found]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanNotFoundError, match="empty"):
        read(tmp_path / "empty")
    with pytest.raises(ScanNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("channels", "label"),
    [(("T2", "ADC"), "core"), ((), "core"), (("T2",), "all"), (("T2", "DWI", "CBF"), "core")],
)
def test_spes_has_no_such_channel_or_label(tmp_path: Path, channels: tuple[str, ...], label: str) -> None:
    with pytest.raises(UsageError, match="SPES has the channels"):
        read_spes(tmp_path, channels, label)


def test_the_command_and_its_refusals(tmp_path: Path) -> None:
    trees.atlas_r20(tmp_path / "atlas")
    done = strokeseg(
        "datalist", "atlas", tmp_path / "atlas", "--output", tmp_path / "a.json", "--folds", "2", "--quiet"
    )
    assert done.code == 0, done.err
    assert "6 labelled cases" in done.out
    again = strokeseg(
        "datalist", "atlas", tmp_path / "atlas", "--output", tmp_path / "b.json", "--folds", "2", "--quiet"
    )
    assert again.code == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    for words, code, told in (
        (["atlas", tmp_path / "atlas", "--split", "half"], 2, "34/5/5"),
        (["atlas", tmp_path / "atlas", "--split", "3/1/9"], 1, "13 subjects, but there are 5"),
        (["atlas", tmp_path / "atlas", "--folds", "9"], 1, "do not make 9 folds"),
        (["atlas", tmp_path / "atlas", "--stratify", "scanner"], 1, "has no scanner"),
        (["atlas", tmp_path], 0, ""),
        (["isles2022", tmp_path / "atlas"], 1, "holds no ISLES 2022 case"),
    ):
        done = strokeseg("datalist", *words, "--output", tmp_path / "c.json", "--quiet", "--no-check")
        assert done.code == code, (words, done.err)
        assert told in " ".join(done.err.replace("│", " ").split())

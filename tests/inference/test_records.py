"""Reruns: what is left alone, what is done anew, and what is known of each result."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from monai.transforms import Compose, CropForegroundd

from shared_nets.data import ScaleHeadIntensityd, ScanWarning, cranium_mask, find_cases
from shared_nets.data.formats import hash_scan
from shared_nets.errors import ScanNotFoundError, UsageError
from shared_nets.inference import Cohort, LesionWriter, Records, SliceWindowInferer
from shared_nets.inference.outputs import LABELS_SUFFIX, MASK_SUFFIX, PICTURE_SUFFIX
from shared_nets.inference.records import Result
from shared_nets.inference.report import volume_bars
from tests.inference.cohorts import LEFT, RIGHT, Bright, Second, cohort, save

Run = Callable[..., list[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run(cases, ...)`` runs a cohort into ``out`` and returns the scans that went through the network."""
    (tmp_path / "model.pt").write_bytes(b"weights")

    def go(cases: list[dict], network: Any = None, **changes: Any) -> list[str]:
        done: list[str] = []

        def note(case: dict[str, Any]) -> dict[str, Any]:
            done.append(case["name"])
            return {}

        output = tmp_path / "out"
        settings = {"threshold": changes.pop("threshold", 0.5), "window": (32, 32)}
        settings |= {key: changes.pop(key) for key in ("preprocessing", "inferer") if key in changes}
        overwrite = changes.pop("overwrite", False)
        writer = LesionWriter(output, **{"save_probability": True, "save_picture": False} | changes)
        records = Records(writer, tmp_path, tmp_path / "model.pt", settings, overwrite)
        run: Cohort = cohort(
            cases, output, network, writer=writer, records=records, measures=[note], quiet=True
        )
        run.run()
        return done

    return go


@pytest.fixture
def scans(tmp_path: Path) -> list[dict]:
    return [save(tmp_path, "a", (LEFT, RIGHT)), save(tmp_path, "b"), save(tmp_path, "c", (LEFT,))]


def tables(output: Path) -> tuple[bytes, bytes]:
    return (output / "lesions.csv").read_bytes(), (output / "components.csv").read_bytes()


def test_a_finished_cohort_is_left_alone(run: Run, scans: list[dict], tmp_path: Path) -> None:
    assert run(scans) == ["a", "b", "c"]
    first = tables(tmp_path / "out")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.nii.gz")}
    assert run(scans) == []
    assert tables(tmp_path / "out") == first  # seconds too: those of the run that did it
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.nii.gz")} == stamps
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [scan["earlier"] for scan in manifest["scans"]] == [True] * 3
    assert run(scans, overwrite=True) == ["a", "b", "c"]


def test_new_and_changed_scans_are_done(run: Run, scans: list[dict], tmp_path: Path) -> None:
    run(scans[:2])
    save(tmp_path, "b", (RIGHT,))
    assert run(scans) == ["b", "c"]
    rows = pd.read_csv(tmp_path / "out" / "lesions.csv").set_index("scan")
    assert dict(rows["side"]) == {"a": "both", "b": "right", "c": "left"}


def test_a_touched_or_moved_scan_is_the_same(run: Run, scans: list[dict], tmp_path: Path) -> None:
    run(scans)
    os.utime(scans[0]["image"], (0, 0))
    (tmp_path / "moved").mkdir()
    for case in scans:
        case["image"] = str(Path(case["image"]).rename(tmp_path / "moved" / Path(case["image"]).name))
    assert run(scans) == []


def test_other_settings_weights_and_wishes_do_it_anew(run: Run, scans: list[dict], tmp_path: Path) -> None:
    run(scans)
    assert run(scans, threshold=0.6) == ["a", "b", "c"]
    (tmp_path / "model.pt").write_bytes(b"other weights")
    assert run(scans, threshold=0.6) == ["a", "b", "c"]
    assert run(scans, threshold=0.6, save_labels=True) == ["a", "b", "c"]
    assert run(scans, threshold=0.6) == []  # more than is wanted is there
    (tmp_path / "out" / f"b{MASK_SUFFIX}").unlink()
    assert run(scans, threshold=0.6) == ["b"]


def test_other_preprocessing_does_it_anew(run: Run, scans: list[dict], tmp_path: Path) -> None:
    """Whatever of it was changed, and by a config laid over another too; but not how it is computed."""

    def using(upper: float = 99.5, overlap: float = 0.25, windows: int = 8) -> list[str]:
        inferer = SliceWindowInferer((32, 32), windows, overlap)
        crop = CropForegroundd("image", "image", select_fn=cranium_mask)
        scale = ScaleHeadIntensityd("image", upper=upper)
        return run(scans, preprocessing=Compose([crop, Compose([scale])]), inferer=inferer)

    everything = ["a", "b", "c"]
    assert using() == everything
    assert using() == using(windows=2) == []
    assert using(upper=99) == everything
    assert using(upper=99, overlap=0.5) == everything
    settings = json.loads((tmp_path / "out" / "a_label-lesion_mask.json").read_text())["Settings"]
    crop, scale = settings["preprocessing"]
    assert scale == "ScaleHeadIntensityd(keys=['image'], allow_missing_keys=False, lower=0.5, upper=99)"
    assert "select_fn=cranium_mask" in crop
    assert "overlap=0.5" in settings["inferer"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"GeneratedBy": 3}'])
def test_a_sidecar_that_says_nothing_is_no_result(
    run: Run, scans: list[dict], tmp_path: Path, content: str
) -> None:
    run(scans)
    (tmp_path / "out" / "c_label-lesion_mask.json").write_text(content)
    assert run(scans) == ["c"]


def test_failed_scans_are_tried_again(run: Run, scans: list[dict]) -> None:
    whole = Path(scans[1]["image"]).read_bytes()
    Path(scans[1]["image"]).write_bytes(whole[:200])
    with pytest.raises(SystemExit):
        run(scans)
    Path(scans[1]["image"]).write_bytes(whole)
    assert run(scans) == ["b"]


def results(output: Path, name: str) -> set[str]:
    """The ends of what lies there under a scan's name."""
    start = f"{name}_label-lesion"
    return {path.name.removeprefix(start) for path in output.glob(f"**/{start}*")}


MASK = {"_mask.nii.gz", "_mask.json"}
PROBABILITY = {"_probseg.nii.gz", "_probseg.json"}


def test_a_scan_that_fails_now_leaves_nothing_of_the_earlier_one(
    run: Run, scans: list[dict], tmp_path: Path
) -> None:
    """A mask of the old scan would be found by its name, and taken for that of the new one."""
    run(scans, save_labels=True, save_picture=True)
    out = tmp_path / "out"
    mine = out / "a_label-lesion_manual.nii.gz"
    mine.write_bytes(b"drawn by hand")
    others = {path: path.read_bytes() for path in out.glob("[bc]_label-lesion*")}
    Path(scans[0]["image"]).write_bytes(b"truncated")
    with pytest.raises(SystemExit):
        run(scans, save_labels=True, save_picture=True)
    assert results(out, "a") == {"_manual.nii.gz"}
    assert {path: path.read_bytes() for path in out.glob("[bc]_label-lesion*")} == others
    assert len(others) == 14


@pytest.mark.parametrize("changes", [{"threshold": 0.6}, {"overwrite": True}])
def test_a_scan_done_anew_keeps_no_label_map_of_the_earlier_result(
    run: Run, scans: list[dict], tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(scans, save_labels=True, save_picture=True)
    assert run(scans, **changes) == ["a", "b", "c"]
    assert results(tmp_path / "out", "a") == MASK | PROBABILITY


def test_a_mask_that_is_not_known_as_ours_stays_when_its_scan_fails(
    run: Run, scans: list[dict], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / f"a{MASK_SUFFIX}").write_bytes(b"drawn by hand")
    (out / "a_label-lesion_mask.json").write_text('{"Type": "Lesion", "Manual": true}')
    Path(scans[0]["image"]).write_bytes(b"truncated")
    with pytest.raises(SystemExit):
        run(scans)
    assert (out / f"a{MASK_SUFFIX}").read_bytes() == b"drawn by hand"
    assert results(out, "a") == MASK


def test_a_mask_that_was_drawn_elsewhere_is_not_replaced(
    run: Run, scans: list[dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BIDS calls an expert's mask as it calls ours."""
    out = tmp_path / "out"
    out.mkdir()
    mask = out / f"a{MASK_SUFFIX}"
    nib.save(nib.Nifti1Image(np.ones((30, 30, 8), np.uint8), np.eye(4)), mask)
    drawn = mask.read_bytes()
    with pytest.raises(SystemExit) as exit_:
        run(scans)
    assert exit_.value.code == 1
    assert capsys.readouterr().err == (
        f"Failed: {mask} was not made here: give it another name or choose another output folder, or "
        f"--overwrite.\n"
    )
    assert (mask.read_bytes(), results(out, "a")) == (drawn, {"_mask.nii.gz"})
    assert results(out, "b") == MASK | PROBABILITY
    assert run(scans, overwrite=True) == ["a", "b", "c"]
    assert mask.read_bytes() != drawn


def test_a_mask_that_was_corrected_is_not_replaced_nor_taken_for_ours(
    run: Run, scans: list[dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(scans)
    mask = tmp_path / "out" / f"a{MASK_SUFFIX}"
    made = mask.read_bytes()
    nib.save(nib.Nifti1Image(np.ones((30, 30, 8), np.uint8), np.eye(4)), mask)
    corrected = mask.read_bytes()
    for changes in ({}, {"threshold": 0.6}):
        with pytest.raises(SystemExit):
            run(scans, **changes)
        assert f"{mask} was changed after it was made: give it another name" in capsys.readouterr().err
        assert mask.read_bytes() == corrected
    mask.rename(tmp_path / "out" / "a_desc-corrected_mask.nii.gz")
    assert run(scans) == ["a", "b", "c"]
    assert mask.read_bytes() == made


def test_what_a_killed_run_or_a_stopped_machine_left_is_made_anew(
    run: Run, scans: list[dict], tmp_path: Path
) -> None:
    """A mask whose record was not written any more, and one of which nothing came onto the disk."""
    run(scans)
    out = tmp_path / "out"
    (out / "a_label-lesion_mask.json").unlink()
    (out / f"b{MASK_SUFFIX}").write_bytes(b"")
    assert run(scans) == ["a", "b"]
    assert run(scans) == []


def test_a_name_that_is_no_utf8(run: Run, tmp_path: Path) -> None:
    """As from an archive of another system; others go on, and all is told."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in (os.fsdecode(b"M\xfcller_T1w"), "b_T1w"):
        save(folder, name, (LEFT,))
    (folder / os.fsdecode(b"\xfc_FLAIR.nii.gz")).write_bytes(b"")
    with pytest.warns(ScanWarning, match="left out"):
        cases = find_cases(folder)
    assert len(run(cases, save_picture=True)) == 2
    out = tmp_path / "out"
    assert sorted(pd.read_csv(out / "lesions.csv")["scan"]) == ["M\\udcfcller_T1w", "b_T1w"]
    assert b"M%FCller_T1w_label-lesion_mask.nii.gz" in (out / "report.html").read_bytes()
    with pytest.warns(ScanWarning, match="left out"):
        assert run(find_cases(folder), save_picture=True) == []


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n cut"])
def test_a_damaged_picture_does_not_cost_the_report(
    run: Run, scans: list[dict], tmp_path: Path, content: bytes
) -> None:
    run(scans, save_picture=True)
    report = tmp_path / "out" / "report.html"
    assert report.read_text().count("<figure") == 3
    (tmp_path / "out" / f"a{PICTURE_SUFFIX}").write_bytes(content)
    run(scans, save_picture=True)
    assert report.read_text().count("<figure") == (2 if content else 3)


def test_a_scan_out_of_reach_keeps_its_result(run: Run, tmp_path: Path) -> None:
    """As on a disk that is not mounted; there again, it is not done anew."""
    scans = of_patient(tmp_path / "disk", (LEFT,))
    assert run(scans) == ["T1"]
    (tmp_path / "disk").rename(tmp_path / "away")
    with pytest.raises(SystemExit):
        run(scans)
    assert (tmp_path / "out" / f"T1{MASK_SUFFIX}").is_file()
    (tmp_path / "away").rename(tmp_path / "disk")
    assert run(scans) == []


@pytest.mark.parametrize("inputs", [None, {}, [None], ["T1.nii.gz"]])
def test_a_record_that_was_edited_is_none_of_ours(run: Run, tmp_path: Path, inputs: object) -> None:
    scans = of_patient(tmp_path / "A", (LEFT,))
    run(scans)
    sidecar = tmp_path / "out" / f"T1{MASK_SUFFIX}".replace(".nii.gz", ".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"Inputs": inputs}))
    assert run(scans) == ["T1"]


def of_patient(folder: Path, lesions: tuple, name: str = "T1") -> list[dict]:
    folder.mkdir(exist_ok=True)
    return [save(folder, name, lesions)]


def test_another_scan_of_the_name_does_not_replace_a_mask(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loop over patients whose files are all called T1, into one folder."""
    first, second = of_patient(tmp_path / "A", (LEFT,)), of_patient(tmp_path / "B", (RIGHT,))
    other = save(tmp_path, "other")
    run(first)
    out = tmp_path / "out"
    before = {path: path.read_bytes() for path in out.glob("T1_*")}
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run([*second, other])
    assert exit_.value.code == 1
    assert capsys.readouterr().err == (
        f"Failed: {out} holds the result of {first[0]['image']} under the name T1: choose another output "
        f"folder, or --overwrite.\n"
    )
    rows = pd.read_csv(out / "lesions.csv").set_index("scan")
    assert dict(rows["status"]) == {"T1": "failed", "other": "ok"}
    assert {path: path.read_bytes() for path in out.glob("T1_*")} == before
    assert run(first) == []
    # Neither does one that is not there, nor the same scan's other settings, which are no other scan.
    Path(second[0]["image"]).unlink()
    with pytest.raises(SystemExit):
        run(second)
    assert run(first) == []
    assert run(first, threshold=0.6) == ["T1"]


def test_another_scan_of_the_name_replaces_what_may_be_overwritten(run: Run, tmp_path: Path) -> None:
    first, second = of_patient(tmp_path / "A", (LEFT,)), of_patient(tmp_path / "B", (RIGHT,))
    run(first)
    assert run(second, overwrite=True) == ["T1"]
    assert pd.read_csv(tmp_path / "out" / "lesions.csv")["side"].tolist() == ["right"]
    shutil.rmtree(tmp_path / "B")  # the dataset moved, and the scan is new there
    assert run(first) == ["T1"]


def test_a_copy_a_link_and_a_relative_path_are_the_same_scan(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [scan] = of_patient(tmp_path / "A", (LEFT,))
    run([scan])
    shutil.copytree(tmp_path / "A", tmp_path / "copy")
    assert run([scan | {"image": str(tmp_path / "copy" / "T1.nii.gz")}]) == []
    assert run([scan | {"image": str(tmp_path / "copy" / "T1.nii.gz")}], threshold=0.6) == ["T1"]
    run([scan], threshold=0.7)
    (tmp_path / "link").symlink_to(tmp_path / "A")
    monkeypatch.chdir(tmp_path)
    of_patient(tmp_path / "A", (RIGHT,))
    assert run([scan | {"image": "link/T1.nii.gz"}]) == ["T1"]
    of_patient(tmp_path / "A", (LEFT, RIGHT))
    assert run([scan]) == ["T1"]


def test_a_run_killed_while_redoing_leaves_no_wrong_record(run: Run, scans: list[dict]) -> None:
    """With other settings a's mask is new when all ends, before its record: no old one may vouch for it."""
    run(scans)

    class Killed(Bright):
        def forward(self, x: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        run(scans, Killed(), threshold=0.6)
    assert "a" in run(scans)


def test_what_is_known_of_a_result(run: Run, scans: list[dict], tmp_path: Path) -> None:
    run(scans, save_labels=True)
    out = tmp_path / "out"
    about = json.loads((out / "a_label-lesion_mask.json").read_text())
    content = Path(scans[0]["image"]).read_bytes()
    assert about["Inputs"] == [{"Path": scans[0]["image"], "SHA256": hashlib.sha256(content).hexdigest()}]
    assert about["GeneratedBy"]["WeightsSHA256"] == hashlib.sha256(b"weights").hexdigest()
    assert about["Settings"] == {"threshold": 0.5, "window": [32, 32]}
    assert about["Type"] == "Lesion"
    row = pd.read_csv(out / "lesions.csv").iloc[0]
    assert about["Result"]["volume_ml"] == row["volume_ml"]
    labels = np.asarray(nib.load(out / f"a{LABELS_SUFFIX}").dataobj)
    mask = np.asarray(nib.load(out / f"a{MASK_SUFFIX}").dataobj)
    np.testing.assert_array_equal(labels > 0, mask > 0)
    assert labels.dtype == np.uint16
    components = pd.read_csv(out / "components.csv")
    assert list(components["scan"]) == ["a", "a", "c"]
    assert list(components["lesion"]) == [1, 2, 1]
    voxel_ml = 1.25 * 3 / 1000
    of_a = components[components["scan"] == "a"]["volume_ml"].to_numpy()
    np.testing.assert_allclose(of_a, np.bincount(labels.ravel())[1:] * voxel_ml, atol=1e-3)
    for other in ("probseg", "dseg"):
        assert json.loads((out / f"a_label-lesion_{other}.json").read_text())["Settings"] == about["Settings"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"] == about["GeneratedBy"]
    assert manifest["software"]["monai"]
    assert [scan["row"]["scan"] for scan in manifest["scans"]] == ["a", "b", "c"]
    assert manifest["scans"][0]["inputs"] == about["Inputs"]


def test_the_manifest_tells_the_command_when_it_ran_and_where(
    run: Run, scans: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["strokeseg", "predict", "--model", "xnet"])
    before = datetime.now(timezone.utc).replace(microsecond=0)
    run(scans)
    after = datetime.now(timezone.utc)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["command"] == ["strokeseg", "predict", "--model", "xnet"]
    started, ended = (datetime.fromisoformat(manifest[key]) for key in ("started", "ended"))
    assert before <= started <= ended <= after
    assert (manifest["stopped"], manifest["device"]) == (None, "cpu")


@pytest.mark.filterwarnings("ignore::shared_nets.data.ScanWarning")
def test_manifest_and_report_tell_every_file_that_was_left_out(
    run: Run, scans: list[dict], tmp_path: Path
) -> None:
    """Standard error names three of them; all are told to who looks into the results later."""
    folder = Path(scans[0]["image"]).parent
    others = [folder / f"p{n}_T2w.nii.gz" for n in range(5)]
    for path in others:
        path.touch()
    assert run(find_cases(folder)) == ["a", "b", "c"]
    why = "the names say something else than T1w"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["left_out"] == {why: [str(path) for path in others]}
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"Left out, as {why}: 5 files" in page
    assert all(str(path) in page for path in others)
    run(scans)
    assert "Left out" not in (tmp_path / "out" / "report.html").read_text()


def test_a_result_of_two_scans_is_on_the_grid_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    writer = LesionWriter(tmp_path / "out", save_picture=False)
    inputs = [{"Path": f"p1_{modality}.nii.gz", "SHA256": "0"} for modality in ("dwi", "FLAIR")]
    records = Records(writer, tmp_path, tmp_path / "model.pt", {})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"p1{MASK_SUFFIX}").write_bytes(b"mask")
    records.write({"name": "p1"}, Result({}, inputs=inputs))
    about = json.loads((tmp_path / "out" / "p1_label-lesion_mask.json").read_text())
    assert about["Sources"] == ["p1_dwi.nii.gz", "p1_FLAIR.nii.gz"]
    assert about["SpatialReference"] == "p1_dwi.nii.gz"


def test_the_report_counts_scans_and_links_to_their_files(run: Run, tmp_path: Path) -> None:
    lesions: dict[str, tuple] = {"a #1": (LEFT, RIGHT), "b": (), "c": (LEFT,)}
    run([save(tmp_path, name, shown) for name, shown in lesions.items()], save_picture=True)
    out = tmp_path / "out"
    page = (out / "report.html").read_text()
    assert "<b>3</b> of 3 scans segmented" in page
    assert "<b>2</b> with a lesion" in page
    links = {unquote(urlsplit(link).path) for link in re.findall(r'href="([^#"][^"]*)"', page)}
    assert links == {f"{name}{suffix}" for name in lesions for suffix in (MASK_SUFFIX, PICTURE_SUFFIX)}
    assert all((out / link).is_file() for link in links)
    *rows, _ = page[page.index("<tbody>") :].split("</tr>")
    assert [
        f'<a href="{quote(name + MASK_SUFFIX)}">mask</a>' in row
        for name, row in zip(lesions, rows, strict=True)
    ] == [True] * 3
    assert re.findall(r'href="#(sheet-\d)"', page) == re.findall(r'<figure id="(sheet-\d)">', page)


def test_a_broken_scan_among_others_leaves_links_to_pictures_right(
    run: Run, scans: list[dict], tmp_path: Path
) -> None:
    Path(scans[1]["image"]).write_bytes(b"broken")
    with pytest.raises(SystemExit):
        run(scans, save_picture=True)
    page = (tmp_path / "out" / "report.html").read_text()
    assert re.findall(r'<a href="#(sheet-\d)">(\w)</a>', page) == [("sheet-1", "a"), ("sheet-3", "c")]
    assert re.findall(r'<figure id="(sheet-\d)">', page) == ["sheet-1", "sheet-3"]


def test_the_report_of_an_interrupted_run_says_what_is_not_done(
    run: Run, scans: list[dict], tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    scans[1] = save(tmp_path, "b", (LEFT,), 3.0)
    with pytest.raises(SystemExit):
        run(scans, Second(interrupt))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>1</b> of 3 scans segmented" in page
    assert "2 not done yet" in page
    assert "of part" not in page
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["not_done"] == {"1-of-1": ["b", "c"]}


class Page(HTMLParser):
    """The table's columns and the cells of its rows, scripts, and what a page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.columns, self.scripts = 0, list[str]()
        self.rows, self.loaded = list[int](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.columns += tag == "th"
        if tag == "tr":
            self.rows.append(0)
        elif tag == "td":
            self.rows[-1] += 1
        elif tag == "script":
            self.scripts.append("")
        if tag == "link" or given.get("src"):
            self.loaded.append(given.get("src") or given.get("href") or "")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts and not self.scripts[-1]:
            self.scripts[-1] = data


def test_the_reports_own_script_sorts_by_the_column_clicked_on(
    run: Run, scans: list[dict], tmp_path: Path
) -> None:
    """By a cell's place in its row, so that failed scans' rows have as many; nothing comes from elsewhere."""
    Path(scans[1]["image"]).write_bytes(b"no scan")
    with pytest.raises(SystemExit):
        run(scans, save_picture=True)
    page = Page((tmp_path / "out" / "report.html").read_text())
    (script,) = page.scripts
    for part in ('querySelectorAll("th")', 'addEventListener("click"', "row.cells[column]", ".sort("):
        assert part in script
    assert page.columns == 14
    assert page.rows == [0, *[page.columns] * 3]  # the head's row has no cells of its own
    assert len(page.loaded) == 2
    assert all(source.startswith("data:image/") for source in page.loaded)


def test_bars_of_volumes_include_their_upper_end() -> None:
    bars = volume_bars([0, 0, 0.5, 1, 1.5, 25, 100, 100.5, 300])
    counts = {"none": 2, "0–1": 2, "1–5": 1, "5–10": 0, "10–25": 1, "25–50": 0, "50–100": 1, "> 100": 2}
    assert dict(bars) == counts


def test_bids_in_gives_bids_derivatives_out(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "bids"
    for name in ("sub-1/anat/sub-1_T1w", "sub-2/ses-b/anat/sub-2_ses-b_T1w"):
        (root / name).parent.mkdir(parents=True)
        save((root / name).parent, Path(name).name, (LEFT,))
    run(find_cases(root))
    out = tmp_path / "out"
    assert {p.relative_to(out).as_posix() for p in out.glob("sub-*/**/*") if p.is_file()} == {
        f"{start}_label-lesion_{kind}.{end}"
        for start in ("sub-1/anat/sub-1", "sub-2/ses-b/anat/sub-2_ses-b")
        for kind in ("mask", "probseg")
        for end in ("nii.gz", "json")
    }
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "shared_nets"
    assert description["DatasetLinks"] == {"raw": root.as_uri()}
    about = json.loads((out / "sub-2/ses-b/anat/sub-2_ses-b_label-lesion_mask.json").read_text())
    assert about["Sources"] == ["bids:raw:sub-2/ses-b/anat/sub-2_ses-b_T1w.nii.gz"]
    assert run(find_cases(root)) == []


def test_each_of_several_datasets_has_its_link(run: Run, tmp_path: Path) -> None:
    """Which scan a sidecar's URI means stays known, whatever is segmented into the folder later."""

    def dataset(name: str, subject: str) -> Path:
        (tmp_path / name / subject / "anat").mkdir(parents=True)
        save(tmp_path / name / subject / "anat", f"{subject}_T1w", (LEFT,))
        return tmp_path / name

    out = tmp_path / "out"

    def links() -> dict[str, str]:
        description = json.loads((out / "dataset_description.json").read_text())
        assert [source["URL"] for source in description["SourceDatasets"]] == [
            *description["DatasetLinks"].values()
        ]
        return description["DatasetLinks"]

    def source(subject: str) -> str:
        about = json.loads((out / subject / "anat" / f"{subject}_label-lesion_mask.json").read_text())
        assert about["Sources"] == [about["SpatialReference"]]
        return about["SpatialReference"]

    one, two = dataset("d1", "sub-1"), dataset("d2", "sub-2")
    run(find_cases([one, two]))
    assert links() == {"raw": one.as_uri(), "raw2": two.as_uri()}
    assert source("sub-1") == "bids:raw:sub-1/anat/sub-1_T1w.nii.gz"
    assert source("sub-2") == "bids:raw2:sub-2/anat/sub-2_T1w.nii.gz"
    three = dataset("d3", "sub-3")
    run(find_cases([three, two]))
    assert links() == {"raw": one.as_uri(), "raw2": two.as_uri(), "raw3": three.as_uri()}
    assert source("sub-3") == "bids:raw3:sub-3/anat/sub-3_T1w.nii.gz"
    # A dataset that is not there now may be on a disk that is not mounted: its name stays its own.
    moved = one.rename(tmp_path / "moved dataset")
    assert run(find_cases(moved)) == []
    assert (links()["raw"], links()["raw4"]) == (one.as_uri(), moved.as_uri())


@pytest.mark.parametrize("made_by", [None, [{"Name": "fMRIPrep"}], "a string"])
def test_another_dataset_does_not_take_our_results(run: Run, tmp_path: Path, made_by: object) -> None:
    """Its description, and what its validator need not know, would be replaced."""
    anat = tmp_path / "out" / "sub-1" / "anat"
    anat.mkdir(parents=True)
    save(anat, "sub-1_T1w", (LEFT,))
    description = tmp_path / "out" / "dataset_description.json"
    description.write_text(json.dumps({"Name": "Ours", "Authors": ["A"], "GeneratedBy": made_by}))
    there = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"out is another dataset, .*derivatives.lesions\."):
        run(find_cases(tmp_path / "out"))
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == there


def test_results_of_another_model_stay(run: Run, scans: list[dict], tmp_path: Path) -> None:
    metadata = tmp_path / "configs" / "metadata.json"
    metadata.parent.mkdir()
    metadata.write_text(json.dumps({"name": "First"}))
    run(scans)
    out = tmp_path / "out"
    there = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    metadata.write_text(json.dumps({"name": "Second"}))
    with pytest.raises(
        UsageError, match=r"out holds the results of First: .* those of Second, or --overwrite"
    ):
        run(scans)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == there
    assert run(scans, overwrite=True) == ["a", "b", "c"]
    assert json.loads((out / "manifest.json").read_text())["model"]["Name"] == "Second"


def test_a_dataset_does_not_take_its_own_results(run: Run, tmp_path: Path) -> None:
    """Without a description of its own, too: it would be described as derivatives."""
    anat = tmp_path / "out" / "sub-1" / "anat"
    anat.mkdir(parents=True)
    save(anat, "sub-1_T1w", (LEFT,))
    with pytest.raises(UsageError, match=r"out is another dataset, .*derivatives.lesions\."):
        run(find_cases(tmp_path / "out"))
    assert [path.name for path in anat.parents[1].iterdir()] == ["sub-1"]


def test_a_scan_named_alone_is_known_by_its_path(run: Run, tmp_path: Path) -> None:
    """No description says what bids:raw: would mean."""
    [scan] = of_patient(tmp_path / "sub-1", (LEFT,))
    run([scan])
    about = json.loads((tmp_path / "out" / "T1_label-lesion_mask.json").read_text())
    assert about["Sources"] == [scan["image"]]


def test_no_dataset_description_for_plain_folders(run: Run, scans: list[dict], tmp_path: Path) -> None:
    run(scans)
    assert not (tmp_path / "out" / "dataset_description.json").exists()


def test_the_hash_of_files_that_belong_together(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_text("header")
    (tmp_path / "a.raw").write_bytes(b"voxels")
    before = hash_scan(tmp_path / "a.mhd")
    (tmp_path / "a.raw").write_bytes(b"others")
    assert hash_scan(tmp_path / "a.mhd") != before
    series = tmp_path / "series"
    series.mkdir()
    (series / "1").write_bytes(b"slice")
    before = hash_scan(series)
    (series / "2").write_bytes(b"slice")
    assert hash_scan(series) != before
    with pytest.raises(ScanNotFoundError, match=r"gone\.nii cannot be read"):
        hash_scan(tmp_path / "gone.nii")

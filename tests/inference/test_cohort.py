"""Whole runs: real files, a real MONAI evaluator, and scans that go wrong at each stage."""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from monai.data import Dataset
from monai.handlers import StatsHandler
from torch import Tensor, nn

from shared_nets.errors import OutputError, WeightsError, warn_of_scan
from shared_nets.inference import LesionWriter, Records
from shared_nets.inference.outputs import MASK_SUFFIX, PICTURE_SUFFIX, PROBABILITY_SUFFIX
from shared_nets.inference.tables import GrowingTables, write_scan_table
from tests.heads import dice
from tests.inference.cohorts import AFFINE, LEFT, RIGHT, VOXEL_ML, Bright, Second, cohort, save

COLUMNS = (
    "scan,status,volume_ml,lesion_count,largest_ml,side,max_probability,seconds,message,"
    "left_ml,right_ml,centroid_x_mm,centroid_y_mm,centroid_z_mm,mean_probability"
)


def table(output: Path) -> pd.DataFrame:
    assert (output / "lesions.csv").read_text().splitlines()[0] == COLUMNS
    return pd.read_csv(output / "lesions.csv", keep_default_na=False)


def files(output: Path, *names: str) -> set[str]:
    suffixes = (MASK_SUFFIX, PROBABILITY_SUFFIX, PICTURE_SUFFIX)
    expected = {name + suffix for name in names for suffix in suffixes} | {"lesions.csv"}
    assert {path.name for path in output.iterdir() if not path.name.startswith(".")} == expected
    return expected


def test_three_scans_of_which_one_is_broken(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = [save(tmp_path, "a", (LEFT, RIGHT)), save(tmp_path, "b"), save(tmp_path, "c", (LEFT,))]
    broken = tmp_path / "b.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(SystemExit) as exit_:
        cohort(cases, tmp_path / "out").run()
    assert exit_.value.code == 1

    files(tmp_path / "out", "a", "c")
    rows = table(tmp_path / "out")
    assert list(rows.scan) == ["a", "b", "c"]
    assert list(rows.status) == ["ok", "failed", "ok"]
    a, b, c = (rows.iloc[index] for index in range(3))
    assert float(a.volume_ml) == pytest.approx(100 * VOXEL_ML, rel=0.15)  # resampled there and back
    assert float(c.volume_ml) == pytest.approx(60 * VOXEL_ML, rel=0.15)
    assert (a.lesion_count, a.side, c.lesion_count, c.side) == ("2", "both", "1", "left")
    assert float(c.max_probability) == 1
    assert (rows.seconds[rows.status == "ok"] > 0).all()
    assert b.volume_ml == b.side == ""
    assert b.message.startswith("b: unexpected ")
    assert a.message == c.message == ""

    out, err = capfd.readouterr()
    assert "2 scans segmented, 2 with a lesion, 1 failed." in out
    assert f"Failed: {b.message}" in err
    assert "Traceback" not in out + err
    assert "3/3" in err  # the progress bar

    mask = nib.load(tmp_path / "out" / f"a{MASK_SUFFIX}")
    np.testing.assert_array_equal(mask.affine, AFFINE)
    truth = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj) > 0.8
    found = np.asarray(mask.dataobj) > 0
    assert dice(truth, found) > 0.9
    assert found.sum() * VOXEL_ML == pytest.approx(float(a.volume_ml), abs=1e-3)


@pytest.mark.parametrize("first", ["a", "b", "z"])
def test_every_kind_of_failure_is_one_sentence(first: str, tmp_path: Path) -> None:
    """Failing at loading, checking and in the network, as first, middle and last scan."""
    bad = [
        {"image": str(tmp_path / "absent.nii.gz"), "name": "absent"},
        save(tmp_path, "negative", (LEFT,), -1.0),
        save(tmp_path, "bug", (LEFT,), 9.0),
        save(tmp_path, "overflow", (LEFT,), 4.0),
    ]
    good = [save(tmp_path, "good1", (LEFT,)), save(tmp_path, "good2")]
    cases = {"a": bad + good, "b": [good[0], *bad, good[1]], "z": good + bad}[first]
    with pytest.raises(SystemExit):
        cohort(cases, tmp_path / "out", quiet=True).run()
    files(tmp_path / "out", "good1", "good2")
    rows = table(tmp_path / "out").set_index("scan")
    assert list(rows.index) == [case["name"] for case in cases]
    assert rows.loc["negative"].message == "negative.nii.gz: it has negative voxels; export it again."
    bug = "bug: unexpected TypeError: unsupported operand; run again with debug to see where."
    assert rows.loc["bug"].message == bug
    assert rows.loc["absent"].message.startswith("absent: unexpected ")
    overflow = "overflow: the network returned values that are NaN or infinite"
    assert rows.loc["overflow"].message.startswith(overflow)
    assert rows.loc["good1"].side == "left"
    assert rows.loc["good2"].side == "none"


def test_what_else_a_case_holds_comes_through_as_it_is(tmp_path: Path) -> None:
    """A data list's items may say anything; MONAI makes no batch of what is null or of no one kind."""
    about = {"info": {"age": None, "sessions": [1, "b"]}, "label": "not/loaded.nii.gz"}
    seen: list[dict[str, Any]] = []

    def see(case: dict[str, Any]) -> dict[str, Any]:
        seen.append(case)
        return {}

    rows = cohort([save(tmp_path, "a", (LEFT,)) | about], tmp_path / "out", measures=[see], quiet=True).run()
    assert rows[0]["status"] == "ok"
    assert seen[0]["info"] == about["info"]
    assert seen[0]["pred"].shape == (1, 30, 30, 8)


def test_no_lesions_is_a_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = cohort([save(tmp_path, "a")], tmp_path / "out").run()
    assert rows[0]["status"] == "ok"
    assert "1 scan segmented, 0 with a lesion, 0 failed." in capsys.readouterr().out


def test_quiet_says_nothing_when_all_is_well(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cohort([save(tmp_path, "a", (LEFT,))], tmp_path / "out", quiet=True).run()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_keeps_what_is_odd_about_a_scan_to_the_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], quiet: bool
) -> None:
    class WarnOf(Dataset):
        def __getitem__(self, index: int) -> Any:
            warn_of_scan("a.nii.gz looks odd.")
            return super().__getitem__(index)

    run = cohort([save(tmp_path, "a")], tmp_path / "out", quiet=quiet)
    run.dataset = WarnOf(run.dataset.data, run.dataset.transform)
    run.run()
    assert list(table(tmp_path / "out").message) == ["a.nii.gz looks odd."]
    assert ("Warning: a.nii.gz looks odd." in capfd.readouterr().err) is not quiet


@pytest.mark.parametrize(("kind", "heard"), [(FutureWarning, 0), (UserWarning, 1)])
def test_what_libraries_plan_is_not_told_but_what_concerns_the_scan_is(
    tmp_path: Path, kind: type[Warning], heard: int
) -> None:
    def warn(case: dict[str, Any]) -> dict[str, Any]:
        warnings.warn("of a measure", kind, stacklevel=2)
        return {}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cohort([save(tmp_path, "a")], tmp_path / "out", measures=[warn], quiet=True).run()
    assert sum(str(warning.message) == "of a measure" for warning in caught) == heard


def test_debug_lets_the_error_through(tmp_path: Path) -> None:
    cases = [save(tmp_path, "bug", (LEFT,), 9.0), save(tmp_path, "good")]
    with pytest.raises(TypeError, match="unsupported operand"):
        cohort(cases, tmp_path / "out", debug=True).run()


def test_a_handler_that_raises_again_does_not_hide_the_next_scan(tmp_path: Path) -> None:
    # MONAI's StatsHandler logs an exception and raises it once more.
    logging.getLogger("silent").setLevel(logging.CRITICAL + 1)
    cases = [save(tmp_path, "bug", (LEFT,), 9.0), save(tmp_path, "good", (LEFT,))]
    stats = StatsHandler(name="silent", output_transform=lambda _: None)
    with pytest.raises(SystemExit):
        cohort(cases, tmp_path / "out", handlers=[stats], quiet=True).run()
    files(tmp_path / "out", "good")


class Signals(LesionWriter):
    """Writes the first scan only when the network has begun with the second, or after ten seconds."""

    def __init__(self, output: Path) -> None:
        super().__init__(output, save_picture=False)
        self.begun = threading.Event()
        self.overlapped = False

    def write(self, case: Mapping[str, Any]) -> None:
        if case["name"] == "a":
            self.overlapped = self.begun.wait(10)
        super().write(case)


def test_results_are_written_while_the_network_works_on_the_next_scan(tmp_path: Path) -> None:
    cases = [save(tmp_path, "a", (LEFT,)), save(tmp_path, "b", (LEFT,), 3.0), save(tmp_path, "c")]
    writer = Signals(tmp_path / "out")
    cohort(cases, tmp_path / "out", Second(writer.begun.set), writer=writer, quiet=True).run()
    assert writer.overlapped
    assert list(table(tmp_path / "out").scan) == ["a", "b", "c"]
    assert list(table(tmp_path / "out").side) == ["left", "left", "none"]


def test_what_is_being_written_when_a_run_is_interrupted_is_finished(tmp_path: Path) -> None:
    cases = [save(tmp_path, "a", (LEFT,)), save(tmp_path, "b", (LEFT,), 3.0), save(tmp_path, "c")]
    writer = Signals(tmp_path / "out")

    def interrupt() -> None:
        writer.begun.set()
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_:
        cohort(cases, tmp_path / "out", Second(interrupt), writer=writer, quiet=True).run()
    assert exit_.value.code == 130
    assert list(table(tmp_path / "out").scan) == ["a"]
    assert (tmp_path / "out" / f"a{MASK_SUFFIX}").is_file()


def test_a_failure_to_write_one_scan_is_a_row_and_one_that_concerns_all_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [save(tmp_path, "a", (LEFT,)), save(tmp_path, "b", (LEFT,)), save(tmp_path, "c")]

    class Fails(LesionWriter):
        error: Exception = ValueError("no")

        def write(self, case: Mapping[str, Any]) -> None:
            if case["name"] == "b":
                raise self.error
            super().write(case)

    writer = Fails(tmp_path / "out")
    with pytest.raises(SystemExit):
        cohort(cases, tmp_path / "out", writer=writer, quiet=True).run()
    assert list(table(tmp_path / "out").status) == ["ok", "failed", "ok"]

    writer.error = OutputError("the disk is full.")
    writer.error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(SystemExit):
        cohort(cases, tmp_path / "out", writer=writer, quiet=True).run()
    assert list(table(tmp_path / "out").scan) == ["a"]
    assert "Stopped, 2 scans left: the disk is full." in capsys.readouterr().err


def test_further_measures_are_further_columns(tmp_path: Path) -> None:
    def overlap(case: dict[str, Any]) -> dict[str, float]:
        return {"dice": 0.5, "voxels": int(case["pred"].sum()), "seen": case["name"]}

    cases = [{"image": str(tmp_path / "absent.nii.gz"), "name": "absent"}, save(tmp_path, "a", (LEFT,))]
    with pytest.raises(SystemExit):
        cohort(cases, tmp_path / "out", measures=[overlap], quiet=True, table="metrics.csv").run()
    rows = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert list(rows)[7:12] == ["dice", "voxels", "seen", "seconds", "message"]
    assert np.isnan(rows.dice[0])
    assert rows.voxels[1] * VOXEL_ML == pytest.approx(rows.volume_ml[1], abs=1e-3)
    assert rows.seen[1] == "a"


def test_the_table_is_there_after_each_scan_and_survives_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shared_nets.inference.tables._PAUSE", 0)  # scans take no longer than it
    output = tmp_path / "out"
    seen: list[list[str]] = []

    def interrupt(case: dict[str, Any]) -> dict[str, Any]:
        if case["name"] == "c":
            seen.append(list(table(output).scan))
            raise KeyboardInterrupt
        return {}

    cases = [save(tmp_path, name) for name in "abcd"]
    with pytest.raises(SystemExit) as exit_:
        cohort(cases, output, measures=[interrupt], quiet=True).run()
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "Stopped, 2 scans left: interrupted; run again to continue.\n"
    assert seen == [["a", "b"]]
    assert list(table(output).scan) == ["a", "b"]
    assert not list(output.rglob("*.part"))
    for path in output.glob("*.nii.gz"):
        assert nib.load(path).get_fdata().shape == (30, 30, 8)


def test_interrupted_it_leaves_no_summary_of_an_earlier_run(tmp_path: Path) -> None:
    def summarise(table: Path, summary: Path) -> None:
        summary.write_text(f"{len(pd.read_csv(table))} scans")

    def interrupt(case: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    output, cases = tmp_path / "out", [save(tmp_path, name) for name in "ab"]
    cohort(cases, output, summarise=summarise, quiet=True).run()
    assert (output / "summary.csv").read_text() == "2 scans"
    with pytest.raises(SystemExit):
        cohort(cases, output, measures=[interrupt], summarise=summarise, quiet=True).run()
    assert not (output / "summary.csv").exists()


def test_a_folder_that_cannot_be_written_stops_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemExit) as exit_:
        cohort([save(tmp_path, "a"), save(tmp_path, "b")], tmp_path / "out").run()
    assert exit_.value.code == 1
    err = capsys.readouterr().err
    assert f"Stopped, 2 scans left: {tmp_path / 'out'} cannot be written: a file stands where" in err


def test_a_folder_lost_on_the_way_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"

    def lose(case: dict[str, Any]) -> dict[str, Any]:
        output.rename(tmp_path / "moved")
        output.write_text("a file")
        return {}

    with pytest.raises(SystemExit):
        cohort([save(tmp_path, name) for name in "abc"], output, measures=[lose]).run()
    assert "Stopped, 2 scans left" in capsys.readouterr().err


def test_the_output_folder_is_tried_once_not_for_each_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []
    touch = Path.touch

    def note(path: Path) -> None:
        tried.append(path.parent)
        touch(path)

    monkeypatch.setattr(Path, "touch", note)
    cohort([save(tmp_path, name) for name in "abc"], tmp_path / "out", quiet=True).run()
    assert tried == [tmp_path / "out"]


def test_one_file_that_cannot_be_written_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "out" / f"a{MASK_SUFFIX}").mkdir(parents=True)
    with pytest.raises(SystemExit):
        cohort([save(tmp_path, "a"), save(tmp_path, "b")], tmp_path / "out", quiet=True).run()
    rows = table(tmp_path / "out")
    assert list(rows.status) == ["failed", "ok"]
    assert "a folder has its name" in rows.message[0]


def test_a_name_that_the_file_system_refuses_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one with a colon, on a disk of another system."""
    write = LesionWriter.write

    def refuse(self: LesionWriter, case: Mapping[str, Any]) -> None:
        if case["name"] == "a:1":
            cause = OSError(errno.EINVAL, "Invalid argument")
            raise OutputError("a:1.nii.gz cannot be written: Invalid argument.") from cause
        write(self, case)

    monkeypatch.setattr(LesionWriter, "write", refuse)
    with pytest.raises(SystemExit):
        cohort([save(tmp_path, "a:1"), save(tmp_path, "b")], tmp_path / "out", quiet=True).run()
    assert list(table(tmp_path / "out").status) == ["failed", "ok"]


def test_one_folder_that_may_not_be_written_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a subject's, which another user made; of the output folder itself it would concern all."""
    write = LesionWriter.write

    def refuse(self: LesionWriter, case: Mapping[str, Any]) -> None:
        if case["name"] == "a":
            cause = PermissionError(errno.EACCES, "Permission denied")
            raise OutputError("sub-a/a.nii.gz cannot be written: there is no permission.") from cause
        write(self, case)

    monkeypatch.setattr(LesionWriter, "write", refuse)
    cases = [save(tmp_path, name) for name in "ab"]
    with pytest.raises(SystemExit):
        cohort(cases, tmp_path / "out", quiet=True).run()
    assert list(table(tmp_path / "out").status) == ["failed", "ok"]


def test_tables_on_the_way_take_little_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The more rows, the rarer, but not too rare. All ends with what is new, and only with that."""
    now, rows = 0.0, 0
    written: list[int] = []

    def write() -> None:
        nonlocal now
        now += rows / 1000
        written.append(rows)

    monkeypatch.setattr(time, "monotonic", lambda: now)
    tables = GrowingTables(write, warn=lambda error: None)
    for _ in range(1000):
        now, rows = now + 1, rows + 1
        tables.grow()
    assert written[:9] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert max(np.diff(written)) == 5
    assert sum(written) / 1000 < 1000 / 8
    tables.catch_up()
    tables.catch_up()
    assert written[-1] == 1000
    assert written.count(1000) == 1


def test_results_of_an_earlier_run_are_no_reason_to_write_the_table_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    cases = [save(tmp_path, name) for name in "abc"]
    writer = LesionWriter(tmp_path / "out", save_picture=False)
    written: list[list[str]] = []

    def write(path: Path, rows: Any) -> None:
        written.append([row["scan"] for row in rows])

    for _ in range(2):
        records = Records(writer, tmp_path, tmp_path / "model.pt", {})
        cohort(cases, tmp_path / "out", writer=writer, records=records, quiet=True).run()
        monkeypatch.setattr("shared_nets.inference.cohort.write_scan_table", write)
    assert written == [["a", "b", "c"]]


class Locked:
    """Stands for a table that is open in Excel on Windows until so many writes were refused."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def __call__(self, path: Path, rows: Any) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise OutputError(f"{path} cannot be written: there is no permission.") from PermissionError(13)
        write_scan_table(path, rows)


def test_a_table_that_cannot_be_rewritten_on_the_way_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [save(tmp_path, name) for name in "abc"]
    monkeypatch.setattr("shared_nets.inference.cohort.write_scan_table", Locked(1))
    cohort(cases, tmp_path / "out", quiet=True).run()
    assert list(table(tmp_path / "out").scan) == ["a", "b", "c"]
    warning = f"Warning: {tmp_path / 'out' / 'lesions.csv'} cannot be written: there is no permission. It is "
    assert capsys.readouterr().err.count(warning) == 1

    monkeypatch.setattr("shared_nets.inference.cohort.write_scan_table", Locked(99))
    with pytest.raises(SystemExit):
        cohort(cases, tmp_path / "out", quiet=True).run()
    err = capsys.readouterr().err
    assert err.count(warning) == 1  # told while the run can still be helped
    assert f"Stopped, 0 scans left: {tmp_path / 'out' / 'lesions.csv'} cannot be written" in err


def test_with_a_table_that_cannot_be_written_the_rest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    cases = [save(tmp_path, name) for name in "ab"]
    out = tmp_path / "out"
    writer = LesionWriter(out, save_picture=False)
    records = Records(writer, tmp_path, tmp_path / "model.pt", {})
    monkeypatch.setattr("shared_nets.inference.cohort.write_scan_table", Locked(99))
    with pytest.raises(SystemExit):
        cohort(cases, out, writer=writer, records=records, quiet=True).run()
    manifest = json.loads((out / "manifest.json").read_text())
    assert [scan["row"]["scan"] for scan in manifest["scans"]] == ["a", "b"]
    assert "</html>" in (out / "report.html").read_text()


def test_unusable_weights_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class NoWeights(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            try:
                raise WeightsError("model.pt: it is of another network; give the bundle's own.")
            except WeightsError as error:
                raise RuntimeError("applying transform") from error

    with pytest.raises(SystemExit):
        cohort([save(tmp_path, "a"), save(tmp_path, "b")], tmp_path / "out", NoWeights()).run()
    err = capsys.readouterr().err
    assert "Stopped, 2 scans left: model.pt: it is of another network; give the bundle's own." in err


def test_the_engine_runs_once_a_scan_and_the_next_scan_loads_beside_it(tmp_path: Path) -> None:
    loaded_by: list[str] = []

    class Remember:
        def __call__(self, case: dict[str, Any]) -> dict[str, Any]:
            loaded_by.append(threading.current_thread().name)
            return case

    passes: list[int] = []

    class Count(Bright):
        def forward(self, x: Tensor) -> Tensor:
            passes.append(len(x))
            return super().forward(x)

    run = cohort([save(tmp_path, name) for name in "abc"], tmp_path / "out", Count(), quiet=True)
    run.dataset.transform.transforms += (Remember(),)
    run.run()
    assert passes == [6, 6, 6]  # the six slices with head, once
    assert len(loaded_by) == 3
    assert all(name.startswith("next-scan") for name in loaded_by)
    assert [row["scan"] for row in run.run()] == ["a", "b", "c"]  # and again

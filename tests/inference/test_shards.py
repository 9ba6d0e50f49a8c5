"""Parts of a cohort, and output folders that one run writes at a time."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import redirect_stderr
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed

from shared_nets.errors import UsageError
from shared_nets.inference import LesionWriter, Records
from shared_nets.inference.parts import Parts
from shared_nets.inference.shards import Shard, Terminated, ended_by_sigterm, find_shard
from tests.commands import wait_for
from tests.inference.cohorts import LEFT, Second, cohort, save


@given(st.integers(0, 40), st.integers(1, 12))
def test_every_scan_is_in_one_part(length: int, count: int) -> None:
    parts = [Shard(number, count).indices(length) for number in range(1, count + 1)]
    assert sorted(index for part in parts for index in part) == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part == sorted(part) for part in parts)


ARRAY = {
    f"SLURM_ARRAY_TASK_{key}": value
    for key, value in {"ID": "5", "COUNT": "4", "MIN": "1", "MAX": "7", "STEP": "2"}.items()
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, 1)),
        ({"RANK": "1", "WORLD_SIZE": "3"}, (2, 3)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (1, 1)),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0"}, (3, 4)),
        (ARRAY, (3, 4)),
        # srun's tasks, and a batch script that asked for tasks but runs once itself.
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, (4, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (1, 1)),
        # torchrun or srun in each of an array's tasks; torchrun knows which of srun's tasks it is in.
        (ARRAY | {"RANK": "1", "WORLD_SIZE": "2"}, (6, 8)),
        (ARRAY | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (6, 8)),
        ({"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (6, 8)),
        ({"RANK": "x", "WORLD_SIZE": ""}, (1, 1)),
    ],
)
def test_the_part_is_in_the_environment(environment: dict[str, str], expected: tuple[int, int]) -> None:
    shard = find_shard("auto", environment)
    assert (shard.number, shard.count) == expected
    assert find_shard("none", environment) == Shard()
    assert find_shard("2/3", environment).name == "2-of-3"
    assert find_shard("group", environment) == Shard()


@pytest.mark.parametrize("step", ["1", "4"])
@pytest.mark.parametrize("task", ["3", "7", "8"])
def test_an_uneven_array_is_refused(task: str, step: str) -> None:
    """As of tasks that are done again; each would be no part, or another's."""
    array = dict(zip(("ID", "MIN", "MAX", "STEP", "COUNT"), (task, "3", "8", step, "3"), strict=True))
    environment = {f"SLURM_ARRAY_TASK_{key}": value for key, value in array.items()}
    with pytest.raises(UsageError, match="not evenly spaced"):
        find_shard("auto", environment)
    assert find_shard("none", environment) == Shard()


@pytest.mark.parametrize("asked", ["0/3", "4/3", "3", "a/b", "", "1/0", "-1/3"])
def test_what_is_no_part(asked: str) -> None:
    with pytest.raises(UsageError, match="is no part of a cohort"):
        find_shard(asked, {})


def test_two_parts_that_end_together_lose_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has read what there is, and not yet written the table, when the second comes to its end."""
    cases = [save(tmp_path, name) for name in "abcd"]
    first, second = (cohort(cases, tmp_path / "out", shard=f"{n}/2", quiet=True) for n in (1, 2))
    ends = threading.Thread(target=second.run)
    ended = Parts.ended

    def read(self: Parts, own: dict[str, Any]) -> list[dict[str, Any]]:
        parts = ended(self, own)
        if self.shard.number == 2:
            return parts
        ends.start()
        wait_for((tmp_path / "out" / "shards" / "2-of-2.json").exists, ends.is_alive)
        ends.join(1)  # not under way any more, or waiting for its turn
        return parts

    monkeypatch.setattr(Parts, "ended", read)
    first.run()
    ends.join()
    assert list(pd.read_csv(tmp_path / "out" / "lesions.csv")["scan"]) == list("abcd")


def part(folder: Path, number: int, cases: list[dict[str, Any]], count: int = 2, **settings: Any) -> None:
    """One part of a run that keeps records."""
    (folder / "model.pt").write_bytes(b"weights")
    writer = LesionWriter(folder / "out", save_picture=settings.pop("save_picture", False))
    records = Records(writer, folder, folder / "model.pt", {})
    settings = {"writer": writer, "records": records, "shard": f"{number}/{count}", "quiet": True} | settings
    cohort(cases, folder / "out", **settings).run()


@pytest.mark.parametrize("content", ["", '{"scans": [{"row"', "[]"])
def test_a_part_whose_file_is_broken_is_not_done(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [save(tmp_path, name) for name in "ab"]
    part(tmp_path, 1, cases)
    (tmp_path / "out" / "shards" / "1-of-2.json").write_text(content)
    capsys.readouterr()
    part(tmp_path, 2, cases)
    assert "lacks 1 of 2 scans (1 of part 1-of-2)" in capsys.readouterr().err
    assert list(pd.read_csv(tmp_path / "out" / "lesions.csv")["scan"]) == ["b"]


def one_of_two(rank: int, folder: Path, cases: list[dict[str, Any]]) -> None:
    """One process of a group; ends with the code of its run."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    with open(folder / f"{rank}.txt", "w") as told, redirect_stderr(told):
        cohort(cases, folder / "out", quiet=True).run()


def test_a_group_whose_table_cannot_be_written_ends_together(tmp_path: Path) -> None:
    cases = [save(tmp_path, name) for name in "ab"]
    (tmp_path / "out" / "lesions.csv").mkdir(parents=True)
    processes = [get_context("spawn").Process(target=one_of_two, args=(n, tmp_path, cases)) for n in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [1, 1]
    told = f"Stopped, 0 scans left: {tmp_path / 'out' / 'lesions.csv'} cannot be written"
    assert told in (tmp_path / "0.txt").read_text()


def test_what_other_parts_have_not_done_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [save(tmp_path, name) for name in "abcde"]
    out = tmp_path / "out"
    part(tmp_path, 1, cases, 3)
    assert capsys.readouterr().err == (
        f"{out / 'lesions.csv'} lacks 3 of 5 scans (2 of part 2-of-3, 1 of part 3-of-3): "
        f"wait until these parts end, or run them again.\n"
    )
    assert json.loads((out / "manifest.json").read_text())["not_done"] == {
        "2-of-3": ["b", "e"],
        "3-of-3": ["c"],
    }
    page = (out / "report.html").read_text()
    assert "<b>2</b> of 5 scans segmented" in page
    assert "3 not done yet" in page
    assert "2 of part 2-of-3" in page
    for number in (2, 3):
        part(tmp_path, number, cases, 3)
    assert "(1 of part 3-of-3)" in capsys.readouterr().err
    assert json.loads((out / "manifest.json").read_text())["not_done"] == {}
    page = (out / "report.html").read_text()
    assert "<b>5</b> of 5 scans segmented" in page
    assert "not done yet" not in page


def test_the_part_that_ends_last_puts_the_pictures_into_the_report(tmp_path: Path) -> None:
    """Each would else read all of them anew."""
    cases = [save(tmp_path, name) for name in "abc"]
    report = tmp_path / "out" / "report.html"
    for number, shown in ((1, 0), (2, 0), (3, 3)):
        part(tmp_path, number, cases, 3, save_picture=True)
        assert report.read_text().count("<figure") == shown
    assert "puts them in" not in report.read_text()


def test_a_part_interrupted_on_its_rerun_keeps_the_rows_of_scans_that_it_did_not_come_to(
    tmp_path: Path,
) -> None:
    """But not of one whose result is gone, since it was to be done anew."""
    cases = [save(tmp_path, name) for name in "abcdefgh"]
    for number in (1, 2):
        part(tmp_path, number, cases)
    for index in (0, 2):  # to be done anew; the first is interrupted, while the second is loaded
        save(tmp_path, cases[index]["name"], (LEFT,), 3.0)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        part(tmp_path, 1, cases, network=Second(interrupt))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    gone = set(manifest["not_done"]["1-of-2"])
    assert "a" in gone <= {"a", "c"}
    assert set(pd.read_csv(tmp_path / "out" / "lesions.csv")["scan"]) == set("abcdefgh") - gone
    assert all(scan["earlier"] for scan in manifest["scans"] if scan["row"]["scan"] in "eg")
    part(tmp_path, 1, cases)
    assert list(pd.read_csv(tmp_path / "out" / "lesions.csv")["scan"]) == list("abcdefgh")


def test_after_an_undivided_run_parts_of_earlier_runs_do_not_count(tmp_path: Path) -> None:
    cases = [save(tmp_path, name) for name in "abcd"]
    for number in (1, 2):
        part(tmp_path, number, cases)
    Path(cases[1]["image"]).write_bytes(b"broken")
    with pytest.raises(SystemExit):
        part(tmp_path, 1, cases, 1)
    assert not list((tmp_path / "out" / "shards").iterdir())
    part(tmp_path, 1, cases)
    assert list(pd.read_csv(tmp_path / "out" / "lesions.csv")["scan"]) == ["a", "c"]


def test_a_part_without_a_scan_is_a_part_like_any_other(tmp_path: Path) -> None:
    cases = [save(tmp_path, "a")]
    assert cohort(cases, tmp_path / "out", shard="2/2", quiet=True).run() == []
    cohort(cases, tmp_path / "out", shard="1/2", quiet=True).run()
    assert list(pd.read_csv(tmp_path / "out" / "lesions.csv")["scan"]) == ["a"]


def test_sigterm_is_an_interruption() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), ended_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("number", "code", "how"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_ended_while_the_report_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    how: str,
) -> None:
    monkeypatch.setattr("shared_nets.inference.cohort.write_report", lambda *_: os.kill(os.getpid(), number))
    # A shell's background job ignores Ctrl-C, and so would its tests.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as exit_:
            part(tmp_path, 1, [save(tmp_path, "a")], 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert exit_.value.code == code
    assert capsys.readouterr().err == f"Stopped, 0 scans left: {how}; run again to continue.\n"
    assert list(pd.read_csv(tmp_path / "out" / "lesions.csv")["scan"]) == ["a"]


def test_a_process_forked_meanwhile_ends_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    with ended_by_sigterm():
        process = get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        time.sleep(0.1)
        process.terminate()
        process.join()
    assert process.exitcode == -signal.SIGTERM
    assert capfd.readouterr() == ("", "")


def test_a_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def run() -> None:
        with ended_by_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_what_was_another_parts_in_an_earlier_run_does_not_count(tmp_path: Path) -> None:
    """A scan is added in front, and b, now the first part's, is broken: the second's old row is gone."""
    out = tmp_path / "out"
    cases = [save(tmp_path, name) for name in "abcd"]
    for number in (1, 2):
        part(tmp_path, number, cases)
    Path(cases[1]["image"]).write_bytes(b"broken")
    with pytest.raises(SystemExit):
        part(tmp_path, 1, [save(tmp_path, "A"), *cases])
    rows = pd.read_csv(out / "lesions.csv").set_index("scan")["status"]
    assert rows["b"] == "failed"
    part(tmp_path, 2, [save(tmp_path, "A"), *cases])
    rows = pd.read_csv(out / "lesions.csv").set_index("scan")["status"]
    assert dict(rows) == {"A": "ok", "a": "ok", "b": "failed", "c": "ok", "d": "ok"}

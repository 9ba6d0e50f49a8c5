"""What a run's folder tells of it, and that a run goes on with its own cases only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shared_nets.errors import UsageError
from shared_nets.training import record, record_run


def cases(*names: str, folder: str = "/data") -> list[dict[str, Any]]:
    return [{"image": [f"{folder}/{name}_0000.nii.gz", None], "name": name, "fold": 0} for name in names]


def sections(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())["cases"]


class TestResuming:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        record_run(tmp_path, 0, training=cases("a", "b", "c"), validation=cases("d"))
        return tmp_path

    @pytest.mark.parametrize(
        ("training", "validation", "told"),
        [
            ("abcx", "d", r"run\.json: .* other training cases \(not in both: x\); resume it with those"),
            ("abd", "c", r"other training cases \(not in both: c, d\)"),  # another fold
            ("abcxyz12", "d", r"1, 2, x and 2 more"),
            ("ab", "d", "other training cases"),
            ("abc", "de", "other validation cases"),
            ("abc", "", "other validation cases"),
        ],
    )
    def test_other_cases_are_refused(self, run: Path, training: str, validation: str, told: str) -> None:
        before = (run / "run.json").read_bytes()
        with pytest.raises(UsageError, match=told):
            record_run(run, 0, True, training=cases(*training), validation=cases(*validation))
        assert (run / "run.json").read_bytes() == before
        record_run(run, 0, training=cases(*training), validation=cases(*validation))  # a new run
        assert len(sections(run)["training"]) == len(training)

    def test_the_same_cases_may_have_moved_and_come_in_another_order(self, run: Path) -> None:
        moved = cases("c", "a", "b", folder="../elsewhere")
        record_run(run, 1, True, training=moved, validation=cases("d", folder="../elsewhere"))
        assert sections(run)["training"] == moved

    def test_how_the_earlier_parts_were_started_stays(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = json.loads((run / "run.json").read_text())["command"]
        for word in ("once", "twice"):
            monkeypatch.setattr("sys.argv", ["python", word])
            record_run(run, 0, True, training=cases("a", "b", "c"), validation=cases("d"))
        content = json.loads((run / "run.json").read_text())
        assert content["command"] == ["python", "twice"]
        earlier = content["earlier_runs"]
        assert [one["command"] for one in earlier] == [started, ["python", "once"]]
        assert all("versions" in one and "earlier_runs" not in one and "cases" not in one for one in earlier)

    def test_cases_without_names_are_their_images(self, tmp_path: Path) -> None:
        """As MONAI Label gives them."""
        training = [{"image": Path("/scans/1.nii.gz"), "label": "/scans/labels/1.nii.gz"}]
        record_run(tmp_path, 0, training=training, validation=[])
        record_run(tmp_path, 0, True, training=training, validation=[])
        with pytest.raises(UsageError, match=r"not in both: /scans/1\.nii\.gz, /scans/2\.nii\.gz"):
            record_run(tmp_path, 0, True, training=[{"image": "/scans/2.nii.gz"}], validation=[])

    @pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"cases": {}}'])
    def test_what_tells_no_cases_stands_in_no_ones_way(self, tmp_path: Path, content: str | None) -> None:
        """Where only the checkpoints were copied, say."""
        if content is not None:
            (tmp_path / "run.json").write_text(content)
        record_run(tmp_path, 0, True, training=cases("a"), validation=[])
        assert sections(tmp_path) == {"training": cases("a"), "validation": []}


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git")
class TestCommit:
    @pytest.fixture
    def code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A module of the package in a clone of its own, committed."""
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))  # whatever tests may lie in
        path = tmp_path / "clone" / "shared_nets" / "training" / "record.py"
        path.parent.mkdir(parents=True)
        path.write_text("first = 1\n")
        monkeypatch.setattr(record, "__file__", str(path))
        git(path.parents[2], "init", "--quiet")
        git(path.parents[2], "add", ".")
        git(path.parents[2], "commit", "--quiet", "--message", "First")
        return path

    def test_is_told_whole_and_by_no_tag(self, code: Path) -> None:
        head = git(code.parent, "rev-parse", "HEAD")
        git(code.parent, "tag", "--annotate", "--message", "First", "v1.0.0")
        assert len(head) == 40
        assert record.git_commit() == head
        assert record.environment()["commit"] == head

    def test_files_that_differ_from_it_are_told(self, code: Path) -> None:
        head = git(code.parent, "rev-parse", "HEAD")
        (code.parents[2] / "notes.txt").write_text("no code of the commit's\n")
        assert record.git_commit() == head
        code.write_text("second = 2\n")
        assert record.git_commit() == f"{head}-dirty"

    def test_of_somebody_elses_project_is_not_ours(self, code: Path) -> None:
        """In whose folder the package is installed, and left out of it as environments are."""
        git(code.parents[2], "rm", "--quiet", "-r", "--cached", "shared_nets")
        (code.parents[2] / "theirs.py").touch()
        git(code.parents[2], "add", "theirs.py")
        git(code.parents[2], "commit", "--quiet", "--message", "Theirs")
        assert record.git_commit() is None

    def test_is_none_outside_a_clone_and_without_git(
        self, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", str(tmp_path))
            assert record.git_commit() is None
        assert record.git_commit()
        shutil.rmtree(code.parents[2] / ".git")
        assert record.git_commit() is None


def git(folder: Path, *words: str) -> str:
    """What git says, as somebody who has told it a name."""
    told = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *told, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()

"""What a run's folder tells of it, and that a run goes on with its own cases only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared_nets.errors import UsageError
from shared_nets.training import record_run


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

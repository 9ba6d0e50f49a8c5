"""The early check: errors of ours, and the program's end in one sentence and exit code 1."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from shared_nets.errors import DeviceError, OutputError, WeightsError
from shared_nets.inference import check_run


@pytest.fixture(autouse=True)
def _keep_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check changes how this process tells uncaught errors; undone after each test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.pt").touch()
    output = tmp_path / "out" / "deeper"
    check_run(output, tmp_path / "model.pt", torch.device("cpu"))
    check_run(str(output))
    assert list(output.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_weights_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.pt: .* --bundle_root"):
        check_run(tmp_path, tmp_path / "models" / "model.pt")
    with pytest.raises(WeightsError, match="no such weights file"):
        check_run(tmp_path, tmp_path)  # a folder


@pytest.mark.parametrize("device", ["cuda:99", torch.device("cuda", 99), "gpu"])
def test_device_missing(tmp_path: Path, device: torch.device | str) -> None:
    with pytest.raises(DeviceError, match=f"^{device}: "):
        check_run(tmp_path, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_no_gpu(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="--device cpu"):
        check_run(tmp_path, device="cuda")


def test_output_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out: a file stands where a folder is needed"):
        check_run(tmp_path / "out")


def test_an_uncaught_error_is_one_sentence_unless_debugging(tmp_path: Path) -> None:
    """Both ways in one process, since starting one takes long: the first error as it would be told."""
    code = """
        import sys
        from shared_nets.errors import WeightsError
        from shared_nets.inference import check_run

        def fail():
            try:
                check_run(sys.argv[1], sys.argv[1] + "/absent.pt", debug=debug)
            except WeightsError as error:
                raise RuntimeError("Failed to evaluate") from error  # as MONAI's configs do

        debug = False
        try:
            fail()
        except RuntimeError:
            sys.excepthook(*sys.exc_info())
        print("next", file=sys.stderr)
        debug = True
        fail()
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    quiet, loud = done.stderr.split("next\n")
    assert quiet.count("\n") == 1
    assert quiet.startswith(f"{tmp_path}/absent.pt: there is no such weights file")
    assert "Traceback" in loud
    assert "WeightsError" in loud

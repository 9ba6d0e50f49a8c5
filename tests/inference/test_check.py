"""The early check: what it refuses, and that errors are told in words once it ran."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from shared_nets.errors import DeviceError, OutputError, UsageError, WeightsError
from shared_nets.inference import backends, check_run
from tests.commands import ROOT


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
    with pytest.raises(WeightsError, match=r"model\.pt: .* check the path, which .* --bundle_root"):
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
    with pytest.raises(OutputError, match="out cannot be written: a file stands where a folder is needed"):
        check_run(tmp_path / "out")


def test_errors_are_told_in_words_from_here_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check is what a bundle runs first: it sees to the errors of all that comes after it."""
    told = WeightsError("model.pt: is damaged; download it again.")
    wrapped = RuntimeError("Failed to evaluate ConfigExpression")
    wrapped.__cause__ = told
    check_run(tmp_path)
    sys.excepthook(type(wrapped), wrapped, None)
    assert capsys.readouterr().err == f"{told}\n"
    check_run(tmp_path, debug=True)
    sys.excepthook(type(wrapped), wrapped, None)
    assert "RuntimeError: Failed to evaluate" in capsys.readouterr().err


def test_its_own_errors_are_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeightsError) as caught:
        check_run(tmp_path / "out", tmp_path / "absent.pt")
    sys.excepthook(caught.type, caught.value, None)
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'absent.pt'}: there is no such weights file")
    assert not (tmp_path / "out").exists()


def test_precisions_without_instructions_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "bfloat16_pays", lambda device: False)
    with pytest.raises(UsageError, match="no instructions for bfloat16"):
        check_run(tmp_path / "out", device="cpu", cpu_precision="bfloat16")
    assert not (tmp_path / "out").exists()
    check_run(tmp_path / "out", device="cpu", cpu_precision="float32")
    monkeypatch.setattr(backends, "bfloat16_pays", lambda device: True)
    check_run(tmp_path / "out", device="cpu", cpu_precision="bfloat16")
    with pytest.raises(UsageError, match="onnxruntime does not compute in bfloat16"):
        check_run(tmp_path / "out", device="cpu", backend="onnxruntime", cpu_precision="bfloat16")
    monkeypatch.setattr(backends, "has_vnni", lambda: False)
    with pytest.raises(UsageError, match=r"no instructions for int8 .AVX-512 VNNI"):
        check_run(tmp_path / "out", device="cpu", cpu_precision="int8")
    with pytest.raises(UsageError, match="cpu_precision is one of float32, bfloat16, int8, not true"):
        check_run(tmp_path / "out", device="cpu", cpu_precision="true")


MONAI = "/site-packages/monai/bundle/__main__.py"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--threshhold", "0.3"],
            "--threshhold: the config files have no such setting; did you mean --threshold?",
        ),
        (["--threshhold=0.3"], "did you mean --threshold"),
        (["--preprocesing#transforms#4#upper", "99"], "did you mean --preprocessing"),
        (["--zzz", "1"], "--zzz: the config files have no such setting; leave it out"),
    ],
)
def test_a_mistyped_option_of_monais_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    config = str(ROOT / "xnet_bundle" / "configs" / "inference.json")
    monkeypatch.setattr(sys, "argv", [MONAI, "run", "inference", "--config_file", config, *words])
    with pytest.raises(UsageError, match=re.escape(told)):
        check_run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_that_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "xnet_bundle" / "configs"
    files = str([str(folder / "train.json"), str(folder / "evaluate.json")])
    words = ["--config_file", files, "--evaluate_on=test", "--meta_file", "x", "--dataset-dir", "--odd name"]
    words += ["--validate#dataloader#num_workers", "2", "--network_def::fsm", "gaussian", "--init_id", "x"]
    monkeypatch.setattr(sys, "argv", [MONAI, "run", "evaluating", *words[:-4]])
    with pytest.raises(UsageError, match="--odd name"):  # what begins with dashes is an option
        check_run(tmp_path)
    words.remove("--odd name")
    monkeypatch.setattr(sys, "argv", [MONAI, "run", "evaluating", *words])
    check_run(tmp_path)
    # What tracking takes, what Fire takes, and MONAI's other commands.
    tracking = ["--tracking", "mlflow", "--tracking_uri", "x", "--run_name", "y", "--experiment_name=z"]
    for command in (
        ["run", "evaluating", "--config_file", files, *tracking, "--", "--trace"],
        ["run", "--config_file", files, "--+imports", "['$import os']"],
        ["run_workflow", "--workflow_type", "train", "--config_file", files],
    ):
        monkeypatch.setattr(sys, "argv", [MONAI, *command])
        check_run(tmp_path)
    # Another program's options are its own.
    monkeypatch.setattr(sys, "argv", ["program.py", "--config_file", files, "--zzz", "1"])
    check_run(tmp_path)


def test_a_folder_called_like_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's command line makes a number of it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"output_dir: 20241130 is taken for .* write \./20241130\."):
        check_run(20241130)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="weights: True is taken"):
        check_run("out", weights=True)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []

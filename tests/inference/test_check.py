"""The early check: one sentence on standard error and exit code 1."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared_nets.errors import UnreadableScanError
from shared_nets.inference import check_run


def some() -> list[str]:
    return ["a scan"]


def refused(capsys: pytest.CaptureFixture[str], *args: object, **kwargs: object) -> str:
    with pytest.raises(SystemExit) as exit_:
        check_run(*args, **kwargs)  # type: ignore[arg-type]
    assert exit_.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.pt").touch()
    output = tmp_path / "out" / "deeper"
    check_run(tmp_path, output, tmp_path / "model.pt", torch.device("cpu"), find=some)
    check_run([{"image": "in memory"}], find=some)
    assert output.is_dir()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("nothing", [None, "", []])
def test_no_dataset_named(nothing: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--dataset_dir" in refused(capsys, nothing, find=some)


def test_dataset_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, tmp_path / "scans", find=some)
    assert message.startswith(f"{tmp_path / 'scans'}: there is no such file or folder")


def test_dataset_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no scans" in refused(capsys, tmp_path, find=list)


def test_what_the_search_says_is_passed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def find() -> list[str]:
        raise UnreadableScanError("list.json: it is no JSON; check it.")

    assert refused(capsys, tmp_path, find=find) == "list.json: it is no JSON; check it.\n"


def test_weights_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, tmp_path, weights=tmp_path / "models" / "model.pt", find=some)
    assert "model.pt" in message
    assert "--bundle_root" in message


@pytest.mark.parametrize("device", ["cuda:99", torch.device("cuda", 99), "gpu"])
def test_device_missing(tmp_path: Path, device: object, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, tmp_path, device=device, find=some)
    assert message.startswith(f"{device}: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--device cpu" in refused(capsys, tmp_path, device="cuda", find=some)


def test_output_folder_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("a file")
    assert refused(capsys, tmp_path, tmp_path / "out", find=some).startswith(
        f"{tmp_path / 'out'}: a file stands"
    )

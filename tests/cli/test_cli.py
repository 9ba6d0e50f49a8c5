"""`strokeseg`: what it refuses before any work, what it says, and that it is the bundle's own inference."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from shared_nets import XNet, __version__, load_keras_weights
from shared_nets.cli import app
from shared_nets.precision import bfloat16_pays
from tests.commands import Running, bundle, start, strokeseg, wait_for
from tests.heads import head, lesion_mask, write
from tests.networks.keras_files import write_h5
from tests.networks.oracle.weights import keras_weights

Folders = Mapping[str, Path]


def invoke(*words: object) -> tuple[int, str]:
    """The command's exit code and all it says, for commands that end before torch is needed."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


OF_THE_COHORT = {"lesions.csv", "components.csv", "manifest.json", "report.html"}


def visible(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")}


# ---- the command line itself ----


def test_help_says_what_is_needed_and_waits_for_nothing() -> None:
    """No torch for a help text: importing it takes seconds."""
    code = (
        "import sys; from shared_nets.cli import app\n"
        "try: app(['predict', '--help'])\n"
        "finally: print(sorted({'torch', 'monai', 'nibabel', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("[]")
    words = " ".join(done.stdout.split())
    for said in ("--model", "--output", "--dwi", "--flair", "lesions.csv", "Exit code 0", "NIfTI files"):
        assert said in words


@pytest.mark.parametrize("asking", ["--help", "-h"])
def test_help_shows_every_option_whole_in_a_narrow_terminal(
    asking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = CliRunner().invoke(app, ["predict", asking]).output
    for option in ("--participant-label", "--save-probability", "--smallest-lesion-ml", "--no-dwi-decides"):
        assert option in said
    assert max(map(len, said.splitlines())) <= 80


def test_overview_and_version() -> None:
    code, said = invoke("--help")
    assert code == 0
    assert all(word in said for word in ("predict", "import-keras", "weights", "Research use only"))
    assert invoke("--version") == (0, f"strokeseg {__version__}")
    assert "restore" in invoke("weights", "--help")[1]


def test_a_model_in_capitals(bundles: Folders, tmp_path: Path) -> None:
    words = ["--model", "XNet", "--bundle", bundles["cnnres"], "--output", tmp_path, tmp_path]
    assert "say cnnres, not xnet" in invoke("predict", *words)[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "xnet", "--output", "OUT", "--treshold", "0.3", "SCANS"], "--treshold"),
        (["--model", "xnot", "--output", "OUT", "SCANS"], "xnot"),
        (["--output", "OUT", "SCANS"], "--model"),
        (["--model", "xnet", "SCANS"], "--output"),
        (["--model", "xnet", "--output", "OUT"], "at least one scan"),
        (["--model", "xnet", "--output", "OUT", "--dwi", "SCANS"], "cnnres"),
        (["--model", "cnnres", "--output", "OUT", "--dwi", "SCANS", "SCANS"], "either"),
        (["--model", "xnet", "--output", "OUT", "--threshold", "1.5", "SCANS"], "--threshold"),
        (["--model", "xnet", "--output", "OUT", "--threshold", "half", "SCANS"], "--threshold"),
        (
            ["--model", "xnet", "--output", "OUT", "--smallest-lesion-ml", "-1", "SCANS"],
            "--smallest-lesion-ml",
        ),
        (["--model", "xnet", "--output", "OUT", "--backend", "tensorrt", "SCANS"], "openvino"),
        (["--model", "xnet", "--output", "OUT", "--bundle", "OUT", "SCANS"], "is no bundle"),
        (["--model", "xnet", "--output", "OUT", "--no-dwi-decides", "SCANS"], "--model cnnres"),
        (["--model", "xnet", "--output", "OUT", "--dwi-decides", "SCANS"], "--model cnnres"),
        (["--model", "xnet", "--output", "OUT", "SCANS", "--mirror", "False"], "--no-mirror turns one off"),
    ],
)
def test_a_wrong_command_is_refused_before_any_work(
    trees: Folders, tmp_path: Path, words: list[str], told: str
) -> None:
    places = {"OUT": str(tmp_path / "out"), "SCANS": str(trees["xnet"] / "imagesTs")}
    code, said = invoke("predict", *(places.get(word, word) for word in words))
    assert code == 2
    assert told in said
    assert list(tmp_path.iterdir()) == []


def test_other_weights(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    torch.manual_seed(7)
    save_file(XNet().state_dict(), weights)
    words = ["--model", "xnet", "--bundle", bundles["xnet"], trees["xnet"] / "imagesTs", "--quiet"]
    done = strokeseg("predict", *words, "--weights", weights, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    sidecar = json.loads(next((tmp_path / "out").glob("*_mask.json")).read_text())
    assert sidecar["GeneratedBy"]["WeightsSHA256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    done = strokeseg("predict", *words, "--weights", tmp_path / "mine.pt", "--output", tmp_path / "other")
    assert done.code == 1
    assert f"{tmp_path / 'mine.pt'}: there is no such weights file; check the path" in done.err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("model", "other", "reads"), [("xnet", "cnnres", "DWI and FLAIR"), ("cnnres", "xnet", "T1w")]
)
def test_the_bundle_of_another_model(
    trees: Folders, bundles: Folders, tmp_path: Path, model: str, other: str, reads: str
) -> None:
    """Its network would see a contrast that it does not know, and draw nothing."""
    scans = str(trees[model] / "imagesTs")
    words = ["--model", model, "--bundle", str(bundles[other]), "--output", str(tmp_path / "out"), scans]
    code, said = invoke("predict", *words)
    assert code == 2
    assert f"this bundle reads {reads}; say {other}, not {model}" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "option", "setting"),
    [("cnnres", "--dwi-decides", "dwi_decides"), ("xnet", "--save-labels", "save_labels")],
)
def test_an_option_that_an_older_bundle_does_not_know(
    trees: Folders, bundles: Folders, tmp_path: Path, model: str, option: str, setting: str
) -> None:
    """MONAI would pass it over, and the run would look as if it had been heard."""
    older = shutil.copytree(bundles[model], tmp_path / "older")
    file = older / "configs" / "inference.json"
    config = json.loads(file.read_text().replace(f'"$shared_nets.is_true(@{setting})"', "true"))
    del config[setting]
    file.write_text(json.dumps(config))
    scans = trees[model] / "imagesTs"
    words = ["--model", model, "--bundle", str(older), "--output", str(tmp_path / "out"), str(scans)]
    code, said = invoke("predict", option, *words)
    assert code == 2
    assert f"this bundle has no setting {setting}" in said
    assert not (tmp_path / "out").exists()
    # Without the option it is of use.
    done = strokeseg("predict", "--quiet", *words)
    assert (done.code, done.err) == (0, "")


def test_a_bundle_whose_config_is_no_json(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    broken = shutil.copytree(bundles["xnet"], tmp_path / "broken")
    (broken / "configs" / "inference.json").write_text('{"threshold": 0.5,}')
    scans = trees["xnet"] / "imagesTs"
    code, said = invoke(
        "predict", "--model", "xnet", "--bundle", str(broken), "--output", str(tmp_path / "out"), str(scans)
    )
    assert code == 2
    assert "inference.json is not readable JSON" in said


def test_unknown_commands_and_missing_arguments() -> None:
    for words in (["segment"], ["import-keras"], ["weights", "restore"], ["weights", "burn"]):
        assert invoke(*words)[0] == 2


# ---- predict ----


@pytest.mark.parametrize(("name", "mirror"), [("xnet", False), ("cnnres", True)])
def test_the_same_as_the_bundle(
    trees: Folders, bundles: Folders, tmp_path: Path, name: str, mirror: bool
) -> None:
    """From another folder, with relative paths."""
    (tmp_path / "scans").symlink_to(trees[name] / "imagesTs")
    done = strokeseg(
        "predict", "--model", name, "--bundle", bundles[name], "--output", "cli", "--save-probability",
        "--threshold", "0.4", "--peak-threshold", "0.45", "--smallest-lesion-ml", "1",
        "--smoothing-mm", "7", "--mirror" if mirror else "--no-mirror", "scans",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].startswith("2 scans segmented")
    assert done.out.splitlines()[1].startswith(f"Results: {tmp_path / 'cli'}")
    # A progress bar and nothing else.
    assert all(
        "scan/s" in line or "s/scan" in line for line in done.err.replace("\r", "\n").split("\n") if line
    )
    other = bundle(
        config_file=bundles[name] / "configs" / "inference.json", bundle_root=bundles[name],
        dataset_dir=tmp_path / "scans", output_dir=tmp_path / "bundle", save_probability=True, threshold=0.4,
        peak_threshold=0.45, smallest_lesion_ml=1, smoothing_mm=7, mirror=mirror,
    )  # fmt: skip
    assert other.code == 0, other.err
    made = visible(tmp_path / "cli")
    ends = ("_mask.nii.gz", "_mask.json", "_probseg.nii.gz", "_probseg.json", ".png")
    assert made == {f"case{n}_label-lesion{end}" for n in (1, 2) for end in ends} | OF_THE_COHORT
    for file in made:
        if file.endswith(".nii.gz"):
            assert (tmp_path / "cli" / file).read_bytes() == (tmp_path / "bundle" / file).read_bytes()
    sidecar = json.loads((tmp_path / "cli" / "case1_label-lesion_mask.json").read_text())
    assert sidecar["Settings"]["mirror"] is mirror
    one, two = (pd.read_csv(tmp_path / part / "lesions.csv") for part in ("cli", "bundle"))
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"))
    mask = nib.load(tmp_path / "cli" / "case1_label-lesion_mask.nii.gz")
    voxel_ml = np.prod(mask.header.get_zooms()) / 1000
    assert one["volume_ml"][0] == pytest.approx(mask.get_fdata().sum() * voxel_ml, abs=1e-3)


def test_another_backend_gives_the_same_masks(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    tables = {}
    for backend in ("torch", "onnxruntime"):
        done = strokeseg(
            "predict", "--model", "cnnres", "--bundle", bundles["cnnres"], "--output", tmp_path / backend,
            "--quiet", "--backend", backend, trees["cnnres"] / "imagesTs",
        )  # fmt: skip
        assert done.code == 0
        assert done.err == ""  # no fallback to PyTorch
        tables[backend] = pd.read_csv(tmp_path / backend / "lesions.csv").drop(columns="seconds")
    pd.testing.assert_frame_equal(tables["torch"], tables["onnxruntime"], rtol=1e-2, atol=1e-3)
    assert tables["torch"]["volume_ml"].max() > 0
    one, other = (
        nib.load(tmp_path / backend / "case1_label-lesion_mask.nii.gz").get_fdata() for backend in tables
    )
    assert (one != other).mean() < 1e-3


def test_bfloat16_is_done_and_recorded_or_refused(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    """By what this CPU has."""
    done = strokeseg(
        "predict", "--model", "xnet", "--bundle", bundles["xnet"], "--output", tmp_path / "out", "--quiet",
        "--device", "cpu", "--backend", "torch", "--cpu-precision", "bfloat16", trees["xnet"] / "imagesTs",
    )  # fmt: skip
    if bfloat16_pays("cpu"):
        assert (done.code, done.err) == (0, "")
        sidecar = json.loads((tmp_path / "out" / "case1_label-lesion_mask.json").read_text())
        assert sidecar["Settings"]["precision"] == "bfloat16"
    else:
        assert done.code == 1
        assert "no instructions for bfloat16" in done.err
        assert "Traceback" not in done.err
        assert not (tmp_path / "out").exists()


def test_bad_scans_beside_a_good_one(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    """One that is corrupt, one that is not there, a folder in a file's place: the good one is done."""
    good = trees["xnet"] / "imagesTs" / "case1.nii.gz"
    corrupt = tmp_path / "corrupt.nii.gz"
    corrupt.write_bytes(good.read_bytes()[:2000])
    folder = tmp_path / "folder.nii.gz"
    folder.mkdir()
    absent = tmp_path / "absent.nii.gz"
    out = tmp_path / "out"
    done = strokeseg(
        "predict", "--model", "xnet", "--bundle", bundles["xnet"], "--output", out,
        corrupt, absent, good, folder,
    )  # fmt: skip
    assert done.code == 1
    assert "1 scan segmented" in done.out
    assert "3 failed" in done.out
    assert "Traceback" not in done.err
    told = [line for line in done.err.splitlines() if line.startswith("Failed: ")]
    assert len(told) == 3
    table = pd.read_csv(out / "lesions.csv").set_index("scan")
    assert dict(table["status"]) == {
        "corrupt": "failed", "absent": "failed", "case1": "ok", "folder": "failed",
    }  # fmt: skip
    for path in (corrupt, absent, folder):
        assert str(path) in table.loc[path.name.removesuffix(".nii.gz"), "message"]
        assert any(str(path) in line for line in told)
    made = {f"case1_label-lesion{end}" for end in ("_mask.nii.gz", "_mask.json", ".png")}
    assert visible(out) == made | OF_THE_COHORT


def test_names_that_look_like_a_configs_words_are_names(bundles: Folders, tmp_path: Path) -> None:
    """MONAI runs what begins with ``$``, follows ``@`` and looks for ``%`` in the config."""
    names = ["$print(1).nii.gz", "@eaDir.nii.gz", "%a.nii.gz"]
    for name in names:
        (tmp_path / name).write_bytes(b"no scan")
    words = ["--model", "xnet", "--bundle", bundles["xnet"], "--output", "$out", "--quiet", *names]
    done = strokeseg("predict", *words, cwd=tmp_path)
    assert done.code == 1
    assert [name in line for name, line in zip(names, done.err.splitlines(), strict=True)] == [True] * 3
    assert visible(tmp_path / "$out") == OF_THE_COHORT


def test_one_bad_scan_of_three(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        shutil.copy(trees["xnet"] / "imagesTr" / f"case{number}.nii.gz", tmp_path)
    (tmp_path / "case2.nii.gz").write_bytes(b"no scan")
    out = tmp_path / "out"
    done = strokeseg(
        "predict", "--model", "xnet", "--bundle", bundles["xnet"], "--quiet", "--output", out, tmp_path
    )
    assert done.code == 1
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert str(tmp_path / "case2.nii.gz") in done.err
    assert len(list(out.glob("*_mask.nii.gz"))) == 2
    assert len(pd.read_csv(out / "lesions.csv")) == 3


def test_awkward_but_usable_files(bundles: Folders, tmp_path: Path) -> None:
    """An ending in mixed case, and voxel sizes below 0, of which nibabel tells four times without a name."""
    scan = write(tmp_path / "scans" / "a.nii", head("T1w", lesion_mask(1), seed=1))
    content = bytearray(scan.read_bytes())
    for byte in range(80, 92, 4):  # pixdim
        content[byte + 3] ^= 0x80
    scan.rename(scan.with_name("A.Nii")).write_bytes(content)
    done = strokeseg(*predict(bundles, tmp_path / "out", "--quiet", tmp_path / "scans"))
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "out" / "A_label-lesion_mask.nii.gz").is_file()


def test_no_lesion_is_a_result(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    done = strokeseg(
        "predict", "--model", "xnet", "--bundle", bundles["xnet"], "--output", tmp_path,
        "--smallest-lesion-ml", "100000", trees["xnet"] / "imagesTs" / "case1.nii.gz",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "1 scan segmented, 0 with a lesion, 0 failed." in done.out
    row = pd.read_csv(tmp_path / "lesions.csv").iloc[0]
    assert (row["status"], row["volume_ml"], row["lesion_count"], row["side"]) == ("ok", 0, 0, "none")
    assert not nib.load(tmp_path / "case1_label-lesion_mask.nii.gz").get_fdata().any()


def test_two_scans_of_one_name(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    for number, session in ((1, "before"), (2, "after")):
        (tmp_path / session).mkdir()
        shutil.copy(trees["xnet"] / "imagesTr" / f"case{number}.nii.gz", tmp_path / session / "t1.nii.gz")
    done = strokeseg(
        "predict", "--model", "xnet", "--bundle", bundles["xnet"], "--output", "out",
        "before", "after/t1.nii.gz", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "out" / "lesions.csv")
    assert list(table["scan"]) == ["before_t1", "after_t1"]
    assert {p.name for p in (tmp_path / "out").glob("*.nii.gz")} == {
        "before_t1_label-lesion_mask.nii.gz", "after_t1_label-lesion_mask.nii.gz",
    }  # fmt: skip


def test_dwi_and_flair_options(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    """Named by options they are the pair that a folder holds; each alone is segmented too."""
    scans = trees["cnnres"] / "imagesTs"
    dwi, flair = scans / "case1_0000.nii.gz", scans / "case1_0001.nii.gz"
    masks = {}
    for part, words in {
        "pair": ["--dwi", dwi, "--flair", flair],
        "folder": [scans],
        "dwi": ["--dwi", dwi],
        "flair": ["--flair", flair],
    }.items():
        done = strokeseg(
            "predict", "--model", "cnnres", "--bundle", bundles["cnnres"], "--output", tmp_path / part, *words
        )
        assert done.code == 0, done.err
        (masks[part],) = (tmp_path / part).glob("case1*_mask.nii.gz")
    data = {part: nib.load(path).get_fdata() for part, path in masks.items()}
    assert masks["pair"].name == "case1_label-lesion_mask.nii.gz"
    np.testing.assert_array_equal(data["pair"], data["folder"])
    assert not np.array_equal(data["pair"], data["dwi"])
    assert not np.array_equal(data["dwi"], data["flair"])


def test_debug_shows_where(bundles: Folders, tmp_path: Path) -> None:
    words = ["predict", "--model", "xnet", "--bundle", bundles["xnet"], "--output", tmp_path / "out"]
    absent = tmp_path / "absent.nii.gz"
    quiet = strokeseg(*words, "--quiet", absent)
    assert quiet.code == 1
    assert len(quiet.err.splitlines()) == 1
    loud = strokeseg(*words, "--quiet", "--debug", absent)
    assert loud.code == 1
    assert "Traceback" in loud.err
    assert "ScanNotFoundError" in loud.err
    assert str(absent) in loud.err


def test_a_folder_that_is_not_there(bundles: Folders, tmp_path: Path) -> None:
    done = strokeseg(
        "predict",
        "--model",
        "xnet",
        "--bundle",
        bundles["xnet"],
        "--output",
        tmp_path / "out",
        tmp_path / "no",
    )
    assert done.code == 1
    assert done.err.splitlines() == [
        f"{tmp_path / 'no'} is not there: check the path, which follows the working directory."
    ]


def test_a_bundle_without_weights(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    shutil.copytree(bundles["xnet"] / "configs", tmp_path / "bundle" / "configs")
    done = strokeseg(
        "predict", "--model", "xnet", "--bundle", tmp_path / "bundle", "--output", tmp_path / "out",
        trees["xnet"] / "imagesTs",
    )  # fmt: skip
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert str(tmp_path / "bundle" / "models" / "model.pt") in done.err


# ---- cohorts ----


def predict(bundles: Folders, output: Path, *words: object) -> list[object]:
    return ["predict", "--model", "xnet", "--bundle", bundles["xnet"], "--output", output, *words]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A BIDS dataset of six participants."""
    for number in range(1, 7):
        scan = tmp_path / f"bids/sub-{number}/anat/sub-{number}_T1w.nii.gz"
        write(scan, head("T1w", lesion_mask(number), seed=number))
    return tmp_path / "bids"


def test_a_bids_dataset_and_what_a_rerun_does(bundles: Folders, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = ["--participant-label", "1, sub-3,", "--participant-label", "5"]
    done = strokeseg(*predict(bundles, out, *chosen, "--save-labels", dataset))
    assert done.code == 0, done.err
    masks = {p.relative_to(out).as_posix() for p in out.glob("sub-*/anat/*_mask.nii.gz")}
    assert masks == {f"sub-{n}/anat/sub-{n}_label-lesion_mask.nii.gz" for n in (1, 3, 5)}
    assert (out / "dataset_description.json").is_file()
    other = bundle(
        config_file=bundles["xnet"] / "configs" / "inference.json", bundle_root=bundles["xnet"],
        dataset_dir=dataset, output_dir=tmp_path / "bundle", participants="['1','3','5']",
    )  # fmt: skip
    assert other.code == 0, other.err
    for mask in masks:
        assert (out / mask).read_bytes() == (tmp_path / "bundle" / mask).read_bytes()

    again = strokeseg(*predict(bundles, out, "--json", *chosen, "5", dataset))
    assert again.code == 1
    # BIDS apps part labels by spaces; here 5 would be a scan.
    assert re.search(r"5 is no BIDS dataset .* or part several labels by commas\.$", again.err)
    again = strokeseg(*predict(bundles, out, "--json", dataset))
    assert again.code == 0, again.err
    assert again.err == ""
    *scans, whole = map(json.loads, again.out.splitlines())
    assert {scan["scan"]: scan["earlier"] for scan in scans} == {
        f"sub-{n}": n in (1, 3, 5) for n in range(1, 7)
    }
    assert whole["segmented"] == 6
    assert whole["earlier"] == 3
    absent = strokeseg(*predict(bundles, out, "--participant-label", "9", dataset))
    assert (absent.code, len(absent.err.splitlines())) == (1, 1)
    assert "has no sub-9" in absent.err


def test_sessions_of_a_bids_dataset(bundles: Folders, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        name = f"sub-1/ses-{number}/anat/sub-1_ses-{number}_T1w.nii.gz"
        write(tmp_path / "bids" / name, head("T1w", lesion_mask(number), seed=number))
    chosen = ["--session", "1, ", "--session", "ses-3"]
    done = strokeseg(*predict(bundles, tmp_path / "out", "--quiet", *chosen, tmp_path / "bids"))
    assert (done.code, done.err) == (0, "")
    masks = {path.name for path in tmp_path.glob("out/sub-1/*/anat/*_mask.nii.gz")}
    assert masks == {f"sub-1_ses-{n}_label-lesion_mask.nii.gz" for n in (1, 3)}


def test_three_processes_one_of_them_killed(bundles: Folders, dataset: Path, tmp_path: Path) -> None:
    """As under torchrun: the killed part goes on where it was, and the tables are those of one process."""
    together, alone = tmp_path / "together", tmp_path / "alone"

    def part(rank: int) -> Running:
        rank_and_size = {"RANK": str(rank), "WORLD_SIZE": "3"}
        return start("shared_nets.cli", *predict(bundles, together, dataset), **rank_and_size)

    running = [part(rank) for rank in range(3)]
    first = together / "sub-2" / "anat" / "sub-2_label-lesion_mask.json"  # of the second process
    wait_for(first.exists, running[1].process.is_alive)
    assert running[1].process.pid
    os.kill(running[1].process.pid, signal.SIGKILL)
    ends = [one.wait() for one in running]
    assert [end.code for end in ends] == [0, -signal.SIGKILL, 0]
    assert "Shard 1 of 3 (torchrun): 2 of 6 scans" in ends[0].err
    assert set(pd.read_csv(together / "lesions.csv")["scan"]) == {"sub-1", "sub-4", "sub-3", "sub-6"}
    made = first.stat().st_mtime_ns
    again = part(1).wait()
    assert again.code == 0, again.err
    assert "2 scans segmented (1 of them by an earlier run)" in again.out
    assert first.stat().st_mtime_ns == made

    assert strokeseg(*predict(bundles, alone, dataset)).code == 0
    for table in ("lesions.csv", "components.csv"):
        one, three = (pd.read_csv(folder / table) for folder in (alone, together))
        kept = [column for column in one if column != "seconds"]
        pd.testing.assert_frame_equal(three[kept], one[kept])
    manifest = json.loads((together / "manifest.json").read_text())
    assert [part["shard"] for part in manifest["shards"]] == ["1-of-3", "2-of-3", "3-of-3"]
    assert len(manifest["scans"]) == 6


def test_sigterm_ends_in_a_sentence_and_the_next_run_continues(
    bundles: Folders, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    running = start("shared_nets.cli", *predict(bundles, out, "--quiet", dataset))
    wait_for((out / "sub-1" / "anat" / "sub-1_label-lesion_mask.json").exists, running.process.is_alive)
    assert running.process.pid
    os.kill(running.process.pid, signal.SIGSTOP)  # so that it cannot end before the second run looks
    refused = strokeseg(*predict(bundles, out, dataset))
    assert refused.code == 1
    assert f"{out} is being written by another run" in refused.err
    assert len(refused.err.splitlines()) == 1
    os.kill(running.process.pid, signal.SIGTERM)
    os.kill(running.process.pid, signal.SIGCONT)
    done = running.wait()
    assert done.code == 143
    (told,) = done.err.splitlines()
    assert re.fullmatch(r"Stopped, \d scans? left: terminated; run again to continue\.", told)
    assert not list(out.rglob("*.part"))
    for path in out.rglob("*.nii.gz"):
        nib.load(path).get_fdata()
    again = strokeseg(*predict(bundles, out, dataset))
    assert again.code == 0, again.err
    assert "6 scans segmented (" in again.out


@pytest.mark.parametrize("shard", ["4/3", "half"])
def test_a_part_that_is_none(bundles: Folders, dataset: Path, tmp_path: Path, shard: str) -> None:
    done = strokeseg(*predict(bundles, tmp_path / "out", "--shard", shard, dataset))
    assert done.code == 1
    assert done.err == f"{shard} is no part of a cohort: give --shard 1/3, 2/3 and 3/3, auto or none.\n"


# ---- weights ----


def test_restore(tmp_path: Path) -> None:
    for folder in ("configs", "models"):
        (tmp_path / folder).mkdir()
    shipped = {key: value.contiguous() for key, value in XNet().state_dict().items()}
    save_file(shipped, tmp_path / "models" / "model.safetensors")
    digest = hashlib.sha256((tmp_path / "models" / "model.safetensors").read_bytes()).hexdigest()
    hashes = {"weights_sha256": {"model.safetensors": digest}}
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(hashes))
    (tmp_path / "models" / "model.pt").write_bytes(b"fine-tuned away")
    done = strokeseg("weights", "restore", tmp_path)
    assert (done.code, done.out) == (0, f"Wrote {tmp_path / 'models' / 'model.pt'}\n")
    restored = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert restored.keys() == shipped.keys()
    assert all(torch.equal(restored[key], shipped[key]) for key in shipped)


def test_weights_are_not_converted_onto_themselves(tmp_path: Path) -> None:
    weights = tmp_path / "m.pt"
    weights.write_bytes(b"of great worth")
    (tmp_path / "link.pt").symlink_to(weights)
    for output in (weights, tmp_path / "link.pt"):
        code, said = invoke("weights", "convert", weights, output)
        assert code == 2
        assert "name another to write" in said
    assert weights.read_bytes() == b"of great worth"


def test_import_keras(tmp_path: Path) -> None:
    weights = keras_weights()
    done = strokeseg("import-keras", write_h5(tmp_path / "keras.h5", weights), "model.pt", cwd=tmp_path)
    assert (done.code, done.out) == (0, "Wrote model.pt\n"), done.err
    expected = XNet()
    load_keras_weights(expected, [weight.values for weight in weights])
    made = torch.load(tmp_path / "model.pt", weights_only=True)
    assert made.keys() == expected.state_dict().keys()
    assert all(torch.equal(made[key], value) for key, value in expected.state_dict().items())


def test_nothing_to_restore_or_import(bundles: Folders, tmp_path: Path) -> None:
    done = strokeseg("weights", "restore", bundles["xnet"])
    assert done.code == 1
    assert "model.safetensors" in done.err
    done = strokeseg("import-keras", tmp_path / "absent.h5", tmp_path / "model.pt")
    assert done.code == 1
    assert done.err.startswith(str(tmp_path / "absent.h5"))
    assert len(done.err.splitlines()) == 1
    assert "Traceback" in strokeseg("import-keras", "--debug", tmp_path / "a.h5", tmp_path / "model.pt").err
    assert list(tmp_path.iterdir()) == []


def test_debug_of_commands_that_read_only(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    for words in (["inspect", absent], ["datalist", "atlas", absent, "--output", tmp_path / "a.json"]):
        assert "Traceback" not in strokeseg(*words).err
        assert "Traceback" in strokeseg(*words, "--debug").err

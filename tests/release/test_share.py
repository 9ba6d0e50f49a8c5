"""Fine-tuned weights become a bundle, with numbers from the evaluation and no claim of the old ones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from shared_nets.errors import OutputError, UsageError, WeightsError
from shared_nets.evaluation.metrics import METRICS
from shared_nets.evaluation.tables import FOUND, MISSED, write_summary
from shared_nets.inference.ranges import RANGES, ranges_beside, read_ranges, write_ranges
from shared_nets.release.archive import write_archive, write_folder
from shared_nets.release.provenance import verify_bundle
from shared_nets.release.share import _sections, share_weights
from shared_nets.versions import check_version
from shared_nets.weights import load_weights, save_weights
from tests.commands import ROOT, bundle, strokeseg
from tests.heads import head, lesion_mask, write
from tests.release.schema import verify_metadata

WRITTEN_ANEW = {"Data", "Training", "Performance", "Limits", "Licence"}
"""Sections of the card that `strokeseg weights share` writes."""

DATA = "12 T1-weighted scans of two sites, one year after stroke, drawn by two readers; shared with consent."


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """A summary as evaluation writes it, of three scans and one that failed; it does not name its weights."""
    rows: list[dict[str, Any]] = [
        {"scan": f"s{n}", "status": "ok", **dict.fromkeys(METRICS, 0.5), "dice": dice, FOUND: "2", MISSED: ""}
        for n, dice in enumerate((0.6, 0.7, 0.8))
    ]
    rows.append({"scan": "s9", "status": "failed"})
    folder = tmp_path / "eval"
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    write_summary(folder / "metrics.csv", folder / "summary.csv")
    return folder


@pytest.fixture
def weights(bundles: Mapping[str, Path]) -> Path:
    return bundles["cnnres"] / "models" / "model.pt"


@pytest.fixture
def said(evaluation: Path, weights: Path) -> dict[str, Any]:
    """What is said of weights to be shared."""
    given = {"bundle": ROOT / "cnnres_bundle", "weights": weights, "evaluation": evaluation}
    return {**given, "data": DATA, "authors": "Stroke Lab"}


def test_weights_become_a_bundle(evaluation: Path, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "our_cnnres"
    done = strokeseg(
        "weights", "share", folder, "--bundle", ROOT / "cnnres_bundle", "--weights", weights,
        "--evaluation", evaluation, "--data", DATA, "--authors", "Stroke Lab", "--version", "1.2.0",
        "--license", "CC BY 4.0",
    )  # fmt: skip
    assert done.code == 0, done.err
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["version"] == "1.2.0"
    assert list(metadata["changelog"]) == ["1.2.0"]
    assert (metadata["authors"], metadata["data_source"]) == ("Stroke Lab", DATA)
    assert metadata["weights_license"] == "CC BY 4.0"
    assert metadata["eval_metrics"]["mean_dice"] == 0.7
    assert metadata["eval_metrics"]["scans"] == 3
    assert "simulated" not in json.dumps(metadata)  # what the shipped weights were trained on
    checked = verify_metadata(folder / "configs" / "metadata.json")
    assert checked.code == 0, checked.err
    check_version(folder)
    assert len(verify_bundle(folder)) == 2
    made = torch.load(folder / "models" / "model.pt", weights_only=True)
    expected = torch.load(weights, weights_only=True)
    assert all(torch.equal(made[key], expected[key]) for key in expected)

    card = (folder / "docs" / "README.md").read_text()
    base = (ROOT / "cnnres_bundle" / "docs" / "README.md").read_text()
    headings = [line for line in base.splitlines() if line.startswith("## ")]
    assert [line for line in card.splitlines() if line.startswith("## ")] == headings
    assert "not a medical device" in card
    assert DATA in card
    assert "Licence of the weights: CC BY 4.0." in card
    assert "| dice | 0.700 | " in card
    assert "1 scan(s) failed" in card
    assert "simulated" not in card
    assert "nan" not in card

    # It is a bundle like ours: packed, and run.
    assert write_archive(folder, tmp_path / "out").name == "our_cnnres_v1.2.0.zip"
    scan = write(tmp_path / "scan.nii.gz", head("DWI", lesion_mask(1), seed=1))
    done = bundle(
        "inference", config_file=folder / "configs" / "inference.json", bundle_root=folder, dataset_dir=scan,
        output_dir=tmp_path / "masks", spacing="[6.0,6.0,-1.0]", window="[32,32]",
    )  # fmt: skip
    assert done.code == 0, done.err


def test_what_monai_label_trained_on_is_not_passed_on(said: Mapping[str, Any], tmp_path: Path) -> None:
    """Its training on several GPUs leaves the paths of all scans and masks in the bundle."""
    served = tmp_path / "cnnres_bundle"
    shutil.copytree(ROOT / "cnnres_bundle", served)
    (served / "configs" / "monailabel_train.json").write_text('{"image": "/patients/smith.nii.gz"}')
    (served / "configs" / ".ipynb_checkpoints").mkdir()
    (served / "configs" / ".ipynb_checkpoints" / "train.json").write_text("smith")
    shared = share_weights(tmp_path / "shared", **said | {"bundle": served})
    assert {path.name for path in shared.glob("configs/*")} == {
        path.name for path in (ROOT / "cnnres_bundle" / "configs").iterdir()
    }
    assert not [path for path in shared.rglob("*") if path.is_file() and b"smith" in path.read_bytes()]


def test_a_recipe_that_tells_where_files_lie_is_not_shared(said: Mapping[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(ROOT / "cnnres_bundle", base)
    (base / "configs" / "ours.json").write_text('{"dataset_dir": "/data/smith"}')
    with pytest.raises(UsageError, match=r"ours\.json: dataset_dir tells where files of yours lie"):
        share_weights(tmp_path / "shared", **said | {"bundle": base})
    assert not (tmp_path / "shared").exists()


def test_ranges_go_along_with_the_weights_they_are_of(
    said: Mapping[str, Any], weights: Path, tmp_path: Path
) -> None:
    """And no others of their folder; stored in half precision, weights are other ones."""
    mine = tmp_path / "run" / "model.pt"
    mine.parent.mkdir()
    shutil.copy(weights, mine)
    state = load_weights(mine)
    others = {name: tensor + 1 for name, tensor in state.items()}
    for one, end in ((others, 1.0), (state, 2.0)):
        write_ranges(ranges_beside(mine), one, {"head": [(0.0, end)] * 20})
    for half in (False, True):
        shared = share_weights(tmp_path / f"half {half}", **said | {"weights": mine, "half": half})
        if half:
            assert not (shared / RANGES).exists()
        else:
            assert len(json.loads((shared / RANGES).read_text())) == 1
            assert read_ranges(shared / RANGES, load_weights(shared / "models" / "model.pt")) == {
                "head": (0.0, 2.0)
            }


def test_what_is_missing_is_told(
    said: Mapping[str, Any], evaluation: Path, weights: Path, bundles: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    settings = {"output": folder, **said}
    (evaluation / "other").mkdir()
    (evaluation / "other" / "summary.csv").write_text("a,b\n1,2\n")
    for change, error, told in (
        ({"data": " "}, UsageError, "Say what the weights were trained on"),
        ({"authors": ""}, UsageError, "who trained them"),
        ({"version": "v2"}, UsageError, "v2 is no version: three numbers"),
        ({"evaluation": tmp_path}, UsageError, r"summary\.csv is not there or no table"),
        ({"evaluation": evaluation / "other"}, UsageError, r"summary\.csv has no column ci_high"),
        ({"weights": tmp_path / "no.pt"}, WeightsError, r"no\.pt is missing"),
        ({"weights": bundles["xnet"] / "models" / "model.pt"}, WeightsError, "weights of X-Net"),
        ({"bundle": tmp_path}, UsageError, "is no bundle"),
        ({"output": tmp_path}, UsageError, "is there already"),
    ):
        with pytest.raises(error, match=told):
            share_weights(**settings | change)
    assert not folder.exists()
    done = strokeseg("weights", "share", folder, "--bundle", ROOT / "cnnres_bundle", "--weights", weights)
    assert done.code == 2  # without data and authors


@pytest.mark.parametrize("name", ["xnet", "cnnres"])
def test_a_card_tells_of_its_weights_only_where_sharing_writes_anew(name: str) -> None:
    card = (ROOT / f"{name}_bundle" / "docs" / "README.md").read_text()
    kept = {title: text for title, text in _sections(card).items() if title not in WRITTEN_ANEW}
    assert {"Input", "Output", "Commands"} <= kept.keys()
    assert not [title for title, text in kept.items() if "simulated" in text]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("nan", r"faulty\.pt has NaN or infinite values in .*; do not release these weights\."),
        ("large", r"faulty\.pt in float16 has NaN or infinite values in .*; leave out --half"),
        ("LICENSE", r"base is no bundle to share \(LICENSE is missing\): add it, or name another folder\."),
        ("docs/README.md", r"is no bundle to share \(docs/README\.md is missing\)"),
        ("configs/metadata.json", r"is no bundle to share \(configs/metadata\.json is missing\)"),
    ],
)
def test_what_fails_leaves_nothing_in_the_way(
    said: Mapping[str, Any], weights: Path, tmp_path: Path, fault: str, told: str
) -> None:
    folder, faulty, base = tmp_path / "made" / "ours", tmp_path / "faulty.pt", tmp_path / "base"
    wrong: dict[str, Any] = {"weights": faulty} if fault in ("nan", "large") else {"bundle": base}
    state = torch.load(weights, weights_only=True)
    next(t for t in state.values() if t.ndim > 1).fill_({"nan": torch.nan, "large": 1e5}.get(fault, 0.0))
    torch.save(state, faulty)
    shutil.copytree(ROOT / "cnnres_bundle", base)
    (base / fault).unlink(missing_ok=True)
    (tmp_path / "made").mkdir()
    with pytest.raises((UsageError, WeightsError), match=told):
        share_weights(folder, **{**said, **wrong}, half=fault == "large")
    assert not list((tmp_path / "made").iterdir())
    share_weights(folder, **said)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["ours"]


def test_a_folder_that_cannot_be_written_leaves_nothing(said: Mapping[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"ours cannot be written: a file stands where a folder is needed"):
        share_weights(tmp_path / "file" / "ours", **said)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]


def test_the_figures_are_of_the_weights_that_are_shared(
    said: Mapping[str, Any], bundles: Mapping[str, Path], trees: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(bundles["cnnres"], tmp_path / "trained")
    model = folder / "models" / "model.pt"
    settings = {"bundle_root": folder, "dataset_dir": trees["cnnres"], "output_dir": tmp_path / "scored"}
    configs = [str(folder / "configs" / f"{part}.json") for part in ("train", "evaluate")]
    done = bundle("evaluating", config_file=configs, **settings)
    assert done.code == 0, done.err
    said = {**said, "evaluation": tmp_path / "scored"}

    def card(name: str, weights: Path, **more: Any) -> str:
        made = share_weights(tmp_path / name, **{**said, "weights": weights}, **more)
        return (made / "docs" / "README.md").read_text()

    assert "evaluate.json` with these weights." in card("ours", model)
    assert "evaluate.json` with these weights." in card("ours_half", model, half=True)
    # The same values beside them in the other format; not what has lain there from before the training.
    twin = model.with_suffix(".safetensors")
    save_weights(load_weights(model), twin)
    assert "evaluate.json` with these weights." in card("ours_twin", twin)
    save_weights(load_weights(ROOT / "cnnres_bundle" / "models" / "model.pt"), twin)
    with pytest.raises(UsageError, match=r"is the evaluation of other weights \(.*/model\.pt\) than .*s: "):
        card("others", twin)
    # Without what evaluation says of them, the card says that nobody knows.
    (tmp_path / "scored" / "evaluation.json").write_text("{}")
    with pytest.raises(UsageError, match=r"evaluation\.json is damaged: evaluate the weights again"):
        card("others", model)
    (tmp_path / "scored" / "evaluation.json").unlink()
    assert "It was not checked whose figures these are" in card("others", twin)


@pytest.mark.parametrize("name", ["xnet", "cnnres"])
def test_a_card_says_nothing_for_its_author(
    said: Mapping[str, Any], bundles: Mapping[str, Path], tmp_path: Path, name: str
) -> None:
    base = ROOT / f"{name}_bundle"
    said = {**said, "bundle": base, "weights": bundles[name] / "models" / "model.pt"}
    folder = share_weights(tmp_path / "ours", **said)
    card = (folder / "docs" / "README.md").read_text()
    assert "Licence of the weights: not stated; ask their authors." in card
    assert "code and weights" not in card
    assert "shipped weights" not in card
    peak = json.loads((base / "configs" / "inference.json").read_text())["peak_threshold"]
    assert f"- `peak_threshold` ({peak}) was taken over from " in card
    for link in re.findall(r"`((?:benchmarks|configs|docs|models)/[^`\s]+)`", card):
        assert (folder / link).is_file(), link
    assert "](../" not in card

    keeps_all = shutil.copytree(base, tmp_path / "base")
    path = keeps_all / "configs" / "inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peak_threshold": 0}))
    said = {**said, "bundle": keeps_all}
    other = share_weights(tmp_path / "free", **said, licence="CC BY 4.0")
    card = (other / "docs" / "README.md").read_text()
    assert "Licence of the weights: CC BY 4.0." in card
    assert "was taken over" not in card


def test_the_hubs_head_leaves_the_licence_to_the_card(said: Mapping[str, Any], tmp_path: Path) -> None:
    folder = write_folder(share_weights(tmp_path / "ours", **said), tmp_path / "hub")
    head = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert head["license"] == "other"
    assert head["model_name"] == "CNN-Res stroke lesion segmentation: ours"


def test_one_scan_is_one_case(said: Mapping[str, Any], evaluation: Path, tmp_path: Path) -> None:
    pd.read_csv(evaluation / "metrics.csv").head(1).to_csv(evaluation / "metrics.csv", index=False)
    write_summary(evaluation / "metrics.csv", evaluation / "summary.csv")
    card = (share_weights(tmp_path / "ours", **said) / "docs" / "README.md").read_text()
    assert "| dice | 0.600 | – | 0.600 | 1 case |" in card
    assert " 1 lesion |" in card

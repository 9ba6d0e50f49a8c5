"""Each dataset in its own layout goes from its folder to a table by the commands of the README."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shared_nets.experiments.methods import METHODS, Comparison
from tests.bundles.configs import config, items, write_list
from tests.commands import ROOT, bundle, strokeseg
from tests.data import trees as datasets

Folders = Mapping[str, Path]
long = pytest.mark.long
pytestmark = pytest.mark.timeout(3600)  # several commands, on a busy machine

SETS = [
    pytest.param("xnet", "atlas", datasets.atlas_r11, [], id="atlas-r1.1"),
    pytest.param("cnnres", "isles2022", datasets.isles2022, [], marks=long, id="isles2022"),
    pytest.param(
        "xnet", "atlas", datasets.atlas_r11_normalised, ["--split", "unshuffled"], id="r1.1-229", marks=long
    ),
    pytest.param("xnet", "atlas", datasets.atlas_r20, ["--stratify", "site"], id="atlas-r2.0", marks=long),
    pytest.param(
        "cnnres", "spes", datasets.spes, ["--channel", "DWI", "--channel", "T2"], id="spes", marks=long
    ),
    pytest.param("xnet", "bids", datasets.bids, ["--model", "xnet"], id="bids-xnet", marks=long),
    pytest.param("cnnres", "bids", datasets.bids, ["--model", "cnnres"], id="bids-cnnres", marks=long),
    pytest.param("xnet", "folder", datasets.loose, ["--model", "xnet"], id="folder", marks=long),
]


@pytest.mark.parametrize(("name", "reader", "tree", "options"), SETS)
def test_from_a_datasets_folder_to_a_table(
    bundles: Folders, tmp_path: Path, name: str, reader: str, tree: Callable[[Path], Path], options: list[str]
) -> None:
    data = tmp_path / "list.json"
    done = strokeseg(
        "datalist", reader, tree(tmp_path / "set"), "--output", data, "--folds", 2, "--quiet", *options
    )
    assert done.code == 0, done.err
    settings = ["max_epochs=2", "slices_per_scan=1", "scans_per_batch=2"]
    done = strokeseg(
        "experiment", data, "--model", name, "--bundle", bundles[name], "--quiet",
        "--output", tmp_path / "run", *(word for setting in settings for word in ("--set", setting)),
    )  # fmt: skip
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "run" / "metrics.csv")
    listed = json.loads(data.read_text())["training"]
    assert dict(zip(table["scan"], table["fold"], strict=True)) == {i["name"]: i["fold"] for i in listed}
    assert (table["status"] == "ok").all()
    assert "dice" in done.out


@long
@pytest.mark.parametrize(
    ("name", "reader", "tree", "options"), [pytest.param(*one.values, id=one.id) for one in SETS]
)
def test_from_a_datasets_folder_to_the_papers_table(
    tmp_path: Path, name: str, reader: str, tree: Callable[[Path], Path], options: list[str]
) -> None:
    """`strokeseg table` trains every network of the table for two epochs; pixels are large for its sake."""
    data = tmp_path / "list.json"
    if tree is datasets.atlas_r11_normalised:
        tree = partial(tree, subjects=9)
    done = strokeseg(
        "datalist", reader, tree(tmp_path / "set"), "--output", data, "--folds", 2, "--quiet", *options
    )
    assert done.code == 0, done.err
    which = "ablation" if name == "xnet" else "acute"
    settings = ["max_epochs=2", "spacing=[12.0, 12.0, -1.0]", "window=[16, 16]"]
    done = strokeseg(
        "table", which, data, "--recipe", "comparison.json", "--fold", 0, "--output", tmp_path, "--quiet",
        *(word for setting in settings for word in ("--set", setting)),
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = pd.read_csv(tmp_path / f"{which}.csv")
    assert list(rows["method"]) == [method.name for method in METHODS[Comparison(which)]]
    held_out = sum(item["fold"] == 0 for item in json.loads(data.read_text())["training"])
    assert (rows["cases"] == held_out).all()
    assert (rows["epochs"] == 2).all()


@long
@pytest.mark.parametrize("name", ["xnet", "cnnres"])
def test_a_decathlon_tree_with_the_readmes_monai_commands(
    bundles: Folders, tmp_path: Path, name: str
) -> None:
    """dataset.json as it comes; then the plain folder; training, evaluation and inference take both."""
    tree = datasets.decathlon(tmp_path / "set", name)
    data = tmp_path / "list.json"
    done = strokeseg("datalist", "folder", tree, "--model", name, "--output", data, "--folds", 2, "--quiet")
    assert done.code == 0, done.err
    folder = bundles[name]
    for source, output in ((data, "of_list"), (tree, "of_folder")):
        done = bundle(
            "training", config_file=config(folder, "train"), bundle_root=folder, dataset_dir=source, fold=0,
            output_dir=tmp_path / output, max_epochs=2, slices_per_scan=1, scans_per_batch=2, quiet=True,
        )  # fmt: skip
        assert done.code == 0, done.err
        weights = tmp_path / output / "models" / "model.pt"
        done = bundle(
            "evaluating", config_file=config(folder, "train", "evaluate"), bundle_root=folder,
            dataset_dir=source, weights=weights, output_dir=tmp_path / output / "eval", quiet=True,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert (pd.read_csv(tmp_path / output / "eval" / "metrics.csv")["status"] == "ok").all()
        done = bundle(
            config_file=config(folder, "inference"), bundle_root=folder, dataset_dir=source, weights=weights,
            output_dir=tmp_path / output / "masks", quiet=True,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert list(pd.read_csv(tmp_path / output / "masks" / "lesions.csv")["scan"]) == ["STROKE_9"]


def test_a_table_of_two_networks(trees: Folders, tmp_path: Path) -> None:
    """U-Net against CNN-Res by the command: trained alike, scored, tested, in Markdown and CSV."""
    words = [
        "table", "acute", trees["cnnres"], "--recipe", "comparison.json", "--set", "max_epochs=1",
        "--fold", "0", "--output", tmp_path, "--note", "Small heads.", "--quiet",
    ]  # fmt: skip
    done = strokeseg(*words, "--scoring", "paper")
    assert done.code == 0, done.err
    configs = [tmp_path / "cnnres" / name / "fold0" / "config.json" for name in ("u-net", "cnn-res")]
    other, own = (json.loads(path.read_text())["network_def"] for path in configs)
    train = json.loads((ROOT / "cnnres_bundle" / "configs" / "train.json").read_text())
    assert own["dropout"] == train["network_def"]["dropout"]
    assert "dropout" not in other
    rows = pd.read_csv(tmp_path / "acute_paper_scoring.csv").set_index("method")
    assert list(rows.index) == ["U-Net", "CNN-Res"]
    # With two channels: the published 31,031,685 and 6,471,105 and another 3×3 kernel of the first layer.
    assert rows.loc["CNN-Res", "parameters_million"] == pytest.approx(6.465153 + 9 * 32 / 1e6, abs=1e-6)
    assert rows.loc["U-Net", "parameters_million"] == pytest.approx(31.031685 + 9 * 64 / 1e6, abs=1e-6)
    assert (rows["ms_per_slice"] > 0).all()
    assert (rows["gmacs_per_slice"] > 0).all()
    assert rows.loc["U-Net", "p"] == 1.0  # a single case tells nothing
    scored = pd.read_csv(tmp_path / "cnnres" / "cnn-res" / "fold0" / "evaluation" / "metrics.csv")
    assert rows.loc["CNN-Res", "dice"] == pytest.approx(scored["slice_dice"].mean())
    text = (tmp_path / "acute_paper_scoring.md").read_text()
    assert text in done.out
    assert "Small heads." in text
    assert "(0.7923)" in text
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cnnres/*/fold0/trained.json")}
    assert len(trained) == 2
    done = strokeseg(*words)  # the other scoring of the same runs
    assert done.code == 0, done.err
    assert pd.read_csv(tmp_path / "acute.csv")["dice"].tolist()[1] == pytest.approx(scored["dice"].mean())
    assert {path: path.stat().st_mtime_ns for path in trained} == trained


def test_a_last_batch_of_one_slice_does_not_end_a_training(
    bundles: Folders, trees: Folders, tmp_path: Path
) -> None:
    """PSPNet pools to one pixel, of which batch norm has no statistics: three scans go in a batch of two."""
    path = write_list(
        tmp_path / "three_train.json",
        trees["xnet"],
        training=items("xnet", [1, 2, 3]),
        validation=items("xnet", [4]),
    )
    done = bundle(
        "training", config_file=config(bundles["xnet"], "train"), dataset_dir=path, output_dir=tmp_path,
        max_epochs=2, slices_per_scan=1, scans_per_batch=2, quiet=True, val_interval=2,
        network_def="{'_target_': 'shared_nets.networks.PSPNet', 'in_channels': 1, 'out_channels': 1}",
    )  # fmt: skip
    assert done.code == 0, done.err
    last = torch.load(tmp_path / "models" / "last.ckpt", weights_only=True)
    assert last["trainer"] == {"epoch": 2, "iteration": 2}


@long
def test_cnn_res_papers_recipe_from_data_to_table(bundles: Folders, trees: Folders, tmp_path: Path) -> None:
    """One-channel samples, in evaluation too: every case twice."""
    done = strokeseg(
        "experiment", trees["cnnres"], "--model", "cnnres", "--bundle", bundles["cnnres"], "--quiet",
        "--output", tmp_path, "--recipe", "paper_train.json", "--scoring", "paper", "--fold", "0",
        "--set", "max_epochs=1", "--set", "slices_per_scan=2", "--set", "window=[32, 32]",
    )  # fmt: skip
    assert done.code == 0, done.err
    names = sorted(pd.read_csv(tmp_path / "metrics.csv")["scan"])
    assert [name.split("_")[-1] for name in names] == ["DWI", "FLAIR"]
    assert "By the cnnres paper's rules" in done.out


def test_a_run_repeated_has_the_same_losses(bundles: Folders, trees: Folders, tmp_path: Path) -> None:
    """The same seed on the same CPU: loss by loss, and weight by weight."""
    losses = []
    for part, seed in (("a", 0), ("b", 0), ("c", 1)):
        done = bundle(
            "training", config_file=config(bundles["cnnres"], "train"), dataset_dir=trees["cnnres"],
            output_dir=tmp_path / part, max_epochs=2, slices_per_scan=2, scans_per_batch=2, seed=seed,
            quiet=True,
        )  # fmt: skip
        assert done.code == 0, done.err
        events = EventAccumulator(str(tmp_path / part))
        events.Reload()
        (tag,) = [tag for tag in events.Tags()["scalars"] if "loss" in tag]
        losses.append([event.value for event in events.Scalars(tag)])
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    same = [(tmp_path / part / "models" / "model.pt").read_bytes() for part in ("a", "b")]
    assert same[0] == same[1]


def test_fine_tuning_tells_before_and_after(bundles: Folders, trees: Folders, tmp_path: Path) -> None:
    words = [
        "finetune", trees["cnnres"], "--model", "cnnres", "--bundle", bundles["cnnres"], "--output", tmp_path,
        "--frozen", "translation1", "--quiet", "--set", "max_epochs=1", "--set", "slices_per_scan=2",
    ]  # fmt: skip
    done = strokeseg(*words)
    assert done.code == 0, done.err
    before, after = (pd.read_csv(tmp_path / "fold0" / part / "metrics.csv") for part in ("before", "after"))
    said = [line.split() for line in done.out.splitlines()]
    assert ["dice", f"{before['dice'].mean():.3f}", f"{after['dice'].mean():.3f}"] in said
    assert f"Weights: {tmp_path / 'fold0' / 'models' / 'model.pt'}" in done.out
    assert strokeseg(*words).code == 0  # trained once, told again
    wrong = strokeseg(*words[:-4], "--set", "max_epochs=1", "--frozen", "encodr", "--output", tmp_path / "b")
    assert wrong.code == 1
    assert "no part 'encodr' to freeze" in wrong.err

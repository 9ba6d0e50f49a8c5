"""`strokeseg experiment`: folds are trained and evaluated once, and a killed run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from shared_nets import CNNRes, evaluation
from shared_nets.errors import UsageError, WeightsError
from shared_nets.evaluation import measure_case
from shared_nets.experiments.crossvalidation import Experiment, check_recipes, read_last, telling_how_to_go_on
from shared_nets.files import held, in_turn
from tests.bundles.configs import items, write_list
from tests.commands import ROOT, digest, strokeseg, wait_for

Folders = Mapping[str, Path]


@pytest.fixture(scope="module")
def data(trees: Folders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data list of two folds for each bundle."""
    folder = tmp_path_factory.mktemp("two_folds")
    return {
        name: write_list(
            folder / f"{name}.json",
            tree,
            training=[items(name, [n], fold=n % 2)[0] for n in range(1, 6)],
        )
        for name, tree in trees.items()
    }


def command(
    bundles: Folders, data: Mapping[str, Path], name: str, output: Path, *more: object
) -> list[object]:
    settings = ("max_epochs=2", "slices_per_scan=1", "scans_per_batch=2", "cache_gb=0")
    return [
        "experiment", data[name], "--model", name, "--bundle", bundles[name], "--output", output, "--quiet",
        *(word for setting in settings for word in ("--set", setting)), *more,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["xnet", "cnnres"])
def test_folds_to_table(bundles: Folders, data: dict[str, Path], tmp_path: Path, name: str) -> None:
    done = strokeseg(*command(bundles, data, name, tmp_path, "--scoring", "paper"))
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert sorted(table["scan"]) == [f"case{n}" for n in range(1, 6)]  # every case once
    assert dict(zip(table["scan"], table["fold"], strict=True)) == {f"case{n}": n % 2 for n in range(1, 6)}
    summary = pd.read_csv(tmp_path / "summary.csv").set_index("of")
    assert summary.loc["lesions", "n"].sum() == 5  # one a case, found or missed
    assert f"By the {name} paper's rules: dice" in done.out
    for fold in (0, 1):
        trained = json.loads((tmp_path / f"fold{fold}" / "trained.json").read_text())
        assert trained["epoch"] == 2
        assert not (tmp_path / f"fold{fold}" / "cache").exists()  # gigabytes, with real scans
        run = json.loads((tmp_path / f"fold{fold}" / "run.json").read_text())
        held = {case["name"] for case in run["cases"]["validation"]}
        assert held == {f"case{n}" for n in range(1, 6) if n % 2 == fold}
        assert run["seed"] == 0
        config = json.loads((tmp_path / f"fold{fold}" / "config.json").read_text())
        assert (config["fold"], config["max_epochs"]) == (fold, 2)
        assert run["versions"]["torch"] == torch.__version__
    settings = json.loads((tmp_path / "experiment.json").read_text())
    assert settings["settings"] == {
        "max_epochs": 2, "slices_per_scan": 1, "scans_per_batch": 2, "cache_gb": 0,
    }  # fmt: skip
    assert settings["commit"] == run["commit"]
    assert "commit" in settings

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("fold*/**/*.*")}
    again = strokeseg(*command(bundles, data, name, tmp_path))
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("fold*/**/*.*")} == before  # nothing anew

    other = strokeseg(*command(bundles, data, name, tmp_path, "--set", "learning_rate=0.1"))
    assert other.code == 1
    assert other.err.startswith(f"{tmp_path} holds an experiment with other settings")


def test_killed_in_training_it_loses_an_epoch_at_most(
    bundles: Folders, data: dict[str, Path], tmp_path: Path
) -> None:
    """SIGKILL as soon as the first epoch is on disk; the run then goes on from there."""
    words = command(bundles, data, "cnnres", tmp_path, "--fold", "0", "--set", "max_epochs=6")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "shared_nets.cli", *map(str, words)], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    checkpoint = tmp_path / "fold0" / "models" / "last.ckpt"
    try:
        wait_for(checkpoint.is_file, lambda: process.poll() is None)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = torch.load(checkpoint, weights_only=True)["trainer"]["epoch"]
    assert 1 <= reached < 6
    assert not (tmp_path / "fold0" / "trained.json").exists()

    done = strokeseg(*words)
    assert done.code == 0, done.err
    trained = json.loads((tmp_path / "fold0" / "trained.json").read_text())
    assert trained["resumed_after_epoch"] == reached
    assert trained["epoch"] == 6
    assert len(pd.read_csv(tmp_path / "fold0" / "evaluation" / "metrics.csv")) == 2


def test_killed_at_any_later_moment_it_does_what_is_left(
    bundles: Folders, data: dict[str, Path], tmp_path: Path
) -> None:
    """What a kill leaves after the last epoch, in the evaluation and before its summary: no epoch anew."""
    settings = {"max_epochs": 1, "slices_per_scan": 1, "scans_per_batch": 2}
    run = Experiment(bundles["cnnres"], data["cnnres"], tmp_path, (), settings, silent={"quiet": True}).run
    first = run([0])
    fold = tmp_path / "fold0"
    checkpoint = fold / "models" / "last.ckpt"
    trained = checkpoint.stat().st_mtime_ns
    evaluation = ["evaluation/summary.csv", "evaluation/metrics.csv"]
    for lost in (
        evaluation[:1],
        evaluation[1:],
        evaluation,
        [*evaluation, "trained.json"],
        [*evaluation, "trained.json", "models/last.safetensors"],
    ):
        for name in lost:
            (fold / name).unlink()
        pd.testing.assert_frame_equal(run([0]).drop(columns="seconds"), first.drop(columns="seconds"))
        assert all((fold / name).is_file() for name in lost)
        assert checkpoint.stat().st_mtime_ns == trained


def test_interrupted_in_an_evaluation_it_stops_and_the_fold_is_not_taken_for_finished(
    bundles: Folders, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at the second of two cases; so does SIGTERM, which clusters send."""
    settings = {"max_epochs": 1, "slices_per_scan": 1, "scans_per_batch": 2}
    run = Experiment(bundles["cnnres"], data["cnnres"], tmp_path, (), settings, silent={"quiet": True}).run
    measured = []

    def measure(case: Mapping[str, object]) -> dict[str, object]:
        measured.append(case["name"])
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure_case(case)

    monkeypatch.setattr(evaluation, "measure_case", measure)
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 130
    assert not (tmp_path / "fold0" / "evaluation" / "summary.csv").exists()
    assert not (tmp_path / "fold1").exists()
    monkeypatch.undo()
    assert list(run([0])["scan"]) == ["case2", "case4"]


def test_a_checkpoint_is_given_up_only_when_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"network": {}, "trainer": {"epoch": 1}}, path)
    assert read_last(path)["trainer"]["epoch"] == 1
    whole = path.read_bytes()

    def other_version(*_: object, **__: object) -> None:
        raise RuntimeError("Attempted to read a PyTorch file with version 99.\nMore.")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", other_version)
        with pytest.raises(WeightsError, match=r"last\.ckpt is whole, but torch .* version 99\): go on with"):
            read_last(path)
    with pytest.raises(WeightsError, match=r"cannot be read \(Is a directory\): see to it"):
        read_last(tmp_path)
    for content in ({"network": {}}, [1], {"network": {}, "trainer": 1}):
        torch.save(content, path)
        with pytest.raises(WeightsError, match="is damaged or incomplete: delete the fold's folder"):
            read_last(path)
    for damage in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        path.write_bytes(damage)
        with pytest.raises(WeightsError, match="is damaged or incomplete: delete the fold's folder"):
            read_last(path)


def test_an_interruption_tells_what_the_command_can_do() -> None:
    words = "in fold 2; run the same command again"
    with pytest.raises(KeyboardInterrupt, match=words), telling_how_to_go_on(2):
        raise KeyboardInterrupt("models/last.ckpt holds the run: go on with --resume True.")


def test_sections_are_trained_once_and_judged_on_the_test(
    bundles: Folders, trees: Folders, tmp_path: Path
) -> None:
    """The CNN-Res paper's 34/5/5, small: no folds to go through."""
    numbers = {"training": [1, 2, 3], "validation": [4], "test": [5]}
    parts = {name: items("cnnres", part) for name, part in numbers.items()}
    path = write_list(tmp_path / "sections.json", trees["cnnres"], **parts)
    output = tmp_path / "out"
    words = command(bundles, {"cnnres": path}, "cnnres", output, "--evaluate-on", "test")
    done = strokeseg(*words)
    assert done.code == 0, done.err
    assert [p.name for p in output.glob("fold*")] == ["fold0"]
    assert "tables: metrics_test.csv, summary_test.csv" in done.out
    assert sorted(path.name for path in output.glob("*.csv")) == ["metrics_test.csv", "summary_test.csv"]
    cases = json.loads((output / "fold0" / "run.json").read_text())["cases"]
    assert [case["name"] for case in cases["validation"]] == ["case4"]
    # The same run on its validation case: trained already, and the other tables are kept.
    checkpoint = output / "fold0" / "models" / "last.ckpt"
    before = checkpoint.stat().st_mtime_ns
    done = strokeseg(*words[:-2])
    assert done.code == 0, done.err
    for table in ("metrics{}.csv", "fold0/evaluation{}/metrics.csv"):
        assert list(pd.read_csv(output / table.format(""))["scan"]) == ["case4"]
        assert list(pd.read_csv(output / table.format("_test"))["scan"]) == ["case5"]
    assert checkpoint.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "max_epoch=3"], "train.json has no such value"),
        (["--set", "output_dir=here"], "an option of its own"),
        (["--fold", "7"], "choose one of 0, 1"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(
    bundles: Folders, data: dict[str, Path], tmp_path: Path, words: list[str], told: str
) -> None:
    done = strokeseg(*command(bundles, data, "cnnres", tmp_path / "out", *words))
    assert done.code == 1
    assert told in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_test_without_test_cases_is_told_before_anything_is_written(
    bundles: Folders, data: dict[str, Path], trees: Folders, tmp_path: Path
) -> None:
    """In folders, what has no mask cannot be scored."""
    for source, told in ((data["cnnres"], "no cases under 'test'"), (trees["cnnres"], "no folder labelsTs")):
        words = command(bundles, {"cnnres": source}, "cnnres", tmp_path / "out", "--evaluate-on", "test")
        done = strokeseg(*words, "--fold", 0)
        assert done.code == 1
        assert told in done.err
        assert "Traceback" not in done.err
        assert not (tmp_path / "out").exists()


def test_a_single_subject_leaves_nothing_to_evaluate(
    bundles: Folders, trees: Folders, tmp_path: Path
) -> None:
    path = write_list(tmp_path / "single.json", trees["cnnres"], training=items("cnnres", [1]))
    done = strokeseg(*command(bundles, {"cnnres": path}, "cnnres", tmp_path / "out", "--fold", 0))
    assert done.code == 1
    assert "leaves no case to evaluate in fold 0" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "max_epochs=0"), "max_epochs is a whole number, at least 1, not 0"),
        (("--set", "max_epochs=many"), "max_epochs is a whole number, at least 1, not 'many'"),
        (("--set", "window=[100, 100]"), "window is two multiples of 16"),
        (
            ("--recipe", '{"max_epoch": 1}'),
            "train.json has no max_epoch, and no recipe reads it; did",
        ),
        (("--recipe", '{"max_epochs": 1'), "recipe.json cannot be read as a config"),
        (("--recipe", "[1]"), "recipe.json cannot be read as a config (no object in braces)"),
        (("--set", "fold=1"), "fold is not for --set: it has an option of its own"),
        (("--set", "ckpt_dir=elsewhere"), "ckpt_dir is not for --set"),
        (("--set", "seed=-1"), "seed is a whole number, at least 0, not -1"),
    ],
)
def test_settings_and_recipes_that_cannot_work(
    bundles: Folders,
    trees: Folders,
    data: dict[str, Path],
    tmp_path: Path,
    words: tuple[str, str],
    told: str,
) -> None:
    option, value = words
    if option == "--recipe":
        (tmp_path / "recipe.json").write_text(value)
        value = str(tmp_path / "recipe.json")
    # A list whose folds are counted, not named.
    path = write_list(tmp_path / "no_folds.json", trees["cnnres"], training=items("cnnres", [1, 2]))
    for one, fold in ((data, ["--fold", 0]), ({"cnnres": path}, [])):
        done = strokeseg(*command(bundles, one, "cnnres", tmp_path / "out", *fold, option, value))
        assert done.code == 1
        assert told in done.err
        assert "Traceback" not in done.err
        assert not (tmp_path / "out").exists()


def test_a_recipe_may_have_values_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '{"decay": 0.1, "rate": 0.01, "loss#batch": true, "_comment": "", "finalize": []}'
    )
    (tmp_path / "b.json").write_text('{"weight_decay": "@decay", "learning_rate": "$%rate / 2"}')
    (tmp_path / "train.json").write_text('{"weight_decay": 0, "learning_rate": 1, "loss": {}}')
    check_recipes([tmp_path / "a.json", tmp_path / "b.json"], [tmp_path / "train.json"])
    with pytest.raises(UsageError, match=r"a\.json: train\.json has no decay"):
        check_recipes([tmp_path / "a.json"], [tmp_path / "train.json"])


def test_test_cases_that_were_trained_on_are_told(bundles: Folders, trees: Folders, tmp_path: Path) -> None:
    numbers = {"training": [1, 2, 3], "validation": [4], "test": [2]}
    parts = {name: items("cnnres", part) for name, part in numbers.items()}
    path = write_list(tmp_path / "leak.json", trees["cnnres"], **parts)
    words = command(bundles, {"cnnres": path}, "cnnres", tmp_path / "out", "--evaluate-on", "test")
    done = strokeseg(*words, "--set", "max_epochs=1")
    assert done.code == 0, done.err
    assert "The same subjects train and test, so scores flatter: case2" in done.err


def test_fine_tunings_own_options_are_not_set(
    bundles: Folders, data: dict[str, Path], tmp_path: Path
) -> None:
    """Training would start from other weights than the evaluation before it."""
    done = strokeseg(
        "finetune", data["cnnres"], "--model", "cnnres", "--bundle", bundles["cnnres"],
        "--output", tmp_path / "out", "--set", "pretrained=other.pt",
    )  # fmt: skip
    assert done.code == 2
    assert "--set pretrained: use --pretrained." in done.err
    assert not (tmp_path / "out").exists()


def test_a_start_that_failed_does_not_lock_the_folder(
    bundles: Folders, data: dict[str, Path], tmp_path: Path
) -> None:
    """Settings that no epoch was trained with give way to corrected ones; what they left is not used."""
    output = tmp_path / "out"
    words = command(bundles, data, "cnnres", output, "--fold", 0)
    done = strokeseg(*words, "--set", "loss#_target_=DiceLos")
    assert done.code == 1
    assert (output / "experiment.json").is_file()
    prepared = output / "fold0" / "cache" / "of_other_settings"
    prepared.parent.mkdir(exist_ok=True)
    prepared.touch()
    with held(output / "fold0"):
        done = strokeseg(*words)
        assert done.code == 1
        assert "is being written by another run" in done.err
        assert prepared.is_file()
    done = strokeseg(*words)
    assert done.code == 0, done.err
    assert not prepared.exists()
    assert json.loads((output / "experiment.json").read_text())["settings"]["slices_per_scan"] == 1
    (output / "fold0" / "models" / "last.ckpt").unlink()  # large, and the fold is finished
    done = strokeseg(*words, "--set", "slices_per_scan=2")
    assert "holds an experiment with other settings" in done.err


def test_fine_tuning_begins_again_with_corrected_settings(
    bundles: Folders, data: dict[str, Path], tmp_path: Path
) -> None:
    """Weights that cannot be used are told at once; scores of before are not kept for other settings."""
    output = tmp_path / "out"
    words = [
        "finetune", data["cnnres"], "--model", "cnnres", "--bundle", bundles["cnnres"], "--output", output,
        "--set", "max_epochs=1", "--quiet",
    ]  # fmt: skip
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    for weights, told in (("nothere.pt", "is missing"), ("other.pt", "do not fit CNNRes")):
        done = strokeseg(*words, "--pretrained", tmp_path / weights)
        assert done.code == 1
        assert f"{tmp_path / weights}" in done.err
        assert told in done.err
        assert not output.exists()
    done = strokeseg(*words, "--set", "loss#_target_=DiceLos")
    assert done.code == 1
    before = output / "fold0" / "before" / "metrics.csv"
    made = before.stat().st_mtime_ns
    # Weights for one channel are spread over two, in the evaluation before as in the training.
    torch.save(CNNRes(in_channels=1).state_dict(), tmp_path / "one.pt")
    done = strokeseg(*words, "--pretrained", tmp_path / "one.pt", "--set", "slices_per_scan=1")
    assert done.code == 0, done.err
    assert "spread evenly over 2" in done.err
    assert before.stat().st_mtime_ns != made


def test_what_is_no_other_experiment_may_change(trained: Experiment, tmp_path: Path) -> None:
    """Where the data lie, where it runs, how a list is written; not the masks."""
    path = trained.data / "list.json"
    path.write_text(json.dumps({"training": items("cnnres", [1, 2, 3])}))
    listed = replace(trained, data=path)
    listed.check([0])
    path.write_text(json.dumps({"test": items("cnnres", [4])} | json.loads(path.read_text()), indent=4))
    replace(listed, settings={"workers": 1, "cache_gb": 1.5, "device": "cpu"}).check([0])

    (listed.output / "experiment.json").unlink()
    trained.check([0])
    moved = tmp_path / "moved"
    shutil.copytree(trained.data, moved)
    replace(trained, data=moved).check([0])
    mask = moved / "labelsTr" / "case1.nii.gz"
    shutil.copy(moved / "labelsTr" / "case2.nii.gz", mask)
    with pytest.raises(UsageError, match="an experiment with other cases"):
        replace(trained, data=moved).check([0])


@pytest.mark.parametrize("subjects", [1, 3, 5])
def test_few_subjects_make_fewer_folds(trained: Experiment, subjects: int) -> None:
    path = trained.data / "list.json"
    path.write_text(json.dumps({"training": items("cnnres", range(1, 1 + subjects))}))
    folds = replace(trained, data=path).folds()
    assert folds == list(range(subjects))
    held = [case["name"] for fold in folds for case in replace(trained, data=path).evaluated(fold)]
    assert sorted(held) == [f"case{n}" for n in range(1, 1 + subjects)] * (subjects > 1)


def test_a_case_more_in_a_folder_is_noticed(bundles: Folders, trees: Folders, tmp_path: Path) -> None:
    """As in a data list; what is no case does not matter."""
    tree = tmp_path / "tree"
    shutil.copytree(trees["cnnres"], tree)
    words = command(bundles, {"cnnres": tree}, "cnnres", tmp_path / "out", "--set", "max_epochs=1")
    done = strokeseg(*words, "--fold", 0)
    assert done.code == 0, done.err
    (tree / "README").touch()
    done = strokeseg(*words, "--fold", 0)
    assert done.code == 0, done.err
    for name in ("imagesTr/case{}_0000.nii.gz", "imagesTr/case{}_0001.nii.gz", "labelsTr/case{}.nii.gz"):
        shutil.copy(tree / name.format(1), tree / name.format(6))
    done = strokeseg(*words, "--fold", 0, "--fold", 1)
    assert done.code == 1
    assert "holds an experiment with other cases" in done.err


@pytest.fixture
def trained(bundles: Folders, trees: Folders, tmp_path: Path) -> Experiment:
    """An experiment that may go on without training, in a folder of its data, with a bundle of its own."""
    bundle, tree = tmp_path / "cnnres_bundle", tmp_path / "tree"
    shutil.copytree(bundles["cnnres"], bundle)
    shutil.copytree(trees["cnnres"], tree)
    shutil.copytree(tree / "labelsTr", tree / "labelsTs")
    for number in (3, 4, 5):  # of imagesTs's two cases
        (tree / "labelsTs" / f"case{number}.nii.gz").unlink()
    output = tmp_path / "out"
    for fold in (0, 1):
        (output / f"fold{fold}" / "models").mkdir(parents=True)
        weights = CNNRes().state_dict()
        save_file(weights, output / f"fold{fold}" / "models" / "last.safetensors")
        (output / f"fold{fold}" / "trained.json").write_text('{"epoch": 1, "slices": 1}')
    return Experiment(bundle, tree, output, silent={"quiet": True})


@pytest.mark.parametrize("name", ["train.json", "evaluate.json"])
def test_a_bundles_config_edited_since_is_noticed(trained: Experiment, name: str) -> None:
    trained.check([0])
    record = trained.output / "experiment.json"
    recorded = json.loads(record.read_text())
    config = trained.config(name)
    assert recorded["configs"][name] == digest(config)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peak_threshold": 0.1}))
    with pytest.raises(UsageError, match=r"an experiment with other train\.json or evaluate\.json: choose"):
        trained.check([0])


def test_a_bundle_without_evaluate_json_is_told_of_before_anything_is_written(trained: Experiment) -> None:
    trained.config("evaluate.json").unlink()
    with pytest.raises(UsageError, match=r"no bundle to train \(configs/evaluate\.json is missing\)"):
        trained.check([0])
    assert not (trained.output / "experiment.json").exists()


def test_test_cases_added_to_a_folder_are_evaluated(trained: Experiment) -> None:
    test = replace(trained, evaluate_on="test")
    assert list(test.run([0])["scan"]) == ["case1", "case2"]
    table = test.table(0)
    made = table.stat().st_mtime_ns
    test.run([0])
    assert table.stat().st_mtime_ns == made
    for name in ("images{}/case3_0000.nii.gz", "images{}/case3_0001.nii.gz", "labels{}/case3.nii.gz"):
        shutil.copy(test.data / name.format("Tr"), test.data / name.format("Ts"))
    assert list(test.run([0])["scan"]) == ["case1", "case2", "case3"]


def test_folds_run_one_by_one_make_one_table(trained: Experiment) -> None:
    """As those of a cluster's jobs; a fold in which a case failed is not finished."""
    words = [
        "experiment", trained.data, "--model", "cnnres", "--bundle", trained.bundle, "--output",
        trained.output, "--quiet",
    ]  # fmt: skip
    root, other = trained.output / "metrics.csv", trained.table(1)
    for fold, folds in ((1, {1}), (0, {0, 1})):
        done = strokeseg(*words, "--fold", fold)
        assert done.code == 0, done.err
        assert set(pd.read_csv(root)["fold"]) == folds
    assert "(folds: 0, 1; tables: metrics.csv, summary.csv)" in done.out
    held_out = [name for fold in (0, 1) for name in pd.read_csv(trained.table(fold))["scan"]]
    assert list(pd.read_csv(root)["scan"]) == held_out
    assert len(held_out) == 2
    pd.read_csv(other).assign(status="failed").to_csv(other, index=False)
    assert set(trained.run([0])["fold"]) == {0}


@pytest.mark.parametrize(
    ("words", "evaluated"), [((), "last.safetensors"), (("--weights", "best"), "model.pt")]
)
def test_the_last_epoch_is_evaluated_unless_the_best_is_asked_for(
    trained: Experiment, words: tuple[str, ...], evaluated: str
) -> None:
    models = trained.fold_folder(0) / "models"
    torch.save(CNNRes().state_dict(), models / "model.pt")
    done = strokeseg(
        "experiment", trained.data, "--model", "cnnres", "--bundle", trained.bundle, "--output",
        trained.output, "--quiet", "--fold", 0, *words,
    )  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads((trained.evaluation_folder(0) / "evaluation.json").read_text())
    assert told["WeightsSHA256"] == digest(models / evaluated)
    assert ("chosen on, which flatters" in done.out) == (evaluated == "model.pt")


def test_an_evaluation_keeps_no_probabilities(trained: Experiment) -> None:
    rows = trained.run([0])
    assert rows["volume_ml"].notna().all()
    assert rows["max_probability"].isna().all()


def test_a_task_of_an_array_evaluates_all_cases_of_its_fold(
    trained: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predicting shares scans among such tasks; here each has a fold, or a model, of its own."""
    for key, value in (("ID", 1), ("MIN", 0), ("MAX", 1), ("COUNT", 2)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{key}", str(value))
    assert list(trained.run([0])["scan"]) == [case["name"] for case in trained.evaluated(0)]


def test_the_order_of_recipes_and_the_weights_to_start_from_are_noticed(
    trained: Experiment, tmp_path: Path
) -> None:
    recipes = [tmp_path / part / "recipe.json" for part in ("a", "b")]
    for number, path in enumerate(recipes):
        path.parent.mkdir()
        path.write_text(json.dumps({"seed": number}))
    start = tmp_path / "start.safetensors"
    save_file(CNNRes().state_dict(), start)
    first = replace(trained, recipes=tuple(recipes), settings={"pretrained": str(start)})
    first.check([0])
    first.check([0])
    with pytest.raises(UsageError, match="an experiment with other recipes: choose another"):
        replace(first, recipes=tuple(reversed(recipes))).check([0])
    save_file(CNNRes().state_dict(), start)
    with pytest.raises(UsageError, match="an experiment with other weights to start from: choose another"):
        first.check([0])


def test_of_jobs_that_end_together_the_last_to_write_has_seen_all(trained: Experiment) -> None:
    trained.run([1])
    summary = trained.table(1).with_name("summary.csv")
    kept = summary.rename(summary.with_name("kept.csv"))
    job = [
        sys.executable, "-m", "shared_nets.cli", "experiment", trained.data, "--model", "cnnres", "--bundle",
        trained.bundle, "--output", trained.output, "--quiet", "--fold", "0",
    ]  # fmt: skip
    with in_turn(trained.output):
        running = subprocess.Popen(job, cwd=ROOT)
        wait_for(lambda: trained.is_finished(0), lambda: running.poll() is None)
        time.sleep(1)  # by now it would have read the tables, were it not for the other job
        kept.rename(summary)
    assert running.wait(timeout=60) == 0
    assert set(pd.read_csv(trained.output / "metrics.csv")["fold"]) == {0, 1}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("window=[40, 32]", "window is two multiples of 16, as [112, 96], not [40, 32]"),
        ("network_def#fsm=cosine", "must be one of"),
        ("window_batch=0", "window_batch is a whole number, at least 1, not 0"),
        ("train#deterministic_transforms#5#upper=101", "not 0.5 and 101"),
    ],
)
def test_impossible_settings_are_told_in_a_sentence(
    bundles: Folders, data: dict[str, Path], tmp_path: Path, setting: str, told: str
) -> None:
    done = strokeseg(*command(bundles, data, "xnet", tmp_path / "out", "--set", setting))
    assert done.code == 1
    assert told in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_data_that_are_not_there_or_no_list(bundles: Folders, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"training": [')
    for name, told in (("absent.json", "is not there"), ("broken.json", "not valid JSON")):
        words = command(bundles, {"cnnres": tmp_path / name}, "cnnres", tmp_path / "out")
        done = strokeseg(*words)
        assert done.code == 1
        assert done.err.splitlines()[-1].startswith(str(tmp_path / name))
        assert told in done.err
        assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--recipe", "papre.json"], "papre.json is not there"),
        (["--set", "max_epochs"], "write KEY=VALUE"),
        (["--weights", "first"], "first"),
        (["--scoring", "ours"], "ours"),
    ],
)
def test_wrong_commands(
    bundles: Folders, data: dict[str, Path], tmp_path: Path, words: list[str], told: str
) -> None:
    done = strokeseg(*command(bundles, data, "xnet", tmp_path / "out", *words))
    assert done.code == 2
    assert told in " ".join(done.err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()

"""``--tracking mlflow`` leaves the runs that somebody would look for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.bundles.configs import QUICK, config
from tests.commands import bundle

mlflow = pytest.importorskip("mlflow")


@pytest.mark.long  # MLflow takes half a minute to start
def test_a_training_is_a_run(bundles: Mapping[str, Path], trees: Mapping[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "run"
    done = bundle(
        "training", config_file=config(bundles["cnnres"], "train"), dataset_dir=trees["cnnres"],
        output_dir=output, max_epochs=2, tracking="mlflow", run_name="first try", experiment_name="stroke",
        **QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err
    client = mlflow.MlflowClient(f"sqlite:///{output / 'mlruns.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'stroke'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "first try"
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "val_dice")) == 2
    assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 4
    assert 0 <= run.data.metrics["val_dice"] <= 1
    # The settings of the run, so that it can be repeated.
    (saved,) = output.glob("config_*.json")
    assert str(trees["cnnres"]) in saved.read_text()

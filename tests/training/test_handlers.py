"""Checkpoints and progress on a trainer of one weight, whose validation follows a script."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events, State
from monai.data import Dataset
from monai.engines import Trainer
from monai.transforms import Compose, RandShiftIntensity
from torch import nn

from shared_nets.errors import OutputError, UsageError, WeightsError
from shared_nets.training import Checkpoints, EarlyStop, Progress, SeededEpochs, checkpoint_folder
from tests.traps import Trap


class Training:
    """Each epoch adds two to the only weight; ``scores`` are the validation's by epoch, None without one."""

    def __init__(self, epochs: int, scores: Sequence[float | None] | None = None) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.5)
        self.epochs = epochs
        self.trainer = Engine(self.step)
        self.validator: Engine | None = None
        if scores is not None:
            self.validator = Engine(lambda engine, batch: None)
            # What MONAI's engines keep, see monai.engines.Workflow.
            self.validator.state = State(metrics={}, best_metric=-1, best_metric_epoch=-1)
            self.validator.state.key_metric_name = "val_dice"
            self.scores = scores
            self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.validate)

    def step(self, engine: Engine, batch: object) -> dict[str, float]:
        with torch.no_grad():
            self.network.weight += 1
        return {"loss": 0.25}

    def validate(self, engine: Engine) -> None:
        assert self.validator is not None
        state, score = self.validator.state, self.scores[engine.state.epoch - 1]
        if score is None:
            return
        state.metrics = {"val_dice": score}
        if state.best_metric_epoch == -1 or score > state.best_metric:
            state.best_metric, state.best_metric_epoch = score, engine.state.epoch

    def run(
        self, folder: Path, resume: bool = False, more: Mapping[str, Any] | None = None, batches: int = 2
    ) -> None:
        state = {"optimizer": self.optimizer, **(more or {})}
        Checkpoints(str(folder), self.network, state, self.validator, resume).attach(self.trainer)
        self.trainer.run(range(batches), max_epochs=self.epochs)


def weight(path: Path) -> float:
    """The only weight of ``model.pt``; two batches an epoch add two."""
    return torch.load(path, weights_only=True)["weight"].item()


class TestCheckpoints:
    def test_the_best_epoch_is_kept(self, tmp_path: Path) -> None:
        Training(4, scores=[0.1, 0.7, 0.7, 0.5]).run(tmp_path)
        assert weight(tmp_path / "model.pt") == 4  # after epoch 2; an equal score later is no better
        last = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert last["network"]["weight"].item() == 8
        assert last["trainer"] == {"epoch": 4, "iteration": 8}
        assert {p.name for p in tmp_path.iterdir()} == {"model.pt", "last.ckpt"}

    def test_the_last_epoch_is_kept_without_validation(self, tmp_path: Path) -> None:
        Training(3).run(tmp_path)
        assert weight(tmp_path / "model.pt") == 6

    def test_the_last_epoch_is_kept_until_one_is_validated(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Which may be never: ``val_interval`` may exceed ``max_epochs``."""
        training = Training(2, scores=[None, None])
        Progress(str(tmp_path), training.validator).attach(training.trainer)
        training.run(tmp_path)
        assert weight(tmp_path / "model.pt") == 4
        assert capsys.readouterr().out.startswith("Trained for 2 epochs, without validation.\nWeights: ")
        Training(5, scores=[None, None, 0.0, None, None]).run(tmp_path, resume=True)
        assert weight(tmp_path / "model.pt") == 6

    def test_resumed_from_where_it_was(self, tmp_path: Path) -> None:
        Training(2, scores=[0.1, 0.7]).run(tmp_path)
        again = Training(4, scores=[0, 0, 0.6, 0.8])
        again.run(tmp_path, resume=True)
        assert again.network.weight.item() == 8  # two epochs more, not four
        assert again.trainer.state.epoch == 4
        assert weight(tmp_path / "model.pt") == 8

    def test_a_worse_epoch_after_resuming_does_not_replace_the_best(self, tmp_path: Path) -> None:
        Training(2, scores=[0.1, 0.7]).run(tmp_path)
        again = Training(3, scores=[0, 0, 0.6])
        again.run(tmp_path, resume=True)
        assert weight(tmp_path / "model.pt") == 4
        assert again.validator is not None
        assert again.validator.state.best_metric_epoch == 2

    def test_another_number_of_batches_an_epoch(self, tmp_path: Path) -> None:
        Training(2).run(tmp_path)
        with pytest.raises(
            UsageError, match="has 2 batches an epoch, not 3: resume it with the same settings"
        ):
            Training(4).run(tmp_path, resume=True, batches=3)

    def test_weights_that_are_no_numbers_replace_nothing(self, tmp_path: Path) -> None:
        """Not even between two validations, when model.pt stays as it is."""
        Training(1, scores=[0.5]).run(tmp_path)
        whole = (tmp_path / "last.ckpt").read_bytes()
        again = Training(2, scores=[0.5, None])
        again.trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda: nn.init.constant_(again.network.weight, float("nan"))
        )
        with pytest.raises(
            WeightsError, match=r"NaN or infinite values in weight; .*last\.ckpt holds the epoch"
        ):
            again.run(tmp_path, resume=True)
        assert (tmp_path / "last.ckpt").read_bytes() == whole

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"last\.ckpt: there is no run to resume"):
            Training(2).run(tmp_path, resume=True)

    @pytest.mark.parametrize("epochs", [1, 2])
    def test_nothing_left_to_do(self, tmp_path: Path, epochs: int) -> None:
        Training(2).run(tmp_path)
        with pytest.raises(UsageError, match=r"already has 2 epochs; raise max_epochs"):
            Training(epochs).run(tmp_path, resume=True)
        assert weight(tmp_path / "model.pt") == 4

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"lr": 0.5}, r"has the learning_rate 1\.0, not 0\.5: resume it with that"),
            ({"weight_decay": 0.1}, r"has the weight_decay 0\.0, not 0\.1"),
            ({"steps": 8}, "has the schedule's number of batches 4, not 8"),
            ({"plateau": True}, "has the schedule ConstantLR, not ReduceLROnPlateau"),
        ],
    )
    def test_what_a_checkpoint_brings_back_cannot_be_changed(
        self, tmp_path: Path, change: dict[str, float], told: str
    ) -> None:
        def state(
            lr: float = 1.0, weight_decay: float = 0.0, steps: int = 4, plateau: bool = False
        ) -> dict[str, Any]:
            optimizer = torch.optim.Adam(nn.Linear(1, 1).parameters(), lr=lr, weight_decay=weight_decay)
            schedules = torch.optim.lr_scheduler
            schedule: Any = schedules.ConstantLR(optimizer)
            if plateau:
                schedule = schedules.ReduceLROnPlateau(optimizer)
            elif "steps" in change:
                schedule = schedules.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": schedule}

        Training(1).run(tmp_path, more=state())
        Training(2).run(tmp_path, resume=True, more=state())
        with pytest.raises(UsageError, match=told):
            Training(3).run(tmp_path, resume=True, more=state(**change))

    @pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
    def test_unusable_state(self, tmp_path: Path, content: bytes | None) -> None:
        Training(1).run(tmp_path)
        if content is None:  # another network's
            torch.save(torch.load(tmp_path / "last.ckpt") | {"network": {}}, tmp_path / "last.ckpt")
        else:
            (tmp_path / "last.ckpt").write_bytes(content)
        with pytest.raises(WeightsError, match=r"last\.ckpt: .*cannot be resumed from"):
            Training(2).run(tmp_path, resume=True)

    def test_code_in_the_state_is_not_run(self, tmp_path: Path) -> None:
        Training(1).run(tmp_path)
        content = torch.load(tmp_path / "last.ckpt") | {"trainer": Trap(tmp_path / "sprung")}
        torch.save(content, tmp_path / "last.ckpt")
        with pytest.raises(WeightsError):
            Training(2).run(tmp_path, resume=True)
        assert not (tmp_path / "sprung").exists()

    def test_diverged_weights_are_not_kept(self, tmp_path: Path) -> None:
        Training(1).run(tmp_path)
        broken = Training(1)
        nn.init.constant_(broken.network.weight, float("nan"))
        with pytest.raises(WeightsError, match="NaN"):
            broken.run(tmp_path)
        assert weight(tmp_path / "model.pt") == 2

    def test_no_place_to_write(self, tmp_path: Path) -> None:
        (tmp_path / "models").write_text("a file")
        with pytest.raises(OutputError, match="models"):
            Training(1).run(tmp_path / "models")


class TestSeededEpochs:
    def draws(
        self, epochs: int, rank: int, monkeypatch: pytest.MonkeyPatch, seed: int = 5
    ) -> list[tuple[float, float]]:
        """What the augmentation of a run of one batch an epoch draws, and what dropout would."""
        monkeypatch.setattr(idist, "get_rank", lambda: rank)
        dataset = Dataset([torch.zeros(1, 1)], Compose([RandShiftIntensity(1.0, prob=1.0)]))
        drawn = []

        def step(engine: Engine, batch: object) -> None:
            drawn.append((float(dataset[0]), torch.rand(1).item()))

        trainer = Engine(step)
        SeededEpochs(dataset, seed=seed).attach(trainer)
        trainer.run([0], max_epochs=epochs)
        return drawn

    def test_epochs_and_processes_draw_differently_and_the_same_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = [self.draws(3, rank, monkeypatch) for rank in (0, 1, 2)]
        for drawn in zip(*(epoch for run in runs for epoch in run), strict=True):
            assert len(set(drawn)) == 9
        assert self.draws(3, 1, monkeypatch) == runs[1]

    def test_neighbouring_seeds_draw_differently(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Means over seeds are of independent runs: seed 6's first epoch is not seed 5's second."""
        one, other = (set(self.draws(4, 0, monkeypatch, seed)) for seed in (5, 6))
        assert not one & other


class TestProgress:
    def test_bar_and_summary(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        training = Training(2, scores=[0.5, 0.25])
        Progress(str(tmp_path), training.validator).attach(training.trainer)
        training.run(tmp_path)
        said = capsys.readouterr()
        assert "epoch 2/2, loss 0.2500" in said.err
        assert "4/4" in said.err
        assert "validation Dice 0.250, best 0.500" in said.err
        assert said.out.splitlines() == [
            "Trained for 2 epochs; best validation Dice 0.500 in epoch 1.",
            f"Weights: {tmp_path.resolve() / 'model.pt'}",
        ]

    def test_without_validation(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        training = Training(1)
        Progress(str(tmp_path)).attach(training.trainer)
        training.run(tmp_path)
        assert capsys.readouterr().out.startswith("Trained for 1 epoch, without validation.\n")

    def test_stopped_early_it_is_told_once(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        training = Training(9)
        Progress(str(tmp_path)).attach(training.trainer)
        training.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
        training.run(tmp_path)
        assert capsys.readouterr().out.startswith("Trained for 2 epochs, without validation.\nWeights: ")


class TestCheckpointFolder:
    def test_never_the_bundle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MONAI_LABEL_APP_DIR", raising=False)
        assert checkpoint_folder("bundle", "run") == str(Path("run/models"))

    def test_the_bundle_in_monai_label(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MONAI_LABEL_APP_DIR", "/apps/radiology")
        assert checkpoint_folder("bundle", "run") == str(Path("bundle/models"))
        monkeypatch.delenv("MONAI_LABEL_APP_DIR")
        monkeypatch.setitem(sys.modules, "monailabel", sys)
        assert checkpoint_folder("bundle", "run") == str(Path("bundle/models"))


class TestEarlyStop:
    def engines(self, scores: list[float], patience: int) -> tuple[Trainer, Engine, EarlyStop]:
        """A trainer of batches that do nothing, a validator after each epoch, and the rule between them."""
        trainer = Trainer(torch.device("cpu"), 20, [0], iteration_update=lambda engine, batch: {})
        validator = Engine(lambda engine, batch: None)
        left = iter(scores)
        validator.add_event_handler(
            Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(dice=next(left))
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validator.run([0]))
        stop = EarlyStop(patience=patience, score_function=lambda engine: engine.state.metrics["dice"])
        stop.set_trainer(trainer)
        stop.attach(validator)
        return trainer, validator, stop

    def test_training_stops_when_validation_stands_still(self) -> None:
        trainer, _, stop = self.engines([0.1, 0.5, 0.4, 0.3, 0.9], patience=2)
        trainer.run()
        assert trainer.state.epoch == 4  # two validations after the best
        assert stop.state_dict() == {"counter": 2, "best_score": 0.5}

    def test_a_resumed_rule_stops_when_the_unbroken_one_would(self) -> None:
        trainer, _, stop = self.engines([0.4, 0.3], patience=3)
        stop.load_state_dict({"counter": 1, "best_score": 0.5})
        trainer.run()
        assert trainer.state.epoch == 2

    @pytest.mark.parametrize(("patience", "epochs"), [(2, 4), (3, 5)])
    def test_a_run_that_had_stopped_goes_on_with_more_patience_only(
        self, tmp_path: Path, patience: int, epochs: int
    ) -> None:
        """Resumed in the trainer's STARTED, as `Checkpoints` does it."""
        scores, network = [0.1, 0.5, 0.4, 0.3, 0.2, 0.1], nn.Linear(1, 1)
        trainer, _, stop = self.engines(scores, patience=2)
        Checkpoints(str(tmp_path), network, {"early_stop": stop}).attach(trainer)
        trainer.run()
        assert trainer.state.epoch == 4
        again, _, stop = self.engines(scores[4:], patience)
        Checkpoints(str(tmp_path), network, {"early_stop": stop}, resume=True).attach(again)
        completed = []
        again.add_event_handler(Events.COMPLETED, lambda engine: completed.append(engine.state.epoch))
        again.run()
        assert completed == [epochs]

    def test_a_validator_alone_has_nothing_to_stop(self) -> None:
        validator = Engine(lambda engine, batch: None)
        stop = EarlyStop(patience=1, score_function=lambda engine: 1 / 0)
        stop.attach(validator)
        validator.run([0])
        assert validator.state.epoch == 1
        stop.load_state_dict({"counter": 1, "best_score": 0.5})
        assert stop.state_dict() == {}

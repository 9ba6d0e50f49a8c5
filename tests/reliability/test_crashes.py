"""Runs that are killed at random moments, asked to end, or started twice: what is left, how they go on."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import Done, Running
from tests.reliability.conftest import Unbroken
from tests.reliability.small import (
    EPOCHS,
    SCANS,
    check_same_experiment,
    check_same_results,
    check_whole,
    experiment,
    predict,
    same,
    state_of,
    told,
    train,
)

Happened = Callable[[object], None]
draw = random.Random()


def kill(running: Running, seconds: float) -> None:
    """``kill -9`` after some seconds."""
    time.sleep(seconds)
    running.signal(signal.SIGKILL)
    running.wait()


def epochs_in(output: Path) -> int:
    return state_of(output)["trainer"]["epoch"] if (output / "models" / "last.ckpt").exists() else 0


def broken_training(tree: Path, output: Path, whole: Unbroken, moments: Iterable[float]) -> list[int]:
    """
    Train, killed at each of the moments and resumed, then to the end; the epochs done at each kill.

    Moments are shares of the time that an unbroken training takes.
    """
    epochs = [0]
    for moment in moments:
        running = train(tree, output, resume=epochs[-1] > 0)
        kill(running, moment * whole.seconds)
        check_whole(output)
        epochs.append(epochs_in(output))
        assert epochs[-1] >= epochs[-2]
        if epochs[-1] == EPOCHS:
            break
    if epochs[-1] < EPOCHS:
        done = train(tree, output, resume=epochs[-1] > 0).wait()
        assert done.code == 0, done.err
    assert same(state_of(output), state_of(whole.output))
    return epochs[1:]


def broken_prediction(tree: Path, output: Path, whole: Unbroken, moments: Iterable[float]) -> list[int]:
    """The same with predictions; the masks there at each kill."""
    masks = []
    for moment in moments:
        kill(predict(tree, output), moment * whole.seconds)
        check_whole(output)
        masks.append(len(list(output.glob("*_mask.nii.gz"))))
    done = predict(tree, output).wait()
    assert done.code == 0, done.err
    check_same_results(output, whole.output)
    return masks


def broken_experiment(tree: Path, output: Path, whole: Unbroken, moments: Iterable[float]) -> list[str]:
    """The same with experiments; how far each was at its kill."""
    stages = []
    for moment in moments:
        kill(experiment(tree, output), moment * whole.seconds)
        check_whole(output)
        trained, evaluated = (
            len(list(output.glob(f"fold*/{name}"))) for name in ("trained.json", "evaluation/summary.csv")
        )
        stages.append(f"{trained}+{evaluated}")
    done = experiment(tree, output).wait()
    assert done.code == 0, done.err
    check_same_experiment(output, whole.output)
    return stages


RESUMED = "Files are absent or whole; resumed, at most one epoch is repeated, and the weights end the same."
SAME = "Files are absent or whole; run again, the results are those of an unbroken run to the byte."


@pytest.mark.reliability("Crash safety", "kill -9 at two random moments of a training", RESUMED)
def test_a_killed_training_ends_as_if_unbroken(
    tree: Path, trained: Unbroken, tmp_path: Path, happened: Happened
) -> None:
    moments = [draw.uniform(0.4, 0.9), draw.uniform(0.3, 0.6)]
    epochs = " and ".join(map(str, broken_training(tree, tmp_path, trained, moments)))
    happened(f"Killed after {epochs} of {EPOCHS} epochs; the final state was the same.")


@pytest.mark.reliability("Crash safety", "kill -9 at two random moments of a prediction of eight scans", SAME)
def test_a_killed_prediction_ends_as_if_unbroken(
    tree: Path, segmented: Unbroken, tmp_path: Path, happened: Happened
) -> None:
    moments = [draw.uniform(0.3, 0.95) for _ in range(2)]
    masks = " and ".join(map(str, broken_prediction(tree, tmp_path, segmented, moments)))
    happened(f"Killed with {masks} of {SCANS} masks written; the rest as promised.")


@pytest.mark.reliability("Crash safety", "kill -9 at a random moment of an experiment of two folds", SAME)
def test_a_killed_experiment_ends_as_if_unbroken(
    tree: Path, crossvalidated: Unbroken, tmp_path: Path, happened: Happened
) -> None:
    (stage,) = broken_experiment(tree, tmp_path, crossvalidated, [draw.uniform(0.3, 0.95)])
    happened(f"Killed with {stage} of 2+2 folds trained and evaluated; the rest as promised.")


ENDS = "It ends within seconds with one sentence, and what was finished is whole."


@pytest.mark.reliability("Crash safety", "Ctrl-C or SIGTERM in a training", ENDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_asked_to_end(
    tree: Path, trained: Unbroken, tmp_path: Path, number: int, happened: Happened
) -> None:
    running = train(tree, tmp_path)
    wait_for(tmp_path / "models" / "last.ckpt", running)
    done = ended_by(running, number)
    assert "last.ckpt holds the run up to epoch" in done.err
    happened(told(done))
    check_whole(tmp_path)
    done = train(tree, tmp_path, resume=True).wait()
    assert done.code == 0, done.err
    assert same(state_of(tmp_path), state_of(trained.output))


@pytest.mark.reliability("Crash safety", "Ctrl-C or SIGTERM in a prediction", ENDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_prediction_asked_to_end(tree: Path, tmp_path: Path, number: int, happened: Happened) -> None:
    running = predict(tree, tmp_path)
    wait_for(tmp_path / "lesions.csv", running)
    done = ended_by(running, number)
    left = SCANS - len(pd.read_csv(tmp_path / "lesions.csv"))
    by = "interrupted" if number == signal.SIGINT else "terminated"
    assert told(done) == f"Stopped, {left} scan{'' if left == 1 else 's'} left: {by}; run again to continue."
    happened(told(done))
    check_whole(tmp_path)
    assert len(list(tmp_path.glob("*_mask.nii.gz"))) < SCANS


def wait_for(path: Path, running: Running) -> None:
    """Until the file is there, or the run has ended."""
    while not path.exists() and running.process.is_alive():
        time.sleep(0.02)


def ended_by(running: Running, number: int) -> Done:
    running.signal(number)
    begin = time.monotonic()
    done = running.wait()
    assert time.monotonic() - begin < 60
    assert done.code != 0
    assert "Traceback" not in done.err
    return done


ALONE = "The second is refused in one sentence, exit code 1; the first ends as if it had been alone."


@pytest.mark.reliability("Crash safety", "Two trainings in one output folder", ALONE)
def test_a_second_training_is_refused(
    tree: Path, trained: Unbroken, tmp_path: Path, happened: Happened
) -> None:
    first = train(tree, tmp_path)
    wait_for(tmp_path / "run.json", first)
    begun = (tmp_path / "run.json").read_bytes()
    second = while_stopped(first, lambda: train(tree, tmp_path, seed=1).wait())
    assert refused(second, tmp_path)
    happened(told(second))
    assert (tmp_path / "run.json").read_bytes() == begun
    done = first.wait()
    assert done.code == 0, done.err
    assert same(state_of(tmp_path), state_of(trained.output))


@pytest.mark.reliability("Crash safety", "Two predictions into one output folder", ALONE)
def test_a_second_prediction_is_refused(
    tree: Path, segmented: Unbroken, tmp_path: Path, happened: Happened
) -> None:
    first = predict(tree, tmp_path)
    wait_for(tmp_path / "manifest.json", first)
    second = while_stopped(first, lambda: predict(tree, tmp_path).wait())
    assert refused(second, tmp_path)
    happened(told(second).partition(": ")[2])
    done = first.wait()
    assert done.code == 0, done.err
    check_same_results(tmp_path, segmented.output)


def while_stopped(running: Running, run: Callable[[], Done]) -> Done:
    """Run something while another run stands still, so that it cannot end before."""
    running.signal(signal.SIGSTOP)
    try:
        return run()
    finally:
        running.signal(signal.SIGCONT)


def refused(done: Done, output: Path) -> bool:
    return done.code == 1 and told(done).endswith(
        f"{output} is being written by another run: wait, or choose another output folder."
    )


def ten(what: str, promise: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A third of the longer run of thirty kills."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        row = pytest.mark.reliability("Longer runs", f"kill -9 at ten random moments of {what}", promise)
        marked: Callable[..., None] = pytest.mark.long(pytest.mark.timeout(7200)(row(test)))
        return marked

    return mark


@ten("trainings", RESUMED)
def test_ten_kills_of_trainings(tree: Path, trained: Unbroken, tmp_path: Path, happened: Happened) -> None:
    epochs: list[int] = []
    while len(epochs) < 10:
        moments = [draw.uniform(0.2, 0.95) for _ in range(min(4, 10 - len(epochs)))]
        epochs += broken_training(tree, tmp_path / f"{len(epochs)}", trained, moments)
    happened(
        f"Killed after {', '.join(map(str, epochs))} of {EPOCHS} epochs; the final states were the same."
    )


@ten("predictions", SAME)
def test_ten_kills_of_predictions(
    tree: Path, segmented: Unbroken, tmp_path: Path, happened: Happened
) -> None:
    masks: list[int] = []
    for turn in range(2):
        moments = [draw.uniform(0.2, 0.99) for _ in range(5)]
        masks += broken_prediction(tree, tmp_path / f"{turn}", segmented, moments)
    happened(f"Killed with {', '.join(map(str, masks))} of {SCANS} masks written; the rest as promised.")


@ten("experiments", SAME)
def test_ten_kills_of_experiments(
    tree: Path, crossvalidated: Unbroken, tmp_path: Path, happened: Happened
) -> None:
    stages: list[str] = []
    for turn in range(2):
        moments = [draw.uniform(0.2, 0.99) for _ in range(5)]
        stages += broken_experiment(tree, tmp_path / f"{turn}", crossvalidated, moments)
    happened(f"Killed with {', '.join(stages)} of 2+2 folds trained and evaluated; the rest as promised.")

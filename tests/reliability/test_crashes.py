"""Runs that are killed at random moments, asked to end, or started twice: what is left, how they go on."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import Done, Running, wait_for
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


def kill(running: Running, reached: Callable[[], int], goal: int) -> None:
    """``kill -9`` at a random moment of the half second after so much is reached, or of the start."""
    wait_for(lambda: reached() >= goal, running.process.is_alive)
    time.sleep(random.uniform(0, 0.5 if goal else 3))
    running.signal(signal.SIGKILL)
    running.wait()


def epochs_in(output: Path) -> int:
    """Epochs that a training has kept."""
    return state_of(output)["trainer"]["epoch"] if (output / "models" / "last.ckpt").exists() else 0


def masks_in(output: Path) -> int:
    return len(list(output.glob("*_mask.nii.gz")))


STAGES = (
    *("config.json", "run.json", "models/last.ckpt", "trained.json"),
    *("evaluation/metrics.csv", "evaluation/summary.csv"),
)


def stages_in(output: Path) -> int:
    """Steps of an experiment's two folds that have left their file."""
    return sum((output / f"fold{fold}" / name).exists() for fold in (0, 1) for name in STAGES)


def broken_training(tree: Path, output: Path, whole: Path, times: int) -> list[int]:
    """Train, killed so many times and resumed, then to the end; the epochs done at each kill."""
    epochs = []
    for goal in sorted(random.choices(range(EPOCHS), k=times)):
        kept = epochs_in(output)
        kill(train(tree, output, resume=kept > 0), partial(epochs_in, output), goal)
        check_whole(output)
        epochs.append(epochs_in(output))
        assert epochs[-1] >= kept
        if epochs[-1] == EPOCHS:  # it was done before the kill came
            break
    else:
        done = train(tree, output, resume=epochs[-1] > 0).wait()
        assert done.code == 0, done.err
    assert same(state_of(output), state_of(whole))
    return epochs


def broken(
    run: Callable[[], Running], output: Path, done_in: Callable[[Path], int], whole: int, times: int
) -> list[int]:
    """
    Run, killed so many times and started again, then to the end.

    Args:
        run: starts it; it goes on where it was.
        output: its folder.
        done_in: the steps that have left their file there.
        whole: how many there are.
        times: how often it is killed.

    Returns:
        The steps done at each kill.
    """
    steps = []
    for goal in sorted(random.choices(range(whole), k=times)):
        kill(run(), partial(done_in, output), goal)
        check_whole(output)
        steps.append(done_in(output))
    done = run().wait()
    assert done.code == 0, done.err
    return steps


def broken_prediction(tree: Path, output: Path, whole: Path, times: int) -> list[int]:
    """A prediction, killed; the masks there at each kill."""
    masks = broken(partial(predict, tree, output), output, masks_in, SCANS, times)
    check_same_results(output, whole)
    return masks


def broken_experiment(tree: Path, output: Path, whole: Path, times: int) -> list[int]:
    """An experiment, killed; the steps done at each kill."""
    stages = broken(partial(experiment, tree, output), output, stages_in, 2 * len(STAGES), times)
    check_same_experiment(output, whole)
    return stages


RESUMED = "Files are absent or whole; resumed, at most one epoch is repeated, and the weights end the same."
SAME = "Files are absent or whole; run again, the results are those of an unbroken run to the byte."


@pytest.mark.reliability("Crash safety", "kill -9 at two random moments of a training", RESUMED)
def test_a_killed_training_ends_as_if_unbroken(
    tree: Path, trained: Path, tmp_path: Path, happened: Happened
) -> None:
    happened(told_of_kills(broken_training(tree, tmp_path, trained, 2), EPOCHS, "epochs"))


@pytest.mark.reliability("Crash safety", "kill -9 at two random moments of a prediction of eight scans", SAME)
def test_a_killed_prediction_ends_as_if_unbroken(
    tree: Path, segmented: Path, tmp_path: Path, happened: Happened
) -> None:
    happened(told_of_kills(broken_prediction(tree, tmp_path, segmented, 2), SCANS, "masks"))


@pytest.mark.reliability("Crash safety", "kill -9 at a random moment of an experiment of two folds", SAME)
def test_a_killed_experiment_ends_as_if_unbroken(
    tree: Path, crossvalidated: Path, tmp_path: Path, happened: Happened
) -> None:
    steps = broken_experiment(tree, tmp_path, crossvalidated, 1)
    happened(told_of_kills(steps, 2 * len(STAGES), "steps"))


def told_of_kills(done: list[int], whole: int, what: str) -> str:
    return f"Killed with {', '.join(map(str, done))} of {whole} {what} done; the end was the same."


ENDS = "It ends within seconds with one sentence, and what was finished is whole."


@pytest.mark.reliability("Crash safety", "Ctrl-C or SIGTERM in a training", ENDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_asked_to_end(
    tree: Path, trained: Path, tmp_path: Path, number: int, happened: Happened
) -> None:
    running = train(tree, tmp_path)
    wait_for((tmp_path / "models" / "last.ckpt").exists, running.process.is_alive)
    done = ended_by(running, number)
    assert "last.ckpt holds the run up to epoch" in done.err
    happened(told(done))
    check_whole(tmp_path)
    done = train(tree, tmp_path, resume=True).wait()
    assert done.code == 0, done.err
    assert same(state_of(tmp_path), state_of(trained))


@pytest.mark.reliability("Crash safety", "Ctrl-C or SIGTERM in a prediction", ENDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_prediction_asked_to_end(tree: Path, tmp_path: Path, number: int, happened: Happened) -> None:
    running = predict(tree, tmp_path)
    wait_for((tmp_path / "lesions.csv").exists, running.process.is_alive)
    done = ended_by(running, number)
    left = SCANS - len(pd.read_csv(tmp_path / "lesions.csv"))
    by = "interrupted" if number == signal.SIGINT else "terminated"
    assert told(done) == f"Stopped, {left} scan{'' if left == 1 else 's'} left: {by}; run again to continue."
    happened(told(done))
    check_whole(tmp_path)
    assert len(list(tmp_path.glob("*_mask.nii.gz"))) < SCANS


@pytest.mark.reliability("Crash safety", "Ctrl-C or SIGTERM in an experiment", ENDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_experiment_asked_to_end(
    tree: Path, crossvalidated: Path, tmp_path: Path, number: int, happened: Happened
) -> None:
    running = experiment(tree, tmp_path)
    wait_for((tmp_path / "fold0" / "models" / "last.ckpt").exists, running.process.is_alive)
    done = ended_by(running, number)
    assert "run the same command again" in told(done) or "run again to continue" in told(done)
    happened(told(done))
    check_whole(tmp_path)
    assert stages_in(tmp_path) < 2 * len(STAGES)
    done = experiment(tree, tmp_path).wait()
    assert done.code == 0, done.err
    check_same_experiment(tmp_path, crossvalidated)


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
def test_a_second_training_is_refused(tree: Path, trained: Path, tmp_path: Path, happened: Happened) -> None:
    first = train(tree, tmp_path)
    wait_for((tmp_path / "run.json").exists, first.process.is_alive)
    begun = (tmp_path / "run.json").read_bytes()
    second = while_stopped(first, lambda: train(tree, tmp_path, seed=1).wait())
    assert refused(second, tmp_path)
    happened(told(second).replace(str(tmp_path), "out"))
    assert (tmp_path / "run.json").read_bytes() == begun
    done = first.wait()
    assert done.code == 0, done.err
    assert same(state_of(tmp_path), state_of(trained))


@pytest.mark.reliability("Crash safety", "Two predictions into one output folder", ALONE)
def test_a_second_prediction_is_refused(
    tree: Path, segmented: Path, tmp_path: Path, happened: Happened
) -> None:
    first = predict(tree, tmp_path)
    wait_for((tmp_path / "manifest.json").exists, first.process.is_alive)
    second = while_stopped(first, lambda: predict(tree, tmp_path).wait())
    assert refused(second, tmp_path)
    happened(told(second).replace(str(tmp_path), "out"))
    done = first.wait()
    assert done.code == 0, done.err
    check_same_results(tmp_path, segmented)


@pytest.mark.reliability("Crash safety", "Two experiments in one output folder", ALONE)
@pytest.mark.parametrize("moment", ["run.json", "evaluation/metrics.csv"], ids=["training", "evaluation"])
def test_a_second_experiment_is_refused(
    tree: Path, crossvalidated: Path, tmp_path: Path, moment: str, happened: Happened
) -> None:
    path, reached = tmp_path / "fold0" / moment, tmp_path / "reached"
    first = experiment(tree, tmp_path, before=partial(waiting_at, path, reached))
    wait_for(reached.exists, first.process.is_alive)
    second = experiment(tree, tmp_path).wait()
    reached.unlink()
    assert refused(second, path.parent)
    happened(told(second).replace(str(tmp_path), "out"))
    done = first.wait()
    assert done.code == 0, done.err
    check_same_experiment(tmp_path, crossvalidated)


def waiting_at(path: Path, reached: Path) -> None:
    """Let this process wait, once, before a file gets its name, while another is there, which it makes."""
    waited = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and Path(str(arguments[1])) == path and not waited:
            waited.append(path)
            reached.touch()
            while reached.exists():
                time.sleep(0.02)

    sys.addaudithook(watch)


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
def test_ten_kills_of_trainings(tree: Path, trained: Path, tmp_path: Path, happened: Happened) -> None:
    epochs: list[int] = []
    while len(epochs) < 10:
        output = tmp_path / f"{len(epochs)}"
        epochs += broken_training(tree, output, trained, min(5, 10 - len(epochs)))
    happened(told_of_kills(epochs, EPOCHS, "epochs"))


@ten("predictions", SAME)
def test_ten_kills_of_predictions(tree: Path, segmented: Path, tmp_path: Path, happened: Happened) -> None:
    masks = [
        number for turn in ("one", "two") for number in broken_prediction(tree, tmp_path / turn, segmented, 5)
    ]
    happened(told_of_kills(masks, SCANS, "masks"))


@ten("experiments", SAME)
def test_ten_kills_of_experiments(
    tree: Path, crossvalidated: Path, tmp_path: Path, happened: Happened
) -> None:
    steps = [
        number
        for turn in ("one", "two")
        for number in broken_experiment(tree, tmp_path / turn, crossvalidated, 5)
    ]
    happened(told_of_kills(steps, 2 * len(STAGES), "steps"))

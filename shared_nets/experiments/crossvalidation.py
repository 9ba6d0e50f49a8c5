"""A bundle's training and evaluation, fold by fold: stopped at any moment, it goes on where it was."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import ensure_tuple

from shared_nets.bundles import check_parts, plain_path, read_object
from shared_nets.data import read_folds
from shared_nets.data.cases import trained_and_validated
from shared_nets.data.datalist import relative_to
from shared_nets.data.formats import hash_scan
from shared_nets.data.names import Case, paths_of, subject_of
from shared_nets.data.splits import number_of_folds, tell_shared_subjects
from shared_nets.errors import ScanNotFoundError, UsageError, WeightsError, instead
from shared_nets.evaluation import read_cases
from shared_nets.files import held, sha256, write_json
from shared_nets.inference.cohort import SUMMARY
from shared_nets.training.handlers import LAST
from shared_nets.training.record import environment
from shared_nets.training.start import LEAST, check_training, start_from
from shared_nets.versions import check_version
from shared_nets.weights import CURRENT, intact_archive, save_weights

OWN = {"bundle_root", "dataset_dir", "fold", "output_dir", "ckpt_dir", "resume", "weights", "evaluate_on"}
"""Values that an experiment sets itself, beside those in its ``silent``."""

CONFIGS = ("train.json", "evaluate.json")
"""The bundle's configs that an experiment runs."""

READ_BY_MONAI = ("initialize", "run", "finalize")
"""What a workflow runs by itself, of whichever config."""

TOLD = {
    "data_sha256": "cases",
    "configs": " or ".join(CONFIGS),
    "pretrained_sha256": "weights to start from",
}
"""What settings of ``experiment.json`` are called in messages, where not by their key."""

TRAINED = "trained.json"
"""In a fold's folder: that its training has ended, and how long it was."""

PLACE = ("device", "workers", "cache_gb")
"""Settings of train.json that say where a training runs: an experiment may go on with others. With another
number of workers, or on another device, it draws and computes a little differently."""

START = {
    "_target_": "shared_nets.training.start_from",
    "pretrained": "@weights",
    "network": "$@network_def.to(@device)",
}
"""The network as a training begins with it: weights for other input channels are spread over its own."""


@dataclass(frozen=True)
class Experiment:
    """
    A cross-validation of a bundle.

    Attributes:
        bundle: the bundle's folder.
        data: a data list whose items have a ``fold``, or any data set of the bundle, then split in five.
        output: gets a folder a fold: ``models``, ``trained.json``, ``evaluation/metrics.csv``.
        recipes: config files laid over train.json, in order.
        settings: further values by their id in train.json.
        weights: what is evaluated: ``"best"`` in validation or of the ``"last"`` epoch. The best epoch is
            chosen on the very fold that is evaluated then, which flatters.
        evaluate_on: ``"validation"``, the fold held out, or ``"test"``: the data's labelled test cases.
        silent: further values that change nothing but what is said: ``quiet``, ``debug``.
    """

    bundle: Path
    data: Path
    output: Path
    recipes: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "last"
    evaluate_on: str = "validation"
    silent: Mapping[str, Any] = field(default_factory=dict)

    def run(self, folds: Sequence[int] | None = None) -> pd.DataFrame:
        """
        Train and evaluate every fold that is not finished.

        Args:
            folds: which; all by default.

        Returns:
            A row a case, as `metrics.csv`, with its ``fold``: of these folds, and of all others that are
            finished.

        Raises:
            UsageError: see `check`.
            StrokeSegError: if a fold cannot be trained.
            KeyboardInterrupt: if it is interrupted; its message tells how to go on.
        """
        folds = self.check(folds)
        for fold in folds:
            if not self.is_finished(fold):
                with telling_how_to_go_on(fold):
                    self.train(fold)
                    self.evaluate(fold)
        return self.rows(folds)

    def rows(self, folds: Sequence[int] | None = None) -> pd.DataFrame:
        """
        What `run` returns, of folds that it has evaluated.

        Args:
            folds: these, failed cases or not, beside all others that are finished; all by default.
        """
        every = self.folds()
        folds = every if folds is None else folds
        others = filter(self.is_finished, set(every) - set(folds))
        parts = [read_cases(self.table(fold)).assign(fold=fold) for fold in sorted({*folds, *others})]
        return pd.concat(parts, ignore_index=True)

    def folds(self) -> list[int]:
        """All folds: those that a data list names, or those that `find_cases` makes."""
        if named := read_folds(self.data):
            return named
        subjects = {subject_of(case) for case in trained_and_validated(self.cases_of(0))}
        return list(range(number_of_folds(len(subjects))))

    def fold_folder(self, fold: int) -> Path:
        """Where a fold's files are."""
        return self.output / f"fold{fold}"

    def evaluation_folder(self, fold: int, name: str = "evaluation") -> Path:
        """Where a fold's table is."""
        return self.fold_folder(fold) / f"{name}{self.suffix}"

    def table(self, fold: int, name: str = "evaluation") -> Path:
        """A fold's table, see `evaluation_folder`."""
        return self.evaluation_folder(fold, name) / "metrics.csv"

    def is_finished(self, fold: int, name: str = "evaluation") -> bool:
        """
        Whether a fold's cases, as they are now, have been evaluated: its table is of them, none failed, and
        the summary, written last, is there.
        """
        table = self.table(fold, name)
        try:
            rows = read_cases(table)
        except ScanNotFoundError:
            return False
        if not table.with_name(SUMMARY).is_file() or (rows["status"] != "ok").any():
            return False
        return sorted(rows["scan"]) == sorted(str(case["name"]) for case in self.evaluated(fold))

    def evaluated(self, fold: int) -> list[Case]:
        """The cases that a fold is evaluated on."""
        return self.cases_of(fold)(section=self.evaluate_on, labelled=True)

    def cases_of(self, fold: int) -> Callable[..., list[Case]]:
        """`find_cases` of the data, for a fold."""
        found: Callable[..., list[Case]] = self.workflow([], fold).parser.get_parsed_content("cases")
        return found

    @property
    def flatters(self) -> bool:
        """Whether the epoch was chosen on the very cases that are evaluated."""
        return self.weights == "best" and self.evaluate_on == "validation"

    @property
    def suffix(self) -> str:
        """The end of tables' names: those of the test cases stand beside those of the held-out ones."""
        return "" if self.evaluate_on == "validation" else f"_{self.evaluate_on}"

    def check(self, folds: Sequence[int] | None = None) -> Sequence[int]:
        """
        Refuse what cannot work before anything is written; then write ``experiment.json``.

        Args:
            folds: those that are to be run; all by default.

        Returns:
            These folds.

        Raises:
            UsageError: if the bundle lacks train.json or evaluate.json, train.json lacks a setting, or the
                output holds an experiment with other ones that has trained an epoch.
            StrokeSegError: if a fold has no cases to train on or to evaluate, or the network or the weights
                that it starts from cannot be used.
            OutputError: if another run, with other settings, is at work in the output.
        """
        self.check_settings()
        folds = self.folds() if folds is None else folds
        for fold in folds:
            training, evaluated = self.cases_of(fold)(section="training"), self.evaluated(fold)
            if not evaluated:
                raise UsageError(f"{self.data} leaves no case to evaluate in fold {fold}: add some.")
            if self.evaluate_on == "test":
                tell_shared_subjects(training, evaluated, "test")
        parser = self.workflow([], folds[0]).parser
        names = ("learning_rate", "weight_decay", "window", "cache_gb", *LEAST)
        check_training(
            "", True, **{name: parser.get_parsed_content(name) for name in names if name in parser}
        )
        start_from(*(parser.get_parsed_content(key) for key in ("pretrained", "network_def", "frozen")))
        pretrained = parser.get_parsed_content("pretrained")
        self.record(data_digest(self.data, parser.get_parsed_content("cases")), pretrained)
        return folds

    def check_settings(self) -> None:
        """
        Refuse what no workflow can be made of.

        Raises:
            UsageError: if the bundle is made for another version of the package, or lacks train.json or
                evaluate.json, a recipe cannot be read or sets what nothing reads, or train.json lacks a
                setting.
        """
        check_version(self.bundle)
        check_parts(self.bundle, "to train", (f"configs/{name}" for name in CONFIGS))
        own = map(self.config, (*CONFIGS, "inference.json"))
        check_recipes(self.recipes, [path for path in own if path.is_file()])
        known = ConfigParser(ConfigParser.load_config_files([self.train_config, *self.recipes]))
        for key in self.settings:
            if key in OWN or key in self.silent:
                raise UsageError(f"{key} is not for --set: it has an option of its own.")
            if key not in known:
                raise UsageError(f"--set {key}: train.json has no such value.")

    def record(self, data_sha256: str, pretrained: str | Path | None = None) -> None:
        """
        Write ``experiment.json``. One of other settings is replaced while no fold has an epoch: it did not
        get far.

        Args:
            data_sha256: see `data_digest`.
            pretrained: the weights that training starts from.

        Raises:
            UsageError: if a fold has been trained with other settings.
            OutputError: if another run, with other settings, is at work in the output, or nothing can be
                written there.
        """
        settings = {
            "bundle": self.bundle.name,
            "configs": {name: sha256(self.config(name)) for name in CONFIGS},
            "data": str(self.data.resolve()),
            "data_sha256": data_sha256,
            "recipes": [[path.name, sha256(path)] for path in self.recipes],
            "settings": dict(self.settings),
            "pretrained_sha256": sha256(pretrained) if pretrained else None,
            "weights": self.weights,
        }
        path = self.output / "experiment.json"
        if path.is_file():
            before, now = without_place(read_object(path)), without_place(settings)
            differ = [key for key in now if before.get(key) != now[key]]
            if not differ:
                return
            if any(any(self.output.glob(f"fold[0-9]*/{name}")) for name in (f"models/{LAST}", TRAINED)):
                what = [TOLD.get(key, key) for key in differ]
                raise UsageError(
                    f"{self.output} holds an experiment with other {' and '.join(what)}: choose another "
                    f"--output, or repeat its settings (experiment.json) to go on with it."
                )
            self.forget()
        write_json(path, {**settings, **environment()})

    def forget(self) -> None:
        """
        Let nothing be used again that was prepared, or evaluated before fine-tuning, by other settings.

        Raises:
            OutputError: if another run is at work there.
        """
        for folder in (*self.output.glob("fold[0-9]*"), *self.output.glob("fold[0-9]*/before*")):
            if not folder.is_dir():
                continue
            with held(folder):
                shutil.rmtree(folder / "cache", ignore_errors=True)
                (folder / SUMMARY).unlink(missing_ok=True)

    def train(self, fold: int) -> None:
        """Train one fold, from its last epoch on when it has one."""
        folder = self.fold_folder(fold)
        if (folder / TRAINED).is_file():
            return
        checkpoint = folder / "models" / LAST
        workflow = self.workflow([], fold, output_dir=plain_path(folder), resume=checkpoint.is_file())
        # What is trained, with all settings in place.
        write_json(folder / "config.json", workflow.parser.get())
        start = time.monotonic()
        epochs = read_last(checkpoint)["trainer"]["epoch"] if checkpoint.is_file() else 0
        if epochs < workflow.parser.get_parsed_content("max_epochs"):
            run(workflow)
        last = read_last(checkpoint)
        save_weights(last["network"], folder / "models" / "last.safetensors")
        trained = dict(last["trainer"]) | {
            "seconds_since_start_or_resume": round(time.monotonic() - start, 1),
            "resumed_after_epoch": epochs,
            "slices": last["trainer"]["epoch"] * slices_of_an_epoch(workflow.parser),
        }
        shutil.rmtree(folder / "cache", ignore_errors=True)
        write_json(folder / TRAINED, trained)

    def evaluate(self, fold: int, weights: Path | None = None, name: str = "evaluation") -> Path:
        """
        Evaluate weights on a fold's held-out cases, or the test cases, unless that is done; a case that fails
        is a row of the table.

        Args:
            fold: which.
            weights: what its training starts from; by default what the training left.
            name: of the folder for the table, see `evaluation_folder`.

        Returns:
            The table.
        """
        table = self.table(fold, name)
        if self.is_finished(fold, name):
            return table
        kept = CURRENT if self.weights == "best" else "models/last.safetensors"
        trained = self.fold_folder(fold) / kept
        workflow = self.workflow(
            ["evaluate.json"],
            fold,
            output_dir=plain_path(table.parent),
            weights=plain_path(weights or trained),
            evaluate_on=self.evaluate_on,
            **({"network": START} if weights else {}),
        )
        try:
            run(workflow)
        except SystemExit:  # failed cases have been told, and are rows
            if not table.with_name(SUMMARY).is_file():  # stopped on the way, or nothing but failed cases
                raise
        return table

    @property
    def train_config(self) -> Path:
        """The bundle's train.json."""
        return self.config("train.json")

    def config(self, name: str) -> Path:
        """One of the bundle's configs."""
        return self.bundle / "configs" / name

    def workflow(self, more: Sequence[str], fold: int, **settings: Any) -> ConfigWorkflow:
        """The bundle's workflow for one fold: train.json, the recipes, and more of the bundle's configs."""
        logging.getLogger("monai.bundle.workflows").addFilter(_is_of_use)
        files = [self.train_config, *self.recipes, *map(self.config, more)]
        return ConfigWorkflow(
            config_file=[str(file) for file in files],
            workflow_type="train",
            bundle_root=plain_path(self.bundle),
            dataset_dir=plain_path(self.data),
            fold=fold,
            **settings,
            **self.settings,
            **self.silent,
        )


@contextmanager
def telling_how_to_go_on(fold: int) -> Iterator[None]:
    """
    Inside, an interruption tells to run the same command again, not the training's own options.

    Args:
        fold: what is trained or evaluated.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"Interrupted in fold {fold}; run the same command again to go on with it."
        ) from error


def _is_of_use(record: logging.LogRecord) -> bool:
    """Not MONAI's remark that a recipe lies elsewhere than train.json, which is what recipes are for."""
    return not record.getMessage().startswith("Not all config files are in")


def data_digest(data: Path, cases: Callable[..., list[Case]]) -> str:
    """
    Args:
        data: a data list, or a folder.
        cases: `find_cases` of it, for any fold.

    Returns:
        SHA-256 of the cases that train and validate: their names and paths, their masks, their images' sizes.
    """
    root = data.parent if data.is_file() else data
    found = []
    for case in trained_and_validated(cases):
        # One that is missing fails when it is loaded. A DICOM series is a folder.
        images = [_bytes_of(Path(path)) for path in paths_of(case)]
        masks = [
            hash_scan(Path(path)) for path in ensure_tuple(case.get("label") or ()) if os.path.exists(path)
        ]
        found.append(relative_to(case, root) | {"bytes": images, "masks": masks})
    found.sort(key=itemgetter("name"))
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _bytes_of(path: Path) -> int:
    """Size of a scan, a file or a folder's files; 0 of one that is missing."""
    parts = [part for part in path.iterdir() if part.is_file()] if path.is_dir() else [path]
    return sum(part.stat().st_size for part in parts if part.exists())


def without_place(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Settings of an experiment without those that say where it runs.

    Args:
        settings: those of ``experiment.json``.
    """
    own = {key: value for key, value in settings.get("settings", {}).items() if key not in PLACE}
    return {**settings, "settings": own, "data": None}


def read_recipe(recipe: Path) -> dict[str, Any]:
    """
    A config to lay over train.json.

    Args:
        recipe: JSON or YAML.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        content = ConfigParser.load_config_file(recipe)
        if not isinstance(content, dict):
            raise ValueError("no object in braces")
    except Exception as error:  # whatever the readers of JSON and YAML find wrong
        raise UsageError(f"{recipe} cannot be read as a config ({error}): correct it.") from error
    return content


def check_recipes(recipes: Sequence[Path], configs: Sequence[Path]) -> None:
    """
    Refuse recipes that set what nothing reads.

    Args:
        recipes: see `read_recipe`.
        configs: the bundle's own, of any of which a recipe may hold settings: train.json first.

    Raises:
        UsageError: naming what is wrong.
    """
    contents = {recipe: read_recipe(recipe) for recipe in recipes}
    known = {key for path in configs for key in read_object(path)} | {*READ_BY_MONAI}
    read = {*re.findall(r"[@%](\w+)", json.dumps(list(contents.values())))}
    for recipe, content in contents.items():
        for key in content:
            first = re.split("#|::", key)[0].lstrip("+")
            if first not in known | read and not first.startswith("_"):
                raise UsageError(
                    f"{recipe}: {CONFIGS[0]} has no {first}, and no recipe reads it; {instead(first, known)}"
                )


def slices_of_an_epoch(parser: ConfigParser) -> int:
    """How many slices a config's training draws in an epoch."""
    loader, drawn = map(parser.get_parsed_content, ("train#dataloader", "slices_per_scan"))
    scans = len(loader) * loader.batch_size if loader.drop_last else len(loader.sampler)
    return int(scans * drawn)


def run(workflow: ConfigWorkflow) -> None:
    """A workflow from its beginning to its end."""
    # Engines and handlers hold each other: an earlier workflow's cases would stay beside this one's.
    gc.collect()
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def read_last(checkpoint: Path) -> dict[str, Any]:
    """
    A training's ``last.ckpt``.

    Raises:
        WeightsError: if it cannot be read, is damaged, or no such file.
    """
    try:
        data = checkpoint.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{checkpoint} cannot be read ({error.strerror}): see to it, and run the same command again."
        ) from error
    try:
        content: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        content["trainer"]["epoch"], content["network"]
    except Exception as error:
        if intact_archive(data) and not isinstance(error, (KeyError, TypeError)):
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            raise WeightsError(
                f"{checkpoint} is whole, but torch {torch.__version__} does not read it ({reason}): go on "
                f"with the version that it was trained with."
            ) from error
        raise WeightsError(
            f"{checkpoint} is damaged or incomplete: delete the fold's folder to train it anew."
        ) from error
    return content

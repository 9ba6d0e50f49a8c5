"""`strokeseg experiment`, `table` and `finetune`: the papers' protocols, and fine-tuning, on your data."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_nets.bundles import Model, bundle_folder, plain_path, recipe_files
from shared_nets.cli.options import Debug, told_as_a_wrong_command
from shared_nets.errors import UsageError, tell_errors_in_words
from shared_nets.experiments.methods import BUNDLES, METHODS, Comparison
from shared_nets.switches import parse_settings


class Weights(str, Enum):
    """Which weights of a training are evaluated."""

    best = "best"
    last = "last"


class EvaluateOn(str, Enum):
    """Which cases are evaluated."""

    validation = "validation"
    test = "test"


class Scoring(str, Enum):
    """Ways to score, see `shared_nets.experiments.tables.scores`."""

    volumes = "volumes"
    paper = "paper"


Data = Annotated[Path, typer.Argument(help="Data list with folds, or a data set of the bundle.")]
Output = Annotated[Path, typer.Option(help="Folder for runs and tables; gone on with when it has some.")]
Recipe = Annotated[
    list[Path] | None,
    typer.Option(
        help="Config file laid over train.json; a name such as paper_train.json is the bundle's own."
    ),
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="A value of train.json: max_epochs=20. Repeatable.")
]
Folds = Annotated[
    list[int] | None,
    typer.Option("--fold", help="Train this fold only; tables are of all that are finished. Repeatable."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
WeightsOption = Annotated[
    Weights,
    typer.Option(help="Evaluated: of the last epoch, or of the best epoch on the same fold, which flatters."),
]
EvaluateOnOption = Annotated[
    EvaluateOn, typer.Option(help="The cases of the fold held out, or the labelled test cases of the data.")
]
ScoringOption = Annotated[
    Scoring, typer.Option(help="Every volume on its grid, or the paper's own rules, see docs/experiments.md.")
]


def experiment(
    data: Data,
    model: Annotated[Model, typer.Option(case_sensitive=False, help="The bundle.")],
    output: Output,
    recipe: Recipe = None,
    setting: Setting = None,
    fold: Folds = None,
    weights: WeightsOption = Weights.last,
    evaluate_on: EvaluateOnOption = EvaluateOn.validation,
    scoring: ScoringOption = Scoring.volumes,
    bundle: Annotated[Path | None, typer.Option(help="Another bundle folder.")] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """
    Cross-validate a bundle: train and evaluate each fold, and write the table.

    Stopped at any moment, the same command goes on: finished folds are kept, a fold that was in training
    loses an epoch at most.
    """
    tell_errors_in_words(debug)
    with told_as_a_wrong_command():
        folder = bundle_folder(model.value, bundle)
        recipes, settings = recipe_files(folder, recipe), parse_settings(setting)
    from shared_nets.evaluation import summarise, summary_text
    from shared_nets.experiments.crossvalidation import Experiment
    from shared_nets.experiments.tables import CHOSEN, means, scores
    from shared_nets.files import in_turn, write_text

    silent = {"quiet": quiet, "debug": debug}
    one = Experiment(folder, data, output, recipes, settings, weights.value, evaluate_on.value, silent)
    one.run(fold)
    with in_turn(output):  # of jobs with a fold each, the last one to write has seen them all
        cases = one.rows(fold)
        summary = summarise(cases)
        tables = {f"metrics{one.suffix}.csv": cases, f"summary{one.suffix}.csv": summary}
        for name, content in tables.items():
            write_text(output / name, content.to_csv(index=False))
    print(summary_text(summary))
    if one.flatters:
        print(CHOSEN)
    if scoring is Scoring.paper:
        rules = model.value
        paper = means(scores(cases, rules), rules)
        print(f"By the {model.value} paper's rules: " + ", ".join(f"{k} {v:.4f}" for k, v in paper.items()))
    folds = ", ".join(map(str, cases["fold"].unique()))
    print(f"Results: {output.resolve()} (folds: {folds}; tables: {', '.join(tables)})")
    if (cases["status"] != "ok").any():
        raise typer.Exit(1)


def table(
    which: Annotated[
        Comparison,
        typer.Argument(
            help="ablation: X-Net's Table 1. comparison: its Table 2. acute: U-Net against CNN-Res."
        ),
    ],
    data: Data,
    output: Output,
    recipe: Recipe = None,
    setting: Setting = None,
    fold: Folds = None,
    weights: WeightsOption = Weights.last,
    evaluate_on: EvaluateOnOption = EvaluateOn.validation,
    scoring: ScoringOption = Scoring.volumes,
    note: Annotated[str, typer.Option(help="A sentence to stand above the table: what the data are.")] = "",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """
    Compare networks as the papers do: same data, folds and recipe, a row each, tested against the last.

    Every network is trained by the bundle's train.json and RECIPE; finished ones are kept, so tables share
    the networks they have in common when given one output folder.
    """
    tell_errors_in_words(debug)
    with told_as_a_wrong_command():
        folder = bundle_folder(BUNDLES[which])
        recipes, settings = recipe_files(folder, recipe), parse_settings(setting)
    from monai.bundle import ConfigParser

    from shared_nets.experiments.crossvalidation import Experiment
    from shared_nets.experiments.tables import TITLES, compare, explanation, write_table
    from shared_nets.files import in_turn

    silent = {"quiet": quiet, "debug": debug}
    parser = ConfigParser(ConfigParser.load_config_files([folder / "configs" / "train.json", *recipes]))
    # What train.json does not have, each experiment refuses.
    parser.update({key: value for key, value in settings.items() if key in parser})
    limits = {
        name: parser.get_parsed_content(name) for name in ("threshold", "peak_threshold", "smoothing_mm")
    }
    methods, own, window = METHODS[which], parser["network_def"], parser["window"]
    experiments = {
        method.name: Experiment(
            folder,
            data,
            output / BUNDLES[which] / method.folder,
            recipes,
            settings | {"network_def": method.network_def(own)},
            weights.value,
            evaluate_on.value,
            silent,
        )
        for method in methods
    }
    rules = BUNDLES[which] if scoring is Scoring.paper else "volumes"
    scored = "" if scoring is Scoring.volumes else "_paper_scoring"
    stem = output / f"{which.value}{scored}{experiments[methods[-1].name].suffix}"
    for one in experiments.values():
        one.run(fold)
    with in_turn(output):
        rows = compare(methods, experiments, own, tuple(window), fold, rules)
        notes = [note] * bool(note) + [explanation(rows, window, rules, limits)]
        write_table(rows, stem, TITLES[which], notes)
    print(stem.with_suffix(".md").read_text(encoding="utf-8"))
    print(f"Wrote {stem}.md and {stem}.csv")


def finetune(
    data: Data,
    model: Annotated[Model, typer.Option(case_sensitive=False, help="The bundle.")],
    output: Output,
    pretrained: Annotated[
        Path | None, typer.Option(help="Weights to start from; the bundle's own by default.")
    ] = None,
    frozen: Annotated[
        list[str] | None,
        typer.Option(help="Part that is not trained: encoder, translation, batch_norm. Repeatable."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Of the optimiser; 0.0001 where no recipe sets it.")
    ] = None,
    fold: Annotated[int, typer.Option(min=0, help="The fold that validates.")] = 0,
    evaluate_on: EvaluateOnOption = EvaluateOn.validation,
    recipe: Recipe = None,
    setting: Setting = None,
    bundle: Annotated[Path | None, typer.Option(help="Another bundle folder.")] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """
    Fine-tune weights on your cases, and tell how they do on those held out, before and after.

    Stopped at any moment, the same command goes on. The weights are foldN/models/model.pt in OUTPUT: the
    best epoch on the held-out cases, so what these say of it flatters a little; test cases do not.
    """
    tell_errors_in_words(debug)
    with told_as_a_wrong_command():
        folder = bundle_folder(model.value, bundle)
        recipes, settings = recipe_files(folder, recipe), parse_settings(setting)
        for key in ("pretrained", "frozen", "learning_rate"):
            if key in settings:
                raise UsageError(f"--set {key}: use --{key.replace('_', '-')}.")
    from shared_nets.experiments.crossvalidation import Experiment, read_recipe
    from shared_nets.experiments.finetuning import before_and_after, before_and_after_text
    from shared_nets.weights import CURRENT

    start = pretrained or folder / CURRENT
    tuned: dict[str, Any] = {"pretrained": plain_path(start)} | ({"frozen": frozen} if frozen else {})
    if learning_rate is not None or not any("learning_rate" in read_recipe(path) for path in recipes):
        tuned["learning_rate"] = 1e-4 if learning_rate is None else learning_rate
    silent = {"quiet": quiet, "debug": debug}
    tuning = Experiment(folder, data, output, recipes, tuned | settings, "best", evaluate_on.value, silent)
    before, after = before_and_after(tuning, fold, start)
    which = "held-out" if evaluate_on is EvaluateOn.validation else "test"
    print(before_and_after_text(before, after, which))
    print(f"Weights: {(output / f'fold{fold}' / CURRENT).resolve()}")
    if (before["status"] != "ok").any() or (after["status"] != "ok").any():
        raise typer.Exit(1)

"""`strokeseg datalist …`: from a dataset's folder to a data list with folds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_nets.bundles import MODALITIES, Model
from shared_nets.cli.options import Debug, told_as_a_wrong_command
from shared_nets.errors import tell_errors_in_words

app = typer.Typer(
    help="Data lists with folds, from ATLAS, ISLES 2022, SPES, BIDS or plain folders.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(help="The unpacked dataset.")]
Output = Annotated[Path, typer.Option(help="JSON file to write; paths in it start from its folder.")]
Folds = Annotated[int, typer.Option(min=2, help="Number of folds.")]
Split = Annotated[
    str,
    typer.Option(
        help="shuffled: by --seed. unshuffled: in order of names, as in X-Net's code. "
        "34/5/5: subjects for training, validation and test, as in the CNN-Res paper."
    ),
]
Stratify = Annotated[str | None, typer.Option(help="Spread this evenly over the folds: site.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same split on every machine.")]
Check = Annotated[
    bool, typer.Option("--check/--no-check", help="Read every mask: leave out unusable ones, tell volumes.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
ModelOption = Annotated[
    Model, typer.Option(case_sensitive=False, help="xnet reads T1; cnnres DWI and FLAIR.")
]


@app.command()
def atlas(
    folder: Folder, output: Output, folds: Folds = 5, split: Split = "shuffled", stratify: Stratify = None,
    seed: Seed = 0, check: Check = True, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """ATLAS R1.1 (normalised) or R2.0; the release is told by the files' names."""
    _make("read_atlas", folder, {}, output, folds, split, stratify, seed, check, quiet, debug=debug)


@app.command()
def isles2022(
    folder: Folder, output: Output, folds: Folds = 5, split: Split = "shuffled", stratify: Stratify = None,
    seed: Seed = 0, check: Check = True, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """ISLES 2022: DWI with FLAIR, which stays on its own grid."""
    _make("read_isles2022", folder, {}, output, folds, split, stratify, seed, check, quiet, debug=debug)


@app.command()
def spes(
    folder: Folder, output: Output,
    channel: Annotated[
        list[str] | None, typer.Option(help="T1c, T2, DWI, CBF, CBV, TTP or Tmax; give one or two. [DWI T2]")
    ] = None,
    label: Annotated[str, typer.Option(help="penumbra or core.")] = "penumbra",
    folds: Folds = 5, split: Split = "shuffled", stratify: Stratify = None,
    seed: Seed = 0, check: Check = True, quiet: Quiet = False, debug: Debug = False,
) -> None:  # fmt: skip
    """SPES of ISLES 2015, with chosen channels and label."""
    options = {"channels": tuple(channel or ("DWI", "T2")), "label": label}
    _make("read_spes", folder, options, output, folds, split, stratify, seed, check, quiet, debug=debug)


@app.command()
def bids(
    folder: Folder, output: Output, model: ModelOption, folds: Folds = 5, split: Split = "shuffled",
    stratify: Stratify = None, seed: Seed = 0, check: Check = True, quiet: Quiet = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """A BIDS dataset with lesion masks in its derivatives."""
    options = {"modalities": MODALITIES[model]}
    _make("read_bids", folder, options, output, folds, split, stratify, seed, check, quiet, debug=debug)


@app.command("folder")
def folder_(
    folder: Folder, output: Output, model: ModelOption, folds: Folds = 5, split: Split = "shuffled",
    stratify: Stratify = None, seed: Seed = 0, check: Check = True, quiet: Quiet = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """A Decathlon or nnU-Net folder, its dataset.json, or scans with masks beside them."""
    options = {"modalities": MODALITIES[model]}
    _make("read_folder", folder, options, output, folds, split, stratify, seed, check, quiet, debug=debug)


def _make(
    reader: str, folder: Path, options: dict[str, Any], output: Path, *settings: Any, debug: bool
) -> None:
    tell_errors_in_words(debug)
    from shared_nets.data import datasets
    from shared_nets.data.datalist import make_data_list, parse_sizes

    _folds, split, *_ = settings
    read: Callable[..., Any] = getattr(datasets, reader)
    with told_as_a_wrong_command():
        if split not in ("shuffled", "unshuffled"):
            parse_sizes(split)
    print(make_data_list(read(folder, **options), output, *settings))
    print(f"Wrote {output}")

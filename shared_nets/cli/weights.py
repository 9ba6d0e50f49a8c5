"""`strokeseg weights …` and `strokeseg import-keras`: weight files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_nets.bundles import Model
from shared_nets.cli.options import Debug
from shared_nets.errors import tell_errors_in_words

app = typer.Typer(help="Weight files.", no_args_is_help=True)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="Weight file or bundle folder.")],
    debug: Debug = False,
) -> None:
    """Say what a weight file is: its network, precision, SHA-256, and where a bundle's come from."""
    tell_errors_in_words(debug)
    from shared_nets.release.provenance import describe

    print(describe(path))


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    debug: Debug = False,
) -> None:
    """
    Check a bundle's weight files: they are the released ones, fit its network, and hold the same values; the
    ranges that 8 bits need are theirs.

    Exit code 1 when not, as after fine-tuning in MONAI Label; `strokeseg weights restore` brings them back.
    """
    tell_errors_in_words(debug)
    from shared_nets.release.provenance import verify_bundle

    for line in verify_bundle(bundle):
        print(line)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Weight file, .pt or .safetensors.")],
    output: Annotated[Path, typer.Argument(help="Weight file to write, .pt or .safetensors.")],
    half: Annotated[
        bool, typer.Option("--half", help="Kernels in half precision, for half the size.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write the same weights in the other format, in their own precision."""
    tell_errors_in_words(debug)
    if source.exists() and output.exists() and source.samefile(output):
        raise typer.BadParameter(f"{output} is the file to convert: name another to write.")
    from shared_nets.release.provenance import convert_weights

    print(f"Wrote {convert_weights(source, output, half)}")


@app.command()
def restore(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    debug: Debug = False,
) -> None:
    """Bring back the weights a bundle was shipped with: models/model.pt from models/model.safetensors."""
    tell_errors_in_words(debug)
    from shared_nets.weights import restore_shipped

    print(f"Wrote {restore_shipped(bundle)}")


@app.command()
def calibrate(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="A dozen scans like those to be segmented: files, folders, BIDS datasets, lists."
        ),
    ],
    model: Annotated[Model, typer.Option(case_sensitive=False, help="Whose weights.")],
    bundle: Annotated[Path | None, typer.Option(help="Another bundle folder, with your own weights.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Other weights than the bundle's models/model.pt.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    debug: Debug = False,
) -> None:
    """
    Let your own weights be computed in 8 bits (`predict --cpu-precision int8`): measure the scale they need.

    Segments the scans in float32, at the voxel spacing of the bundle's inference.json, and writes ranges.json
    beside the weights; what stood there for these weights is replaced. Shipped weights have theirs.
    """
    tell_errors_in_words(debug)
    from shared_nets.inference.calibration import calibrate as measure

    print(f"Wrote {measure(scans, model.value, bundle, weights, quiet)}")


@app.command()
def share(
    output: Annotated[Path, typer.Argument(help="Folder of the new bundle; its name is the bundle's.")],
    bundle: Annotated[Path, typer.Option(help="Bundle that was trained with.")],
    weights: Annotated[Path, typer.Option(help="Your weights, as RUN/models/model.pt.")],
    evaluation: Annotated[Path, typer.Option(help="Folder that the evaluation of these weights wrote.")],
    data: Annotated[
        str, typer.Option(help="What they were trained and evaluated on: scans, sites, labels, permissions.")
    ],
    authors: Annotated[str, typer.Option(help="Who trained them.")],
    version: Annotated[str, typer.Option(help="The new bundle's version.")] = "1.0.0",
    licence: Annotated[
        str, typer.Option("--license", help="The weights' licence.", show_default="ask their authors")
    ] = "",
    half: Annotated[
        bool, typer.Option("--half", help="Kernels in half precision, for half the size.")
    ] = False,
    debug: Debug = False,
) -> None:
    """
    Make a bundle of your own of weights you trained, with a model card, to pass on.

    The card's performance is the evaluation's table, its data what you state. `strokeseg release --bundle`
    packs the new bundle.
    """
    tell_errors_in_words(debug)
    from shared_nets.release.share import share_weights

    made = share_weights(
        output,
        bundle=bundle,
        weights=weights,
        evaluation=evaluation,
        data=data,
        authors=authors,
        version=version,
        licence=licence,
        half=half,
    )
    print(f"Made {made}. Read its docs/README.md before you pass it on.")


def import_keras_weights(
    weights: Annotated[Path, typer.Argument(help="HDF5 file saved by the original Keras X-Net.")],
    output: Annotated[Path, typer.Argument(help="File to write, .pt or .safetensors.")],
    debug: Debug = False,
) -> None:
    """Turn weights of the original Keras X-Net into a model.pt of the xnet bundle."""
    tell_errors_in_words(debug)
    from shared_nets.release.provenance import import_keras

    print(f"Wrote {import_keras(weights, output)}")

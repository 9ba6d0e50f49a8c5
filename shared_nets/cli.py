"""`strokeseg`: the bundles at the command line, a thin front to their own configs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_nets import __version__
from shared_nets.errors import UsageError, tell_errors_in_words

app = typer.Typer(
    help="Stroke lesions on brain MRI. Research use only, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs of docstrings are filled anew
)
weights_app = typer.Typer(help="Weight files.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")


class Model(str, Enum):
    """The networks that come as bundles."""

    xnet = "xnet"
    cnnres = "cnnres"


def _show_version(asked: bool) -> None:
    if asked:
        print(f"strokeseg {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Stroke lesions on brain MRI. Research use only, not a medical device."""


@app.command()
def predict(
    model: Annotated[Model, typer.Option(help="xnet: chronic, T1-weighted. cnnres: acute, DWI and FLAIR.")],
    output: Annotated[Path, typer.Option(help="Folder for masks, tables and pictures.")],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            help="NIfTI files or folders of them; DWI and FLAIR are paired by name.", show_default=False
        ),
    ] = None,
    dwi: Annotated[Path | None, typer.Option(help="cnnres: one patient's DWI.")] = None,
    flair: Annotated[Path | None, typer.Option(help="cnnres: the same patient's FLAIR.")] = None,
    save_probability: Annotated[
        bool, typer.Option("--save-probability", help="Also write the lesion probability of every voxel.")
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Probability from which a voxel is lesion.")
    ] = None,
    smallest_lesion_ml: Annotated[
        float | None, typer.Option(min=0, help="Lesions below this volume in mL are dropped.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; by default the GPU when there is one.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Another bundle folder, with your own weights.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar; failures are still told.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of the first error.")] = False,
) -> None:
    """
    Segment the lesions on brain scans.

    Writes into the output folder NAME_label-lesion_mask.nii.gz on each scan's own grid, a picture
    NAME_label-lesion.png, and lesions.csv with one row a scan. Exit code 0 when all scans are done
    (no lesion is a result too), 1 when any failed, 2 when the command is wrong.
    """
    if (dwi or flair) and model is not Model.cnnres:
        raise typer.BadParameter("--dwi and --flair go with --model cnnres; name T1 scans without an option.")
    if (dwi or flair) and scans:
        raise typer.BadParameter("name the scans either with --dwi and --flair, or as files and folders.")
    if not (dwi or flair or scans):
        raise typer.BadParameter("name at least one scan or folder.")

    settings: dict[str, Any] = {
        "threshold": threshold,
        "smallest_lesion_ml": smallest_lesion_ml,
        "device": device,
    }
    settings = {key: value for key, value in settings.items() if value is not None}
    settings |= {"save_probability": save_probability, "quiet": quiet, "debug": debug}
    settings["output_dir"] = str(output)
    if scans:
        settings["dataset_dir"] = [str(path) for path in scans]
    else:
        settings["dataset_dir"] = [[str(path) if path else None for path in (dwi, flair)]]
    tell_errors_in_words(debug)
    try:
        folder = bundle_folder(model.value, bundle)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error
    run_inference(folder, settings)


@app.command("import-keras")
def import_keras_weights(
    weights: Annotated[Path, typer.Argument(help="HDF5 file saved by the original Keras X-Net.")],
    output: Annotated[Path, typer.Argument(help="model.pt to write.")],
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Turn weights of the original Keras X-Net into a model.pt of the xnet bundle."""
    tell_errors_in_words(debug)
    from shared_nets.networks.keras_import import import_keras

    import_keras(weights, output)
    print(f"Wrote {output}")


@weights_app.command("restore")
def restore_weights(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
) -> None:
    """Bring back the weights a bundle was shipped with: models/model.pt from models/model.safetensors."""
    tell_errors_in_words()
    from shared_nets.release import restore_shipped

    print(f"Wrote {restore_shipped(bundle)}")


def bundle_folder(model: str, bundle: Path | None = None) -> Path:
    """
    The bundle to run: one that the user names, or the one beside this package, as in the repository.

    Args:
        model: ``xnet`` or ``cnnres``.
        bundle: the folder named.

    Raises:
        UsageError: if there is no bundle.
    """
    folder = bundle or Path(__file__).resolve().parents[1] / f"{model}_bundle"
    if not (folder / "configs" / "inference.json").is_file():
        raise UsageError(
            f"{folder} is no bundle (no configs/inference.json): name one's folder with --bundle."
        )
    return folder


def run_inference(bundle: Path, settings: dict[str, Any]) -> None:
    """
    Run a bundle's inference.json with settings overridden.

    Args:
        bundle: the bundle's folder.
        settings: values by their id in inference.json.

    Raises:
        StrokeSegError: if nothing can be segmented.
        SystemExit: with code 1 if a scan failed.
    """
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        workflow_type="infer",
        bundle_root=str(bundle),
        **settings,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def main() -> None:
    """Entry point of the ``strokeseg`` command."""
    tell_errors_in_words()
    app()


if __name__ == "__main__":
    main()

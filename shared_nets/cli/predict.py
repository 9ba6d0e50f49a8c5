"""`strokeseg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shared_nets.bundles import (
    Backend,
    CpuPrecision,
    Model,
    bundle_folder,
    check_settings,
    plain_path,
    run_inference,
)
from shared_nets.cli.options import told_as_a_wrong_command
from shared_nets.errors import tell_errors_in_words
from shared_nets.versions import check_version


def predict(
    model: Annotated[
        Model,
        typer.Option(case_sensitive=False, help="xnet: chronic, T1-weighted. cnnres: acute, DWI and FLAIR."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for masks, tables and pictures.")],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            help="NIfTI files, folders (searched with their subfolders), BIDS datasets, JSON or .txt lists; "
            "DWI and FLAIR are paired by name.",
            show_default=False,
        ),
    ] = None,
    dwi: Annotated[Path | None, typer.Option(help="cnnres: one patient's DWI.")] = None,
    flair: Annotated[Path | None, typer.Option(help="cnnres: the same patient's FLAIR.")] = None,
    participant_label: Annotated[
        list[str] | None,
        typer.Option(help="Of a BIDS dataset, only this participant; repeat for more, or part by commas."),
    ] = None,
    session: Annotated[
        list[str] | None,
        typer.Option(help="Of a BIDS dataset, only this session; repeat for more, or part by commas."),
    ] = None,
    save_probability: Annotated[
        bool, typer.Option("--save-probability", help="Also write the lesion probability of every voxel.")
    ] = False,
    save_labels: Annotated[
        bool, typer.Option("--save-labels", help="Also write the lesions numbered, the largest 1.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Probability from which a voxel is lesion; as shipped 0.5 (xnet), 0.3 (cnnres).",
        ),
    ] = None,
    peak_threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Lesions in which no voxel reaches this probability are dropped; as shipped 0.8 (xnet), "
            "0.985 (cnnres).",
        ),
    ] = None,
    smallest_lesion_ml: Annotated[
        float | None,
        typer.Option(min=0, help="Lesions below this volume in mL are dropped; as shipped 0.05."),
    ] = None,
    smoothing_mm: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Logits are averaged over slices by a Gaussian of this standard deviation (mm), 0 for none; "
            "as shipped 1.5 (xnet), 0.75 (cnnres).",
        ),
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Mean of each slice's logits and its mirror image's: twice the time; by default for xnet.",
        ),
    ] = None,
    dwi_decides: Annotated[
        bool | None,
        typer.Option(
            "--dwi-decides/--no-dwi-decides",
            help="cnnres: FLAIR can take away what DWI alone shows, but add nothing; twice the time.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; by default the GPU when there is one.")
    ] = None,
    backend: Annotated[
        Backend | None,
        typer.Option(help="What computes the network on a CPU; by default (auto) the fastest installed."),
    ] = None,
    cpu_precision: Annotated[
        CpuPrecision | None,
        typer.Option(
            help="What a CPU computes in, float32 by default: bfloat16 takes half of the time, int8 (by "
            "OpenVINO) a third, where the CPU has instructions for it; masks differ somewhat.",
        ),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Another bundle folder, with your own weights.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Other weights than the bundle's models/model.pt.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do all scans anew, also those an earlier run finished.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Part of the scans to do here, 2/3 say; none does all, auto (default) follows torchrun and "
            "Slurm."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar; failures are still told.")] = False,
    json_lines: Annotated[
        bool, typer.Option("--json", help="A JSON object a line for each scan, and no progress bar.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of the first error.")] = False,
) -> None:
    """
    Segment the lesions on brain scans.

    Writes into the output folder NAME_label-lesion_mask.nii.gz on each scan's own grid, a picture
    NAME_label-lesion.png, lesions.csv with one row a scan, components.csv with one row a lesion, and
    report.html. A second run does only what is new or has changed. Exit code 0 when all scans are done
    (no lesion is a result too), 1 when any failed, 2 when the command is wrong.
    """
    for scan in scans or ():
        if str(scan).lower() in ("true", "false") and not scan.exists():
            raise typer.BadParameter(f"{scan} is no scan: switches take no value; --no-mirror turns one off.")
    if (dwi or flair) and model is not Model.cnnres:
        raise typer.BadParameter("--dwi and --flair go with --model cnnres; name T1 scans without an option.")
    if dwi_decides is not None and model is not Model.cnnres:
        raise typer.BadParameter("--dwi-decides goes with --model cnnres, which has DWI and FLAIR.")
    if (dwi or flair) and scans:
        raise typer.BadParameter("name the scans either with --dwi and --flair, or as files and folders.")
    if not (dwi or flair or scans):
        raise typer.BadParameter("name at least one scan or folder.")

    # Without an option it is as the bundle's config has it.
    values: dict[str, Any] = {
        "threshold": threshold,
        "peak_threshold": peak_threshold,
        "smallest_lesion_ml": smallest_lesion_ml,
        "smoothing_mm": smoothing_mm,
        "mirror": mirror,
        "dwi_decides": dwi_decides,
        "device": device,
        "backend": backend and backend.value,
        "cpu_precision": cpu_precision and cpu_precision.value,
        "shard": shard,
        "weights": weights and plain_path(weights),
        "participants": participant_label,
        "sessions": session,
    }
    switches = {
        "save_probability": save_probability,
        "save_labels": save_labels,
        "overwrite": overwrite,
        "quiet": quiet,
        "json_lines": json_lines,
        "debug": debug,
    }
    settings = {key: value for key, value in values.items() if value not in (None, [])}
    settings |= {key: True for key, on in switches.items() if on}
    settings["output_dir"] = plain_path(output)
    if scans:
        settings["dataset_dir"] = [plain_path(path) for path in scans]
    else:
        settings["dataset_dir"] = [[path and plain_path(path) for path in (dwi, flair)]]
    tell_errors_in_words(debug)
    with told_as_a_wrong_command():
        folder = bundle_folder(model.value, bundle)
    check_version(folder)  # before anything else of an earlier version is looked at
    with told_as_a_wrong_command():
        check_settings(folder, settings)
    run_inference(folder, settings)

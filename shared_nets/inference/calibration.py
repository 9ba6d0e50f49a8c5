"""What a network's layers take on scans of heads: the scale that 8 bits need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from shared_nets.bundles import MODALITIES, CpuPrecision, Model, plain_path
from shared_nets.data import find_cases
from shared_nets.files import make_output_folder
from shared_nets.inference.eight_bits import watched
from shared_nets.inference.ranges import write_ranges
from shared_nets.inference.segmenter import LesionSegmenter
from shared_nets.weights import load_weights


def calibrate(
    scans: Sequence[str | Path],
    model: str = "xnet",
    bundle: str | Path | None = None,
    weights: str | Path | None = None,
    quiet: bool = False,
) -> Path:
    """
    Segment scans in float32 and write what the convolutions took, so that ``int8`` can compute these weights.

    A dozen scans do, of the kind that is to be segmented, with lesions and without. They are looked at as the
    bundle's inference.json has it: the ranges hold for its voxel spacing and windows.

    Args:
        scans: files, folders, BIDS datasets or lists, as of `strokeseg predict`.
        model: ``xnet`` or ``cnnres``.
        bundle: another bundle folder.
        weights: another weights file than the bundle's.
        quiet: no progress bar.

    Returns:
        The file written: ``ranges`` of inference.json, ``ranges.json`` beside the weights.

    Raises:
        StrokeSegError: as of `LesionSegmenter` and its ``predict``, or if they show hardly a head.
        OutputError: if the file cannot be written.
    """
    segmenter = LesionSegmenter(
        model,
        bundle=bundle,
        weights=weights,
        device="cpu",
        backend="torch",
        cpu_precision=CpuPrecision.float32.value,
    )
    make_output_folder(segmenter.ranges.parent)  # what is wrong with it is told before the work
    sources = [plain_path(Path(scan)) for scan in scans]
    cases = find_cases(sources, section="test", modalities=MODALITIES[Model(model)])
    with watched(segmenter.evaluator.network) as seen:
        for case in tqdm(cases, unit="scan", disable=quiet):
            segmenter.predict(case["image"])
    write_ranges(segmenter.ranges, load_weights(segmenter.weights), seen)
    return segmenter.ranges

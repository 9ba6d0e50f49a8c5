"""Whole volumes through a 2-D network, and what comes out: masks, tables, pictures."""

from __future__ import annotations

from shared_nets.inference.backends import computed_in, for_inference
from shared_nets.inference.check import check_run
from shared_nets.inference.cohort import Cohort
from shared_nets.inference.lesions import (
    Lesion,
    LesionSummary,
    head_midline,
    label_lesions,
    measure_lesions,
)
from shared_nets.inference.masks import HysteresisThresholdd, RemoveSmallLesionsd
from shared_nets.inference.outputs import LesionWriter, write_nifti, write_table
from shared_nets.inference.picture import lesion_sheet
from shared_nets.inference.ranges import ranges_beside
from shared_nets.inference.records import Records
from shared_nets.inference.rewrites import rewrite
from shared_nets.inference.segmenter import LesionSegmenter, Segmentation
from shared_nets.inference.slices import SliceWindowInferer

__all__ = [
    "Cohort",
    "HysteresisThresholdd",
    "Lesion",
    "LesionSegmenter",
    "LesionSummary",
    "LesionWriter",
    "Records",
    "RemoveSmallLesionsd",
    "Segmentation",
    "SliceWindowInferer",
    "check_run",
    "computed_in",
    "for_inference",
    "head_midline",
    "label_lesions",
    "lesion_sheet",
    "measure_lesions",
    "ranges_beside",
    "rewrite",
    "write_nifti",
    "write_table",
]

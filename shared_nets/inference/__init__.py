"""Whole volumes through a 2-D network, and what comes out: masks, tables, pictures."""

from __future__ import annotations

from shared_nets.inference.backends import for_inference
from shared_nets.inference.check import check_run
from shared_nets.inference.cohort import Cohort
from shared_nets.inference.lesions import LesionSummary, RemoveSmallLesionsd, head_midline, measure_lesions
from shared_nets.inference.outputs import LesionWriter, make_output_folder, write_nifti, write_table
from shared_nets.inference.picture import lesion_sheet
from shared_nets.inference.rewrites import rewrite
from shared_nets.inference.slices import SliceWindowInferer

__all__ = [
    "Cohort",
    "LesionSummary",
    "LesionWriter",
    "RemoveSmallLesionsd",
    "SliceWindowInferer",
    "check_run",
    "for_inference",
    "head_midline",
    "lesion_sheet",
    "make_output_folder",
    "measure_lesions",
    "rewrite",
    "write_nifti",
    "write_table",
]

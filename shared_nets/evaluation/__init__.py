"""Per-volume and lesion-wise metrics on the scan's own grid, and their tables."""

from shared_nets.evaluation.cases import labelled_cases
from shared_nets.evaluation.metrics import METRICS, ReferenceLesion, case_metrics, reference_lesions
from shared_nets.evaluation.tables import (
    LESION_SIZES_ML,
    measure_case,
    measure_slices,
    read_cases,
    summarise,
    summary_text,
    tell_summary,
    write_summary,
)

__all__ = [
    "LESION_SIZES_ML",
    "METRICS",
    "ReferenceLesion",
    "case_metrics",
    "labelled_cases",
    "measure_case",
    "measure_slices",
    "read_cases",
    "reference_lesions",
    "summarise",
    "summary_text",
    "tell_summary",
    "write_summary",
]

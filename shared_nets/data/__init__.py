"""Where scans come from: trees, data lists and folders to cases, and cases to checked, scaled images."""

from shared_nets.data.cases import find_cases
from shared_nets.data.datalist import write_data_list
from shared_nets.data.lists import read_folds
from shared_nets.data.loading import LoadMaskd, LoadScand, read_mask, read_scan
from shared_nets.data.names import case_name, modality_of, subject_of
from shared_nets.data.pooled import LoadOneChanneld, pooled_cases
from shared_nets.data.preprocessing import CheckGridd, ScaleHeadIntensityd, cranium_mask, head_mask
from shared_nets.data.spacing import Spacingd
from shared_nets.errors import ScanWarning

__all__ = [
    "CheckGridd",
    "LoadMaskd",
    "LoadOneChanneld",
    "LoadScand",
    "ScaleHeadIntensityd",
    "ScanWarning",
    "Spacingd",
    "case_name",
    "cranium_mask",
    "find_cases",
    "head_mask",
    "modality_of",
    "pooled_cases",
    "read_folds",
    "read_mask",
    "read_scan",
    "subject_of",
    "write_data_list",
]

"""Training: what train.json names and MONAI lacks."""

from shared_nets.training.augmentation import RandDropChanneld
from shared_nets.training.caching import cached
from shared_nets.training.handlers import (
    Checkpoints,
    EarlyStop,
    Progress,
    SeededEpochs,
    checkpoint_folder,
    in_monai_label,
)
from shared_nets.training.processes import (
    join_processes,
    loader_workers,
    only_training,
    parallel,
)
from shared_nets.training.record import record_run
from shared_nets.training.speed import prepared
from shared_nets.training.start import (
    check_training,
    decay_kernels_only,
    leaves_one_slice,
    run_and_release,
    seed_draws,
    start_from,
)

__all__ = [
    "Checkpoints",
    "EarlyStop",
    "Progress",
    "RandDropChanneld",
    "SeededEpochs",
    "cached",
    "check_training",
    "checkpoint_folder",
    "decay_kernels_only",
    "in_monai_label",
    "join_processes",
    "leaves_one_slice",
    "loader_workers",
    "only_training",
    "parallel",
    "prepared",
    "record_run",
    "run_and_release",
    "seed_draws",
    "start_from",
]

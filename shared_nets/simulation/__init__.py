"""
Simulated strokes: lesions painted into real anatomy, for pretraining, for the demo and for tests.

Needs the extra ``simulation``: the ICBM template comes with nilearn.
"""

from shared_nets.simulation.acute import acute_contrast
from shared_nets.simulation.anatomy import Anatomy, anatomy_of, icbm_anatomy, scan_anatomy
from shared_nets.simulation.datasets import simulate_dataset
from shared_nets.simulation.lesions import LesionShape, PlacedLesion, place, random_ellipsoid, read_masks
from shared_nets.simulation.procedural import procedural_lesion
from shared_nets.simulation.scenes import Scene, build_scene
from shared_nets.simulation.slices import Paint, SimulatedSlices
from shared_nets.simulation.sources import anatomies_of, held_out_masks, nifti_masks, training_masks
from shared_nets.simulation.t1 import t1_contrast

__all__ = [
    "Anatomy",
    "LesionShape",
    "Paint",
    "PlacedLesion",
    "Scene",
    "SimulatedSlices",
    "acute_contrast",
    "anatomies_of",
    "anatomy_of",
    "build_scene",
    "held_out_masks",
    "icbm_anatomy",
    "nifti_masks",
    "place",
    "procedural_lesion",
    "random_ellipsoid",
    "read_masks",
    "scan_anatomy",
    "simulate_dataset",
    "t1_contrast",
    "training_masks",
]

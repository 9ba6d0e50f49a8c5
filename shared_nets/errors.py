"""Errors a user can act on: one sentence with the file, what is wrong with it, and what to do."""

from __future__ import annotations


class StrokeSegError(ValueError):
    """Base of every error this package raises on purpose; its message is one sentence for the user."""


class UsageError(StrokeSegError):
    """A command, option or setting that cannot be followed."""


class ScanNotFoundError(StrokeSegError):
    """A scan, folder or data list that is not there, or a folder without scans."""


class UnreadableScanError(StrokeSegError):
    """A file that is not NIfTI, is truncated, or whose compression is corrupt."""


class ScanGeometryError(StrokeSegError):
    """A wrong dimension, a missing or singular affine, or an implausible voxel size or field of view."""


class ScanIntensityError(StrokeSegError):
    """NaN or infinite voxels, or an image that is constant."""


class ScanMismatchError(StrokeSegError):
    """DWI and FLAIR that do not overlap in space, or a mask on another grid than its scan."""


class MaskError(StrokeSegError):
    """A lesion mask that is not binary."""


class WeightsError(StrokeSegError):
    """Weights that are missing, corrupt, unsafe, or of another architecture."""


class OutputError(StrokeSegError):
    """An output folder without space or permission to write."""


class DeviceError(StrokeSegError):
    """A device that was asked for and is not there, or that ran out of memory."""

"""In place of torchvision, of which MONAI Label imports two functions that no bundle calls."""

from . import utils

__all__ = ["utils"]

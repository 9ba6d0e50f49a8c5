"""Networks, inference and training of the stroke lesion bundles. Research use only, not a medical device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shared_nets.switches import is_true

if TYPE_CHECKING:
    from shared_nets.inference import LesionSegmenter
    from shared_nets.networks import (
        CNNRes,
        DeepLabV3Plus,
        DenseUNet2D,
        FeatureSimilarityModule,
        PSPNet,
        ResUNet,
        SegNet,
        UNet,
        XBlock,
        XNet,
        load_keras_weights,
    )

__version__ = "0.4.0"
NOTICE = "Research use only, not a medical device."
__all__ = [
    "CNNRes",
    "DeepLabV3Plus",
    "DenseUNet2D",
    "FeatureSimilarityModule",
    "LesionSegmenter",
    "PSPNet",
    "ResUNet",
    "SegNet",
    "UNet",
    "XBlock",
    "XNet",
    "is_true",
    "load_keras_weights",
]
_PARTS = (
    "annotation",
    "data",
    "devices",
    "evaluation",
    "experiments",
    "inference",
    "networks",
    "precision",
    "release",
    "simulation",
    "training",
    "versions",
    "weights",
)


def __dir__() -> list[str]:
    return sorted({*__all__, *_PARTS})


def __getattr__(name: str) -> Any:
    # On first use, so that `strokeseg --help` does not wait for torch.
    if name in __all__:
        place = "inference" if name == "LesionSegmenter" else "networks"
        return getattr(import_module(f"shared_nets.{place}"), name)
    if name in _PARTS:
        return import_module(f"shared_nets.{name}")
    raise AttributeError(f"module 'shared_nets' has no attribute {name!r}")

"""The networks of the papers' tables, and what the papers report of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Comparison(str, Enum):
    """The tables."""

    ablation = "ablation"
    comparison = "comparison"
    acute = "acute"


@dataclass(frozen=True)
class Method:
    """
    One row of a table.

    Attributes:
        name: as the table calls it.
        network: class name in `shared_nets.networks`.
        options: its arguments, beside those that it takes from the bundle.
        published: what the paper reports, by metric; empty where its figure was not at hand to check.
    """

    name: str
    network: str
    options: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)

    def network_def(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """
        The network as a bundle's config names it.

        Args:
            own: the bundle's own: one of its class is given the same, such as the dropout, any other its
                channels.
        """
        target = f"shared_nets.networks.{self.network}"
        given = own if own["_target_"] == target else ("in_channels", "out_channels")
        taken = {key: own[key] for key in given if not key.startswith("_")}
        return {"_target_": target, **taken, **self.options}

    @property
    def folder(self) -> str:
        """The name as a folder's name."""
        return "".join(c if c.isalnum() else "-" for c in self.name.lower()).strip("-")


# Qi et al. 2019: ATLAS R1.1, 229 volumes, five folds, the authors' own scoring.
XNET = Method(
    "X-Net", "XNet", {"fsm": "dot"}, {"dice": 0.4867, "iou": 0.3723, "precision": 0.6, "recall": 0.4752}
)
# Gheibi et al. 2023: SPES 2015, test slices.
CNNRES = Method("CNN-Res", "CNNRes", {}, {"dice": 0.7923})
UNET, RESUNET = Method("U-Net", "UNet"), Method("ResUNet", "ResUNet")

METHODS: dict[Comparison, tuple[Method, ...]] = {
    Comparison.ablation: (
        UNET,
        Method("U-Net + FSM", "UNet", {"fsm": "dot"}),
        RESUNET,
        Method("ResUNet + FSM", "ResUNet", {"fsm": "dot"}),
        Method("X-Net without FSM", "XNet", {"fsm": None}),
        XNET,
    ),
    Comparison.comparison: (
        Method("SegNet", "SegNet"),
        Method("PSPNet", "PSPNet"),
        UNET,
        Method("2D Dense-UNet", "DenseUNet2D"),
        Method("DeepLabv3+", "DeepLabV3Plus"),
        RESUNET,
        Method("CNN-Res", "CNNRes"),
        XNET,
    ),
    Comparison.acute: (UNET, CNNRES),
}
"""Rows in the papers' order; the last is the one the others are tested against."""

BUNDLES = {Comparison.ablation: "xnet", Comparison.comparison: "xnet", Comparison.acute: "cnnres"}

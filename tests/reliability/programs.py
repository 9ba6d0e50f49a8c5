"""The bundles' own inference with a network of one weight: all of the program but what is learned."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from monai.bundle import ConfigWorkflow
from torch import Tensor, nn

from shared_nets.errors import own_error
from shared_nets.weights import save_weights
from tests.commands import ROOT
from tests.heads import SMALL

MODELS = {"xnet": "T1w", "cnnres": "DWI"}


class Dark(nn.Module):
    """Lesion is what is darker than ``limit``, but not air: as on T1w."""

    def __init__(self, limit: float = 0.3, air: float = 0.02, slope: float = 40.0) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor([limit]))
        self.air, self.slope = air, slope

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), 0-1, to logits (N, 1, H, W)."""
        return self.slope * torch.minimum(self.limit - x[:, :1], x[:, :1] - self.air)


class Bright(nn.Module):
    """Lesion is what is brighter than ``limit`` in any channel."""

    def __init__(self, limit: float = 0.8, slope: float = 40.0) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor([limit]))
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), 0-1, to logits (N, 1, H, W)."""
        return self.slope * (x.amax(dim=1, keepdim=True) - self.limit)


@dataclass
class Run:
    """How a run ended: exit code, what it said, its table."""

    code: int
    out: str
    err: str
    output: Path

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.output / "lesions.csv", keep_default_na=False).set_index("scan")

    @property
    def told(self) -> str:
        """The first sentence about a scan, or the one that ended the run."""
        lines = [line for line in self.err.replace("\r", "\n").splitlines() if not line.endswith("it/s]")]
        said = [line for line in lines if line.startswith(("Failed: ", "Warning: ", "Stopped, "))]
        return (said or [self.err.strip()])[0]

    @property
    def files(self) -> set[str]:
        """What was written of single scans."""
        return {path.name for path in self.output.rglob("*_label-*")}


def predict(
    source: Any, output: Path, model: str = "xnet", network: nn.Module | None = None, **settings: Any
) -> Run:
    """
    Run a bundle's inference.json in this process.

    Args:
        source: ``dataset_dir``: scans, folders, a data list.
        output: the output folder.
        model: which bundle.
        network: in the place of the bundle's; a :class:`Dark` or :class:`Bright` by default.
        settings: further values of inference.json.
    """
    network = network or (Dark() if model == "xnet" else Bright())
    weights = output.parent / "one_weight.pt"
    save_weights(network.state_dict(), weights)
    settings = {"save_picture": False, "device": "cpu", **SMALL, **settings}
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        workflow = ConfigWorkflow(
            config_file=str(ROOT / f"{model}_bundle" / "configs" / "inference.json"),
            workflow_type="infer",
            bundle_root=str(ROOT / f"{model}_bundle"),
            dataset_dir=source,
            output_dir=str(output),
            weights=str(weights),
            network_def=network,
            # MONAI would set up logging anew, and absl, where it is loaded, close pytest's own stream.
            logging_file=False,
            **settings,
        )
        try:
            workflow.initialize()
            workflow.run()
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception as error:
            told = own_error(error)
            if told is None:
                raise
            code = 1
            print(told, file=err)
    return Run(code, out.getvalue(), err.getvalue(), output)


def is_one_sentence(text: str, *names: object) -> bool:
    """Whether it ends as a sentence, stands on one line, and names what it is about."""
    return text.endswith(".") and "\n" not in text and all(str(name) in text for name in names)

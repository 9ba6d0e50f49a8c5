"""
The call by which MONAI Label 0.8 trains a bundle: ``python -m tests.bundles.monai_label BUNDLE DATA``.

DATA is a JSON file with ``train`` and ``validate``, lists of ``{"image": ..., "label": ...}``; without
``validate`` the bundle's own validation data would be used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import monai.bundle


def train(folder: Path, data: dict[str, list[dict[str, str]]]) -> None:
    """As ``monailabel.tasks.train.bundle`` does it: handlers and data replaced, the device a string."""
    config = folder / "configs" / "train.json"
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(folder / "models" / "model.pt"),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    overrides = {
        "bundle_root": str(folder),
        "train#trainer#max_epochs": 1,
        "train#dataset#data": data["train"],
        "device": "cpu",
        "train#handlers": [loader, *json.loads(config.read_text())["train"]["handlers"]],
    }
    if "validate" in data:
        overrides["validate#dataset#data"] = data["validate"]
    monai.bundle.run(
        run_id="run",
        init_id=None,
        final_id=None,
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=str(config),
        **overrides,
    )


if __name__ == "__main__":
    train(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))

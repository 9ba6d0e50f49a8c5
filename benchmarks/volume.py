"""
A whole scan, from file to mask file: CPU seconds, the share of the network, and peak memory.

    python benchmarks/volume.py SCAN --model xnet --methods "openvino 2" "torch 2" "openvino 1" loop monai

Methods: a backend's name and the in-plane voxel size in mm (``strokeseg predict``'s way); ``loop``, a plain
PyTorch loop over all slices of the same network at 1 mm, cut or padded to 224×192 (CNN-Res: the scan's own
voxels, 160×160); ``monai``, MONAI's SliceInferer over the same; ``unet``, the loop with the 31 M U-Net.
Methods alternate, each in a process of its own and in one thread, and the table gives medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"xnet": (224, 192), "cnnres": (160, 160)}
WINDOWS = {"xnet": {1: [224, 192], 2: [112, 96]}, "cnnres": {}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scan", type=Path, nargs="+", help="one scan; cnnres: DWI and FLAIR")
    parser.add_argument("--model", choices=SIZES, default="xnet")
    parser.add_argument("--methods", nargs="+", default=["openvino 2", "torch 2", "openvino 1", "loop"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--scans", type=int, default=2, help="the scan so often in one process")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return print(json.dumps(measure(options.one, options.model, options.scan, options.scans)))

    results: dict[str, list[dict[str, float]]] = {method: [] for method in options.methods}
    for _ in range(options.repeats):
        for method in options.methods:
            command = [sys.executable, "-W", "ignore", __file__, *map(str, options.scan)]
            command += ["--model", options.model, "--scans", str(options.scans), "--one", method]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[method].append(json.loads(said.splitlines()[-1]))
            print(method, results[method][-1], flush=True)
    keys = ("first", "further", "network", "peak GiB")
    print(f"\n{options.model}, {', '.join(path.name for path in options.scan)}, one thread\n")
    print("| method | first scan, CPU s | each further | of it around the network | peak memory, GiB |")
    print("| --- | --- | --- | --- | --- |")
    for method, runs in results.items():
        first, further, network, peak = (statistics.median(run[key] for run in runs) for key in keys)
        around = f"{1 - network / further:.0%}"
        print(f"| {method} | {first:.1f} | {further:.1f} | {around} | {peak:.2f} |")


def measure(method: str, model: str, scan: Sequence[Path], scans: int) -> dict[str, float]:
    """One method in this process: CPU seconds of the first scan (with all that comes once) and the last."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        name, *mm = method.split()
        if mm:
            ends, network = ours(name, float(mm[0]), model, scan, scans, folder)
        else:
            ends, network = others(name, model, scan, scans, folder)
    seconds = [end - begin for begin, end in zip([start, *ends], ends, strict=False)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"first": seconds[0], "further": seconds[-1], "network": network[-1], "peak GiB": peak}


class Timed:
    """Hooks that add up a network's CPU seconds."""

    def __init__(self, network: Any) -> None:
        self.seconds = 0.0
        network.register_forward_pre_hook(lambda *_: self._start())
        network.register_forward_hook(lambda *_: self._stop())

    def _start(self) -> None:
        self.since = time.process_time()

    def _stop(self) -> None:
        self.seconds += time.process_time() - self.since

    def take(self) -> float:
        """What came together since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def ours(
    backend: str, mm: float, model: str, scan: Sequence[Path], scans: int, folder: str
) -> tuple[list[float], list[float]]:
    """``strokeseg predict``: when each scan was done, and the network's share, in CPU seconds."""
    from monai.bundle import ConfigWorkflow

    ends, shares = [], []
    paths = [str(path) for path in scan]
    settings: dict[str, Any] = {"spacing": [mm, mm, -1.0]}
    if mm in WINDOWS[model]:
        settings["window"] = WINDOWS[model][int(mm)]
    bundle = ROOT / f"{model}_bundle"
    workflow = ConfigWorkflow(
        bundle / "configs" / "inference.json",
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=paths if model == "xnet" else [paths],
        output_dir=folder,
        backend=backend,
        quiet=True,
        **settings,
    )
    workflow.initialize()
    timed = Timed(workflow.parser.get_parsed_content("fast_network"))
    for _ in range(scans):  # a run each: no scan is loaded while another is timed
        workflow.parser.get_parsed_content("cohort").run()
        ends.append(time.process_time())
        shares.append(timed.take())
    return ends, shares


def others(
    name: str, model: str, scan: Sequence[Path], scans: int, folder: str
) -> tuple[list[float], list[float]]:
    """A plain loop, or MONAI's SliceInferer: as `ours`."""
    import nibabel as nib
    import numpy as np
    import torch
    from monai.inferers import SliceInferer
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, ResizeWithPadOrCrop
    from monai.transforms import ScaleIntensityRangePercentiles as Scale

    from shared_nets import CNNRes, UNet, XNet
    from shared_nets.release import load_into

    network: torch.nn.Module
    if name == "unet":
        network = UNet(in_channels=len(scan))
    else:
        network = load_into((XNet if model == "xnet" else CNNRes)(), ROOT / f"{model}_bundle/models/model.pt")
    network.eval()
    timed = Timed(network)
    size = SIZES[model]
    read = LoadImage("NibabelReader", image_only=True, squeeze_non_spatial_dims=True)
    load = Compose([read, EnsureChannelFirst(channel_dim="no_channel"), Orientation("ARS", labels=None)])
    scale = Scale(0.5, 99.5, 0, 1, clip=True)
    inferer = SliceInferer(roi_size=size, sw_batch_size=8, spatial_dim=2)
    ends, shares = [], []
    for number in range(scans):
        with torch.no_grad():
            first, *_ = [load(path) for path in scan]
            image = scale(first).repeat(len(scan), 1, 1, 1)  # a second scan is read, not resampled
            if name == "monai":
                logits = inferer(image[None], network)[0, 0]
            else:
                slices = ResizeWithPadOrCrop((*size, -1))(image).as_tensor().permute(3, 0, 1, 2)
                logits = torch.cat([network(batch)[:, 0] for batch in slices.split(8)]).permute(1, 2, 0)
            mask = (logits.sigmoid() > 0.5).numpy().astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, np.eye(4)), Path(folder, f"{number}.nii.gz"))
        ends.append(time.process_time())
        shares.append(timed.take())
    return ends, shares


if __name__ == "__main__":
    main()

"""
A whole scan, from file to mask file: CPU seconds, the share of the network, and peak memory.

    python benchmarks/volume.py SCAN --methods "openvino 2" "torch 2" "openvino 1" monai loop
    python benchmarks/volume.py DWI FLAIR --model cnnres --methods "openvino 1.5" "torch 1.5" unet

Methods: a backend's name and the in-plane voxel size in mm (``strokeseg predict``'s way), with settings of
inference.json where they are to differ, ``"torch 2 mirror=false cpu_precision=bfloat16"``; ``loop``, a plain
PyTorch loop over all slices of the same network at 1 mm, cut or padded to 224×192 (CNN-Res: the scan's own
voxels, 160×160); ``monai``, MONAI's SliceInferer over the same; ``unet``, the loop with the 31 M U-Net;
``keras``, the authors' X-Net over the same, by a Python with TensorFlow and nibabel (``--keras``).
Methods alternate, each in a process of its own and in one thread, and the table gives medians. The last one
is what the others are compared with. What comes once a process (imports, weights, compiling, a first scan or
batch) is told apart.

``--every 8`` takes every eighth slice only, empty ones and others alike: the ratios are those of the whole
scan but for what does not grow with it (the picture), which then weighs more.
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
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th slice only")
    parser.add_argument("--keras", type=Path, metavar="PYTHON", help="a Python with TensorFlow and nibabel")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return print(json.dumps(measure(options.one, options.model, options.scan)))
    if "keras" in options.methods and not options.keras:
        parser.error("the method keras needs --keras PYTHON.")

    results: dict[str, list[dict[str, float]]] = {method: [] for method in options.methods}
    with tempfile.TemporaryDirectory() as folder:
        scan = [str(thinned(path, options.every, Path(folder))) for path in options.scan]
        for _ in range(options.repeats):
            for method in options.methods:
                command = [sys.executable, "-W", "ignore", __file__, *scan]
                command += ["--model", options.model, "--one", method]
                if method == "keras":
                    script = Path(__file__).with_name("keras_xnet.py")
                    command = [options.keras, script, *map(str, (8, *SIZES["xnet"])), "--scan", *scan]
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                results[method].append(json.loads(said.splitlines()[-1]))
                print(method, results[method][-1], flush=True)
    keys = ("once", "scan", "network", "peak GiB")
    medians = {
        method: [statistics.median(run[key] for run in runs) for key in keys]
        for method, runs in results.items()
    }
    last = options.methods[-1]
    print(f"\n{options.model}, {', '.join(path.name for path in options.scan)}, one thread\n")
    print(f"| method | once, CPU s | a scan, CPU s | around the network | times as fast as {last} | GiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for method, (once, seconds, network, peak) in medians.items():
        around, times = f"{1 - network / seconds:.0%}", medians[last][1] / seconds
        print(f"| {method} | {once:.1f} | {seconds:.1f} | {around} | {times:.1f} | {peak:.2f} |")


def thinned(path: Path, every: int, folder: Path) -> Path:
    """A copy of a scan with every so many-th of its slices."""
    import nibabel as nib

    image = nib.load(path)
    axis = next(i for i, to in enumerate(nib.aff2axcodes(image.affine)) if to in "SI")
    thin = image.slicer[(slice(None),) * axis + (slice(None, None, every),)]
    nib.save(thin, folder / path.name)
    return folder / path.name


def measure(method: str, model: str, scan: Sequence[Path]) -> dict[str, float]:
    """One method in this process: CPU seconds of what comes once, of a scan, and of the network in it."""
    import torch

    from shared_nets.switches import parse_settings

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        name, *more = method.split()
        if more:
            once, done, network = ours(name, float(more[0]), model, scan, folder, parse_settings(more[1:]))
        else:
            once, done, network = others(name, model, scan, folder)
    # In KiB, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)
    return {"once": once, "scan": done - once, "network": network, "peak GiB": peak}


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
    backend: str, mm: float, model: str, scan: Sequence[Path], folder: str, changed: dict[str, Any]
) -> tuple[float, float, float]:
    """``strokeseg predict``: when a first scan was done, when the same again, and the network's share."""
    from monai.bundle import ConfigWorkflow

    paths = [str(path) for path in scan]
    settings: dict[str, Any] = {"spacing": [mm, mm, -1.0], **changed}
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
        overwrite=True,
        quiet=True,
        **settings,
    )
    workflow.initialize()
    timed = Timed(workflow.parser.get_parsed_content("fast_network"))
    ends, shares = [], []
    for _ in range(2):  # a run each: no scan is loaded while another is timed
        workflow.parser.get_parsed_content("cohort").run()
        ends.append(time.process_time())
        shares.append(timed.take())
    return ends[0], ends[1], shares[1]


def others(name: str, model: str, scan: Sequence[Path], folder: str) -> tuple[float, float, float]:
    """A plain loop, or MONAI's SliceInferer: as `ours`, but for a first batch in place of a first scan."""
    import nibabel as nib
    import numpy as np
    import torch
    from monai.inferers import SliceInferer
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, ResizeWithPadOrCrop
    from monai.transforms import ScaleIntensityRangePercentiles as Scale

    from shared_nets import CNNRes, UNet, XNet
    from shared_nets.weights import load_into

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
    with torch.no_grad():
        network(torch.zeros(8, len(scan), *size))
        timed.take()
        once = time.process_time()
        first, *_ = [load(path) for path in scan]
        image = scale(first).repeat(len(scan), 1, 1, 1)  # a second scan is read, not resampled
        if name == "monai":
            logits = inferer(image[None], network)[0, 0]
        else:
            slices = ResizeWithPadOrCrop((*size, -1))(image).as_tensor().permute(3, 0, 1, 2)
            logits = torch.cat([network(batch)[:, 0] for batch in slices.split(8)]).permute(1, 2, 0)
        mask = (logits.sigmoid() > 0.5).numpy().astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, np.eye(4)), Path(folder, "mask.nii.gz"))
    return once, time.process_time(), timed.take()


if __name__ == "__main__":
    main()

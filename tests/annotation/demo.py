"""
The demo's scans through MONAI Label's server: ``python -m tests.annotation.demo FOLDER``.

Writes the pictures of docs/monai_label.md, drawn from the files that the server returns; ``make
monailabel-pictures`` does it where they belong.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from shared_nets.annotation import prepare_app
from shared_nets.inference.picture import lesion_sheet
from tests.annotation.server import running
from tests.commands import ROOT
from tests.conftest import MODALITIES

SCANS = {"xnet": "sub-M2299_T1w", "cnnres": "sub-soop1_dwi"}
PICTURES = {"xnet": "monai_label.png", "cnnres": "monai_label_acute.png"}


def demo_studies(folder: Path) -> Path:
    """The demo's scans as an annotator has them: one file each, FLAIR in a folder beside its DWI."""
    (folder / "flair").mkdir(parents=True)
    chronic, acute = ROOT / "demo" / "chronic", ROOT / "demo" / "acute"
    shutil.copy(chronic / "sub-M2299_T1w.nii.gz", folder / f"{SCANS['xnet']}.nii.gz")
    shutil.copy(acute / "sub-soop1_rec-TRACE_dwi.nii.gz", folder / f"{SCANS['cnnres']}.nii.gz")
    shutil.copy(acute / "sub-soop1_FLAIR.nii.gz", folder / "flair" / f"{SCANS['cnnres']}.nii.gz")
    return folder


def draw(name: str, scan: Path, mask: Path) -> bytes:
    """A picture of a mask file on its scan."""
    config = ConfigParser()
    config.read_config(ROOT / f"{name}_bundle" / "configs" / "inference.json")
    image = config.get_parsed_content("preprocessing")({"image": str(scan)})["image"]
    lesions = nib.load(mask)
    array = torch.from_numpy(lesions.get_fdata()[None] > 0)
    outline = MetaTensor(array.to(torch.uint8), affine=torch.from_numpy(lesions.affine))
    return lesion_sheet(image, outline, f"{SCANS[name]}, as the server returned it", MODALITIES[name])


def main(folder: Path) -> None:
    """Start a server with both bundles, and draw what it returns."""
    with TemporaryDirectory() as place:
        home = Path(place)
        studies = demo_studies(home / "studies")
        app = prepare_app(home / "app", [ROOT / f"{name}_bundle" for name in SCANS])
        with running(app, studies, home) as server:
            for name, scan in SCANS.items():
                mask = server.infer(f"{name}_bundle", scan, home)
                picture = folder / PICTURES[name]
                picture.write_bytes(draw(name, studies / f"{scan}.nii.gz", mask))
                print(f"Wrote {picture}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

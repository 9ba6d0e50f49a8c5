"""Datasets as they come, small: the folders, names, grids and oddities of each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.heads import affine, head, lesion_mask, write

SMALL = (14, 14, 12)
MM = (12.0, 12.0, 12.0)


def scan(path: Path, modality: str = "T1w", number: int = 1, shape: tuple[int, ...] = SMALL) -> Path:
    return write(path, head(modality, lesion_mask(number, shape), number), affine(MM, shape))


def mask(path: Path, number: int = 1, shape: tuple[int, ...] = SMALL, value: int = 1) -> Path:
    return write(path, lesion_mask(number, shape) * value, affine(MM, shape))


def atlas_r11(root: Path, shape: tuple[int, ...] = SMALL) -> Path:
    """Three sites; one subject with two sessions, one with three masks, one native scan, a mask in 255."""
    for number, (site, subject, session) in enumerate(
        [
            ("Site1", "031768", "t01"),
            ("Site1", "031768", "t02"),
            ("Site1", "031769", "t01"),
            ("Site2", "031806", "t01"),
            ("Site3", "031900", "t01"),
            ("Site3", "031901", "t01"),
        ]
    ):
        folder = root / "ATLAS_R1.1" / site / subject / session
        scan(folder / f"{subject}_t1w_deface_stx.nii.gz", number=number, shape=shape)
        value = 255 if subject == "031900" else 1
        mask(folder / f"{subject}_LesionSmooth_stx.nii.gz", number, shape, value)
        if subject == "031806":
            for extra in (1, 2):
                mask(folder / f"{subject}_LesionSmooth_{extra}_stx.nii.gz", number + extra, shape)
    native = root / "ATLAS_R1.1" / "native_1" / "c0001" / "c0001s0004t01"
    scan(native / "c0001s0004t01_t1w.nii.gz", shape=shape)
    return root


def atlas_r11_normalised(root: Path, shape: tuple[int, ...] = SMALL, subjects: int = 229) -> Path:
    """The 229 of the X-Net paper (or the first of them), at nine sites; every tenth with two masks."""
    for number in range(subjects):
        subject = f"{31768 + number:06d}"
        folder = root / "ATLAS_R1.1" / f"Site{1 + number % 9}" / subject / "t01"
        scan(folder / f"{subject}_t1w_deface_stx.nii.gz", number=number, shape=shape)
        for part in range(1 if number % 10 else 2):
            ending = f"_{part}" if part else ""
            mask(folder / f"{subject}_LesionSmooth{ending}_stx.nii.gz", number + part, shape)
    return root


def atlas_r20(root: Path, shape: tuple[int, ...] = SMALL) -> Path:
    """Training by site folders, one subject with two sessions; a test scan without mask; an empty mask."""
    for number, (subject, session) in enumerate(
        [("r001s001", 1), ("r001s001", 2), ("r001s002", 1), ("r002s001", 1), ("r009s001", 1), ("r009s002", 1)]
    ):
        name = f"sub-{subject}_ses-{session}_space-MNI152NLin2009aSym"
        folder = (
            root / "ATLAS_2" / "Training" / f"R{subject[1:4]}" / f"sub-{subject}" / f"ses-{session}" / "anat"
        )
        scan(folder / f"{name}_T1w.nii.gz", number=number, shape=shape)
        file = folder / f"{name}_label-L_desc-T1lesion_mask.nii.gz"
        if subject == "r009s002":
            write(file, np.zeros(shape, np.uint8), affine(MM, shape))
        else:
            mask(file, number, shape)
    name = "sub-r030s001_ses-1_space-MNI152NLin2009aSym"
    scan(root / "ATLAS_2" / "Testing" / "R030" / "sub-r030s001" / "ses-1" / "anat" / f"{name}_T1w.nii.gz")
    (root / "ATLAS_2" / "20220425_ATLAS_2.0_MetaData.xlsx").write_bytes(b"PK")
    return root


def isles2022(root: Path, cases: int = 5, shape: tuple[int, ...] = SMALL) -> Path:
    """DWI and ADC in dwi, FLAIR of another grid in anat, masks in derivatives; the last has no FLAIR."""
    for number in range(1, cases + 1):
        name = f"sub-strokecase{number:04d}_ses-0001"
        case = root / "ISLES-2022" / f"sub-strokecase{number:04d}" / "ses-0001"
        scan(case / "dwi" / f"{name}_dwi.nii.gz", "DWI", number, shape)
        scan(case / "dwi" / f"{name}_adc.nii.gz", "DWI", number, shape)
        (case / "dwi" / f"{name}_dwi.json").write_text("{}")
        if number < cases:
            finer = (shape[0] + 4, shape[1] + 4, shape[2] + 1)
            flair = head("FLAIR", lesion_mask(number, finer), number)
            write(case / "anat" / f"{name}_FLAIR.nii.gz", flair, affine((10.0, 10.0, 12.0), finer))
        mask(
            root / "ISLES-2022" / "derivatives" / case.parent.name / "ses-0001" / f"{name}_msk.nii.gz",
            number,
            shape,
        )
    return root


def spes(root: Path, cases: int = 5, shape: tuple[int, ...] = SMALL) -> Path:
    """A folder a case with seven channels and two labels; the second in the challenge's long names."""
    channels = {
        "T1c": "T1w",
        "T2": "FLAIR",
        "DWI": "DWI",
        "CBF": "DWI",
        "CBV": "DWI",
        "TTP": "DWI",
        "Tmax": "DWI",
    }
    for number in range(1, cases + 1):
        case = root / "SPES2015_Training" / f"Nr{number}"
        for channel, modality in channels.items():
            long = f"VSD.Brain.XX.O.MR_{channel}_reg.1270{number}"
            file = f"{long}/{long}.nii" if number == 2 else f"{channel}.nii"
            scan(case / file, modality, number, shape)
        for label, offset in (("penumbralabel", 0), ("corelabel", 1)):
            long = f"VSD.Brain.XX.XX.O.{label}.54{number}"
            mask(case / (f"{long}/{long}.nii" if number == 2 else f"{label}.nii"), number + offset, shape)
    return root


def bids(root: Path, shape: tuple[int, ...] = SMALL) -> Path:
    """Raw T1w, DWI and FLAIR with sessions and runs; lesion and brain masks; one subject unlabelled."""
    root.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "stroke", "BIDSVersion": "1.8.0"}')
    lesions = root / "derivatives" / "lesions"
    for number, (subject, session) in enumerate(
        [("01", 1), ("01", 2), ("02", 1), ("03", 1), ("04", 1), ("05", 1)]
    ):
        name = f"sub-{subject}_ses-{session}"
        places = Path(f"sub-{subject}") / f"ses-{session}"
        runs = ("_run-1", "_run-2") if subject == "03" else ("",)
        for turn, run in enumerate(runs):
            scan(root / places / "anat" / f"{name}{run}_T1w.nii.gz", number=number, shape=shape)
            if subject != "04":
                file = f"{name}{run}_label-lesion_mask.nii.gz"
                mask(lesions / places / "anat" / file, number + turn, shape)
        scan(root / places / "anat" / f"{name}_FLAIR.nii.gz", "FLAIR", number, shape)
        scan(root / places / "dwi" / f"{name}_dwi.nii.gz", "DWI", number, shape)
        mask(lesions / places / "anat" / f"{name}_desc-brain_mask.nii.gz", number, shape)
    mask(lesions / "sub-99" / "ses-1" / "anat" / "sub-99_ses-1_label-lesion_mask.nii.gz", shape=shape)
    return root


def loose(root: Path, shape: tuple[int, ...] = SMALL) -> Path:
    """Scans with masks beside them, one without, one mask without a scan."""
    for number in range(1, 7):
        scan(root / f"p{number}_T1w.nii.gz", number=number, shape=shape)
        if number < 6:
            mask(root / f"p{number}_lesion_mask.nii.gz", number, shape)
    mask(root / "q9_mask.nii.gz", shape=shape)
    return root


def decathlon(root: Path, model: str) -> Path:
    """A Medical Segmentation Decathlon tree with its ``dataset.json``; nnU-Net's file a channel for DWI."""
    modalities = ("T1w",) if model == "xnet" else ("DWI", "FLAIR")
    endings = [""] if len(modalities) == 1 else ["_0000", "_0001"]
    for folder, numbers in (("imagesTr", range(1, 6)), ("imagesTs", (9,))):
        for number in numbers:
            for modality, ending in zip(modalities, endings, strict=True):
                scan(root / folder / f"STROKE_{number}{ending}.nii.gz", modality, number)
    for number in range(1, 6):
        mask(root / "labelsTr" / f"STROKE_{number}.nii.gz", number)
    content = {
        "name": "Task11_Stroke",
        "modality": {str(i): modality for i, modality in enumerate(modalities)},
        "labels": {"0": "background", "1": "lesion"},
        "numTraining": 5,
        "numTest": 1,
        "training": [
            {"image": f"./imagesTr/STROKE_{n}.nii.gz", "label": f"./labelsTr/STROKE_{n}.nii.gz"}
            for n in range(1, 6)
        ],
        "test": ["./imagesTs/STROKE_9.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root

"""Simulated cases as files: seeded, with the volumes asked for, and no mask in two folds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from shared_nets.data import find_cases
from shared_nets.errors import UsageError
from shared_nets.simulation import acute_contrast, datasets, simulate_dataset, t1_contrast
from tests.simulation import heads


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("masks")
    return [heads.save_ball(folder / f"mask{i}.nii.gz", radius_mm=14.0 + i) for i in range(4)]


def simulate(folder: Path, masks: list[Path], paint=t1_contrast, cases: int = 4, **options) -> Path:
    settings = {"shape": (48, 40, 10), "spacing": (4.0, 8.0), "folds": 2, "quiet": True, **options}
    return simulate_dataset(folder, masks, [heads.brain()], paint, cases, **settings)


def test_the_same_seed_gives_the_same_bytes_and_another_other_cases(
    tmp_path: Path, masks: list[Path]
) -> None:
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        simulate(tmp_path / name, masks, seed=seed)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.nii.gz"))
    assert len(files) == 8
    for file in files:
        one, again, other = ((tmp_path / name / file).read_bytes() for name in ("one", "again", "other"))
        assert one == again
        assert one != other


def test_every_case_shows_the_lesion_asked_for_on_its_own_grid(tmp_path: Path, masks: list[Path]) -> None:
    listed = json.loads(simulate(tmp_path, masks, smallest_ml=3.0).read_text())["training"]
    assert [case["fold"] for case in listed] == [0, 1, 0, 1]
    for case in listed:
        image, label = (nib.load(tmp_path / case[key]) for key in ("image", "label"))
        assert image.shape == label.shape == (40, 48, 10)
        np.testing.assert_allclose(image.affine, label.affine)
        np.testing.assert_allclose(nib.affines.voxel_sizes(label.affine), (4, 4, 8), rtol=1e-5)
        assert set(np.unique(label.dataobj)) == {0, 1}
        assert np.asarray(label.dataobj).sum() * 4 * 4 * 8 / 1000 >= 3.0


def test_a_missing_channel_is_no_file_and_the_list_is_read_back(tmp_path: Path, masks: list[Path]) -> None:
    data_list = simulate(tmp_path, masks, acute_contrast, cases=12)
    cases = [
        *find_cases(data_list, "training", ("DWI", "FLAIR"), fold=0),
        *find_cases(data_list, "validation", ("DWI", "FLAIR"), fold=0),
    ]
    assert len(cases) == 12
    missing = [path for case in cases for path in case["image"] if path is None]
    assert 0 < len(missing) < 12
    for case in cases:
        for path in filter(None, case["image"]):
            assert np.ptp(np.asarray(nib.load(path).dataobj)) > 0


def test_too_few_masks_for_the_folds_are_told(tmp_path: Path, masks: list[Path]) -> None:
    with pytest.raises(UsageError, match="do not make 2 folds"):
        simulate(tmp_path, masks[:1])


def test_a_lesion_too_large_to_be_found_is_told(tmp_path: Path, masks: list[Path]) -> None:
    with pytest.raises(UsageError, match="less than 900 mL"):
        simulate(tmp_path, masks, smallest_ml=900.0)


def test_masks_too_small_to_be_shown_leave_no_fold_without(tmp_path: Path, masks: list[Path]) -> None:
    """In order of their names, every second one is too small."""
    small = [heads.save_ball(tmp_path / f"mask{i}.nii.gz", radius_mm=1.0) for i in range(4)]
    dealt = [path for pair in zip(masks, small, strict=True) for path in pair]
    listed = json.loads(simulate(tmp_path / "out", dealt).read_text())["training"]
    assert {case["fold"] for case in listed} == {0, 1}
    with pytest.raises(UsageError, match=r"from 1 masks do not make 2 folds: .* masks of 0\.05 to 400 mL"):
        simulate(tmp_path / "other", [*small, masks[0]])


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ({"shape": (0, 40, 10)}, "A volume of 0×40×10 voxels cannot be simulated: give at least 16 rows"),
        ({"shape": (48, 15, 10)}, "48×15×10 voxels"),
        ({"shape": (48, 40, 0)}, "48×40×0 voxels"),
        ({"spacing": (0.0, 8.0)}, "A spacing of 0×8 mm is none"),
        ({"spacing": (4.0, -8.0)}, "A spacing of 4×-8 mm is none"),
        ({"spacing": (4.0, np.nan)}, "A spacing of 4×nan mm is none"),
    ],
)
def test_a_grid_that_is_none_is_told(
    tmp_path: Path, masks: list[Path], grid: dict[str, tuple[float, ...]], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        simulate(tmp_path / "out", masks, **grid)
    assert not (tmp_path / "out").exists()


def test_cases_of_an_earlier_run_are_not_mixed_with_new_ones(tmp_path: Path, masks: list[Path]) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "sim0004_0001.nii.gz").write_bytes(b"")
    with pytest.raises(UsageError, match=r"imagesTr holds files already, .*: remove them, or choose"):
        simulate(tmp_path, masks)
    assert [path.name for path in tmp_path.iterdir()] == ["imagesTr"]


def test_a_run_that_was_broken_off_can_be_repeated(
    tmp_path: Path, masks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the third case; there is a note in the folder, and an empty folder where images go."""
    (tmp_path / "out" / "imagesTr").mkdir(parents=True)
    (tmp_path / "out" / "notes.txt").touch()
    visible, drawn = datasets._visible, []

    def broken_off(*arguments: Any) -> Any:
        drawn.append(visible(*arguments))
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "_visible", broken_off)
        with pytest.raises(KeyboardInterrupt):
            simulate(tmp_path / "out", masks)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
    simulate(tmp_path / "out", masks)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"notes.txt", "imagesTr", "labelsTr", "datalist.json"}
    assert len(find_cases(tmp_path / "out" / "datalist.json", "training", fold=0)) == 2

"""Anatomies: tissues and distances where they must be, and unusable scans refused in words."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from shared_nets.errors import ScanGeometryError, ScanNotFoundError, UnreadableScanError, UsageError
from shared_nets.simulation import anatomy_of, icbm_anatomy, scan_anatomy
from shared_nets.simulation.anatomy import (
    BRAIN_CENTRE_MM,
    CLOSENESS,
    CSF,
    FAR_MM,
    GREY,
    LEFT_VENTRICLE,
    RIGHT_VENTRICLE,
    SCAN,
    WHITE,
)
from tests.heads import dice
from tests.simulation import heads


def test_padding_keeps_the_place_and_gives_distances() -> None:
    anatomy = heads.brain()
    tissues, affine = heads.tissue_maps()
    brain = anatomy.maps[: WHITE + 1].sum(0) > 0.5
    before = nib.affines.apply_affine(affine, np.argwhere(tissues.sum(0) > 0.5)).mean(0)
    np.testing.assert_allclose(
        nib.affines.apply_affine(anatomy.affine, np.argwhere(brain.numpy())).mean(0), before, atol=1e-6
    )
    depth = FAR_MM - anatomy.maps[CLOSENESS]
    assert (depth[brain] < 0).all()
    assert (depth[~brain] > 0).all()
    assert depth.max() == FAR_MM
    # Along x, from the brain's centre to the right, the surface is the ellipsoid's radius away.
    right = (
        nib.affines.apply_affine(np.linalg.inv(anatomy.affine), np.array(BRAIN_CENTRE_MM)).round().astype(int)
    )
    for voxels in (24, 26, 28):
        expected = voxels * heads.VOXEL_MM - heads.RADII_MM[0]
        at = depth[right[0] + voxels, right[1], right[2]].item()
        assert at == pytest.approx(expected, abs=heads.VOXEL_MM)


def test_ventricles_are_found_on_their_side_with_distances() -> None:
    anatomy = heads.brain()
    fluid = anatomy.maps[CSF] == 1
    for channel, sign in ((LEFT_VENTRICLE, -1), (RIGHT_VENTRICLE, 1)):
        inside = anatomy.maps[channel] == FAR_MM
        assert inside.sum() > 30  # 27 mm³ each
        assert (fluid[inside]).all()
        x = nib.affines.apply_affine(anatomy.affine, np.argwhere(inside.numpy()))[:, 0]
        assert (sign * x >= 0).all()
        # Next to the ventricle is one voxel away.
        shell = torch.nn.functional.max_pool3d(inside[None].float(), 3, 1, 1)[0].bool() & ~inside
        distance = FAR_MM - anatomy.maps[channel][shell]
        assert distance.min() == pytest.approx(heads.VOXEL_MM)
        assert distance.max() <= heads.VOXEL_MM * 3**0.5 + 1e-4


def test_sulci_are_no_ventricles() -> None:
    anatomy = heads.brain()
    depth = FAR_MM - anatomy.maps[CLOSENESS]
    sulci = (anatomy.maps[CSF] == 1) & (depth > -8)
    assert sulci.any()
    assert (anatomy.maps[LEFT_VENTRICLE][sulci] < FAR_MM).all()


def test_a_brain_without_visible_ventricles_has_none() -> None:
    tissues, affine = heads.tissue_maps()
    tissues[WHITE] += tissues[CSF]
    tissues[CSF] = 0
    maps = anatomy_of("solid", tissues.sum(0), tissues, affine).maps
    assert not maps[[LEFT_VENTRICLE, RIGHT_VENTRICLE]].any()


def test_white_matter_is_one() -> None:
    anatomy = heads.brain()
    assert anatomy.maps[SCAN][anatomy.maps[WHITE] == 1].median() == pytest.approx(1)


def test_tissues_of_a_scan_are_found_and_it_is_moved_to_mni(tmp_path: Path) -> None:
    anatomy = scan_anatomy(heads.save_t1(tmp_path / "t1.nii.gz", shift_mm=40.0))
    truth = heads.brain()
    assert anatomy.maps.shape == truth.maps.shape
    np.testing.assert_allclose(anatomy.affine, truth.affine, atol=heads.VOXEL_MM)
    for tissue in (CSF, GREY, WHITE):
        found, true = anatomy.maps[tissue] > 0.5, truth.maps[tissue] > 0.5
        assert dice(found, true) > 0.95
    assert anatomy.name == "t1.nii.gz"


def test_a_scan_of_another_orientation_gives_the_same_anatomy(tmp_path: Path) -> None:
    path = heads.save_t1(tmp_path / "t1.nii.gz")
    image = nib.load(path)
    turned = nib.as_closest_canonical(image).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nib.save(turned, tmp_path / "turned.nii.gz")
    one, other = scan_anatomy(path), scan_anatomy(tmp_path / "turned.nii.gz")
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    np.testing.assert_allclose(one.maps, other.maps, atol=1e-3)


def test_the_template_lies_in_mni_with_tissues_in_order() -> None:
    anatomy = icbm_anatomy()
    brain = anatomy.maps[: WHITE + 1].sum(0) > 0.5
    corners = np.argwhere(brain.numpy())
    centre = nib.affines.apply_affine(anatomy.affine, (corners.min(0) + corners.max(0)) / 2)
    np.testing.assert_allclose(centre, BRAIN_CENTRE_MM, atol=4)
    levels = [anatomy.maps[SCAN][anatomy.maps[tissue] > 0.9].median() for tissue in (CSF, GREY, WHITE)]
    assert levels[0] < levels[1] < levels[2] == pytest.approx(1, abs=0.05)
    assert 1000 < brain.sum() / 1000 < 2200  # mL, at 1 mm


@pytest.mark.parametrize("package", ["nilearn", "sklearn"])
def test_a_missing_package_is_told_with_its_remedy(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # what Python does for a module that must not be found
    path = heads.save_t1(tmp_path / "t1.nii.gz")
    with pytest.raises(UsageError, match=r"pip install .*\[simulation\]"):
        icbm_anatomy() if package == "nilearn" else scan_anatomy(path)


def test_scans_that_are_not_there_or_not_nifti_are_told(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match="gone"):
        scan_anatomy(tmp_path / "gone.nii.gz")
    (tmp_path / "text.nii").write_text("no scan " * 100)
    with pytest.raises(UnreadableScanError, match=r"text\.nii"):
        scan_anatomy(tmp_path / "text.nii")


@pytest.mark.parametrize("has_head", [False, True])
def test_a_scan_without_enough_brain_is_told(tmp_path: Path, has_head: bool) -> None:
    scan = np.zeros((40, 40, 40), np.float32)
    scan[18:22, 18:22, 18:22] = np.random.default_rng(0).uniform(50, 100, (4, 4, 4))
    nib.save(nib.Nifti1Image(scan, np.diag([3.0, 3.0, 3.0, 1.0])), tmp_path / "tiny.nii.gz")
    with pytest.raises(ScanGeometryError, match=r"tiny.nii.gz .* mL of brain"):
        scan_anatomy(tmp_path / "tiny.nii.gz", has_head)

"""Lesion shapes: volumes and places kept, and masks that are none refused in words."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from shared_nets.errors import MaskError, ScanGeometryError, ScanNotFoundError, UnreadableScanError
from shared_nets.simulation import place, random_ellipsoid, read_masks
from shared_nets.simulation.fields import plane_coordinates
from tests.simulation import heads


def test_a_mask_keeps_its_volume_and_place(tmp_path: Path) -> None:
    path = heads.save_ball(tmp_path / "ball.nii.gz", 15.0, (-30.0, 10.0, 24.0))
    (shape,) = read_masks([path])
    assert shape.volume_ml == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.05)
    np.testing.assert_allclose(shape.points.mean(0), [-30, 10, 24], atol=1)
    assert (np.linalg.norm(shape.points - [-30, 10, 24], axis=1) <= 15 + 1e-6).all()
    # A margin of zeros, so that sampling fades out.
    mask = shape.mask[0].numpy()
    assert all(not mask.take(edge, axis).any() for axis in range(3) for edge in (0, -1))


def test_masks_too_small_or_too_large_are_left_out(tmp_path: Path) -> None:
    paths = [heads.save_ball(tmp_path / f"{r}.nii.gz", r, (0.0, -20.0, 10.0)) for r in (1.0, 12.0, 60.0)]
    (shape,) = read_masks(paths)  # 0.008, 7 and 900 mL
    assert shape.volume_ml == pytest.approx(7.2, rel=0.05)


def test_an_empty_mask_is_left_out(tmp_path: Path) -> None:
    assert read_masks([heads.save_ball(tmp_path / "empty.nii.gz", radius_mm=-1.0)]) == []


def test_a_mask_outside_mni_space_is_told(tmp_path: Path) -> None:
    path = heads.save_ball(tmp_path / "native.nii.gz")
    image = nib.load(path)
    nib.save(
        nib.Nifti1Image(np.asarray(image.dataobj), np.diag([2.0, 2.0, 2.0, 1.0])), path
    )  # corner at 0, 0, 0
    with pytest.raises(ScanGeometryError, match=r"native.nii.gz .* MNI"):
        read_masks([path])


def test_masks_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(ScanNotFoundError, match="gone"):
        read_masks([tmp_path / "gone.nii.gz"])
    whole = heads.save_ball(tmp_path / "ball.nii.gz").read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableScanError, match=r"half.nii.gz is truncated"):
        read_masks([tmp_path / "half.nii.gz"])
    with gzip.open(tmp_path / "text.nii.gz", "wt") as stream:
        stream.write("no mask " * 100)
    with pytest.raises(UnreadableScanError, match=r"text\.nii\.gz"):
        read_masks([tmp_path / "text.nii.gz"])


def test_a_probability_map_is_no_mask(tmp_path: Path) -> None:
    path = heads.save_ball(tmp_path / "soft.nii.gz")
    image = nib.load(path)
    soft = np.asarray(image.dataobj) * np.linspace(0.1, 1, 91, dtype=np.float32)[:, None, None]
    nib.save(nib.Nifti1Image(soft, image.affine), path)
    with pytest.raises(MaskError, match=r"soft.nii.gz is not binary"):
        read_masks([path])


def test_ellipsoids_lie_at_their_centre_and_vary_in_size() -> None:
    rng = np.random.default_rng(0)
    shapes = [random_ellipsoid(rng, np.array([20.0, -10.0, 30.0])) for _ in range(60)]
    for shape in shapes:
        np.testing.assert_allclose(shape.points.mean(0), [20, -10, 30], atol=1.5)
    volumes = np.array([shape.volume_ml for shape in shapes])
    assert volumes.min() < 0.3
    assert volumes.max() > 5
    assert 0.4 < np.median(volumes) < 2.5  # a ball of 6 mm has 0.9 mL


def test_shapes_are_mirrored_half_the_time_and_stay_about_where_they_are() -> None:
    rng = np.random.default_rng(0)
    shape = heads.ball(centre=(40.0, -60.0, 30.0))
    centres = np.array([place(rng, shape).points().mean(0) for _ in range(300)])
    assert 0.42 < (centres[:, 0] < 0).mean() < 0.58
    centres[:, 0] = np.abs(centres[:, 0])
    np.testing.assert_allclose(centres.mean(0), [40, -60, 30], atol=2)
    np.testing.assert_allclose(centres.std(0), 4, rtol=0.2)  # turned and scaled about themselves


def test_points_of_a_placed_lesion_are_inside_it() -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        placed = place(rng, heads.ball())
        z = placed.points()[0, 2]
        plane = plane_coordinates((160, 160), 1.0, np.array([0.0, -20.0, z]), np.eye(3))
        fraction = placed.fraction(rng, plane)
        assert fraction.max() > 0.5
        assert fraction.min() >= 0
        assert fraction.max() <= 1 + 1e-6


def test_the_central_slice_of_a_ball_has_its_area() -> None:
    plane = plane_coordinates((100, 100), 1.0, np.array([30.0, -20.0, 20.0]), np.eye(3))
    fraction = heads.unmoved(heads.ball(10.0)).fraction(np.random.default_rng(0), plane)
    assert fraction.sum().item() == pytest.approx(np.pi * 10**2, rel=0.03)

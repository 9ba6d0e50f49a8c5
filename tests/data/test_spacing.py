"""Voxels of another spacing and back, against MONAI, hand-computed values and PyTorch's interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai import transforms
from monai.data import MetaTensor
from monai.transforms import CropForegroundd, Invertd
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from shared_nets.data import Spacingd
from shared_nets.data import spacing as spacing_module
from shared_nets.data.spacing import linear_shares, probability_on, rescale, spline_shares
from shared_nets.errors import UsageError


def grid(kind: str, sizes: tuple[float, float, float]) -> np.ndarray:
    """An affine with voxels of these sizes in mm."""
    axes = {
        "straight": np.eye(3),
        "swapped and flipped": np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]]),
        "oblique": Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix(),
        "sheared": np.array([[1, 0.1, 0], [0, 1, -0.05], [0, 0, 1]]),
    }[kind]
    affine = np.eye(4)
    affine[:3, :3] = axes * sizes
    affine[:3, 3] = -90.5, 33.25, 7
    return affine


@pytest.mark.parametrize("kind", ["straight", "swapped and flipped", "oblique", "sheared"])
@pytest.mark.parametrize(
    ("sizes", "pixdim"),
    [
        ((1.0, 1.0, 1.0), (2.0, 2.0, -1.0)),
        ((0.43, 0.47, 5.0), (1.5, 1.5, -1.0)),
        ((3.1, 2.9, 1.2), (2.0, 2.0, -1.0)),  # finer
        ((1.0, 0.9, 1.0), (1.0, 1.0, 1.7)),
    ],
)
def test_the_way_back_interpolates_log_odds_by_splines(
    kind: str, sizes: tuple[float, float, float], pixdim: tuple[float, float, float]
) -> None:
    """Against MONAI's own way back of the same splines, in float64."""
    rng = np.random.default_rng(0)
    image = MetaTensor(torch.from_numpy(rng.random((1, 37, 30, 11))).float(), affine=grid(kind, sizes))
    image.meta["filename_or_obj"] = "a.nii"
    torch.manual_seed(1)
    certain = 3e-5  # so near to 0 and 1
    offset = np.log(certain / (1 - certain))
    results = []
    for spacing in (
        Spacingd("image", pixdim),
        transforms.Spacingd("image", pixdim, mode=3, padding_mode="nearest"),
    ):
        there = transforms.Compose([spacing, CropForegroundd("image", "image", select_fn=_middle, margin=0)])
        case = there({"image": image.clone(), "name": "a"})
        if not results:
            pred = 0.1 + 0.8 * torch.rand(2, *case["image"].shape[1:])
            pred[0, 4:, 5] = 0
        # Cropping fills up with 0, which is a probability of a half in log odds.
        odds = torch.logit(certain + (1 - 2 * certain) * pred) - offset
        case["pred"] = MetaTensor(pred if not results else odds)
        results.append(Invertd("pred", there, orig_keys="image", nearest_interp=False)(case)["pred"])
    ours, monais = results
    expected = torch.sigmoid(monais.as_tensor().double() + offset)
    expected = ((expected - certain) / (1 - 2 * certain)).clamp(0, 1)
    assert ours.shape == monais.shape == (2, *image.shape[1:])
    assert ours.dtype == monais.dtype
    torch.testing.assert_close(ours.as_tensor().double(), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.affine, image.affine, atol=1e-6)
    assert ours.applied_operations == []
    assert ours.meta["filename_or_obj"] == "a.nii"


def test_larger_voxels_are_means() -> None:
    """From 1 to 2 mm: the voxel in the middle, and half of each neighbour in plane; not across slices."""
    values = torch.rand(1, 9, 7, 3)
    image = MetaTensor(values.clone(), affine=grid("straight", (1.0, 1.0, 3.0)))
    larger = Spacingd("image", (2.0, 2.0, -1.0))({"image": image})["image"]
    assert larger.shape == (1, 5, 4, 3)
    around = values[0, 3:6, 1:4, 2]  # of the new voxel (2, 1, 2)
    shares = torch.tensor([0.25, 0.5, 0.25])
    torch.testing.assert_close(larger[0, 2, 1, 2].as_tensor(), shares @ around @ shares)
    shares = torch.tensor([2 / 3, 1 / 3])
    torch.testing.assert_close(larger[0, 0, 0, 0].as_tensor(), shares @ values[0, :2, :2, 0] @ shares)
    assert torch.equal(image.as_tensor(), values)


def test_stripes_finer_than_the_voxels_become_grey() -> None:
    stripes = torch.arange(40).remainder(2).float().expand(1, 30, 40)[..., None].repeat(1, 1, 1, 4)
    image = MetaTensor(stripes, affine=grid("oblique", (1.0, 1.0, 3.0)))
    ours = Spacingd("image", (2.0, 2.0, -1.0))({"image": image})["image"]
    inside = ours[:, 1:-1, 1:-1].as_tensor()
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5))
    monais = transforms.Spacingd("image", (2.0, 2.0, -1.0))({"image": image})["image"]
    assert monais[:, 1:-1, 1:-1].max() < 1e-4  # it takes every second stripe: the black ones


@pytest.mark.parametrize("pixdim", [(1.0, 0.9, -1.0), (1.0, 1.0, 3.0), (0.5, 0.6, 1.5)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_voxels_that_do_not_become_larger_are_monais(pixdim: tuple[float, ...], mode: str) -> None:
    image = MetaTensor(torch.rand(1, 12, 10, 6), affine=grid("swapped and flipped", (1.0, 1.0, 3.0)))
    ours = Spacingd("image", pixdim, mode=mode)({"image": image})["image"]
    monais = transforms.Spacingd("image", pixdim, mode=mode)({"image": image})["image"]
    torch.testing.assert_close(ours.as_tensor(), monais.as_tensor(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.affine, monais.affine, atol=1e-9)


@pytest.mark.parametrize("kind", ["straight", "swapped and flipped", "oblique", "sheared"])
def test_larger_voxels_lie_where_monais_do(kind: str) -> None:
    image = MetaTensor(torch.rand(1, 31, 26, 7), affine=grid(kind, (0.9, 1.1, 3.0)))
    image.meta["filename_or_obj"] = "a.nii"
    ours, monais = (
        spacing("image", (2.0, 2.0, -1.0))({"image": image})["image"]
        for spacing in (Spacingd, transforms.Spacingd)
    )
    assert ours.shape == monais.shape
    assert ours.dtype == monais.dtype
    np.testing.assert_allclose(ours.affine, monais.affine, atol=1e-9)
    assert ours.meta["filename_or_obj"] == "a.nii"
    assert len(ours.applied_operations) == 1


@pytest.mark.parametrize("seed", range(4))
def test_an_orientation_written_with_six_digits_takes_the_same_way(seed: int) -> None:
    """As DICOM, NRRD and MHA have it, and NIfTI in float32: the same voxels, and means of their extent."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=seed).as_matrix() * (0.5, 0.5, 1.0)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 300, 280, 4), dtype=np.float32))
    exact, *written = (
        Spacingd("image", (1.2, 1.2, -1.0), mode="bilinear", padding_mode="border")(
            {"image": MetaTensor(noise, affine=torch.from_numpy(matrix))}
        )["image"]
        for matrix in (affine, affine.round(6), affine.astype(np.float32).astype(np.float64))
    )
    for image in written:
        torch.testing.assert_close(image.as_tensor(), exact.as_tensor(), atol=0.01, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_what_comes_back_has_the_affine_that_went_in(mode: str) -> None:
    """Also where the axes were straightened: of three digits, that moves a corner by more than 0.1 mm."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (20, -15, 24), degrees=True).as_matrix().round(3) * (2, 2, 6)
    image = MetaTensor(torch.rand(1, 128, 110, 20), affine=affine)
    there = transforms.Compose([Spacingd("image", (1.8, 1.8, -1.0), mode=mode, padding_mode="border")])
    case = there({"image": image})
    case["pred"] = MetaTensor(torch.rand(case["image"].shape))
    for nearest in (True, False):
        back = Invertd("pred", there, orig_keys="image", nearest_interp=nearest)(dict(case))["pred"]
        np.testing.assert_array_equal(back.affine, affine)
    np.testing.assert_array_equal(there.inverse({"image": case["image"]})["image"].affine, affine)


def test_slices_and_lazy_calls_are_monais() -> None:
    slice_ = MetaTensor(torch.rand(1, 20, 18), affine=np.eye(3))
    volume = MetaTensor(torch.rand(1, 20, 18, 4), affine=np.eye(4))
    for image, lazy in ((slice_, False), (volume, True)):
        ours, monais = (
            spacing("image", (2.0, 2.0, 2.0), lazy=lazy)({"image": image})["image"]
            for spacing in (Spacingd, transforms.Spacingd)
        )
        assert torch.equal(ours.as_tensor(), monais.as_tensor())
        assert len(ours.pending_operations) == len(monais.pending_operations) == int(lazy)


@pytest.mark.parametrize(("old", "new"), [(40, 20), (40, 27), (40, 11), (20, 33), (20, 20)])
def test_shares_are_those_of_antialiased_interpolation(old: int, new: int) -> None:
    """PyTorch's, on images whose edges, not the centres of the outermost pixels, lie upon each other."""
    values = torch.rand(1, 1, 1, old, dtype=torch.float64)
    expected = F.interpolate(values, (1, new), mode="bilinear", antialias=True, align_corners=False)
    ours = linear_shares(old, new, old / new, (old / new - 1) / 2) @ values[0, 0, 0].numpy()
    np.testing.assert_allclose(ours, expected[0, 0, 0], atol=1e-6)


def test_what_is_constant_keeps_its_value_in_larger_voxels() -> None:
    image = MetaTensor(torch.full((2, 13, 12, 5), 7.0), affine=grid("oblique", (0.7, 0.8, 1.1)))
    larger = Spacingd("image", (1.0, 2.5, 3.3))({"image": image})["image"]
    torch.testing.assert_close(larger.as_tensor(), torch.full_like(larger.as_tensor(), 7.0))


def test_a_grid_that_did_not_change_changes_no_probability() -> None:
    spacing = Spacingd("image", (2.0, 2.0, -1.0))
    image = MetaTensor(torch.rand(1, 20, 18, 6), affine=grid("oblique", (2.0, 2.0, 4.0)))
    back = spacing.inverse(spacing({"image": image.clone()}))["image"]
    assert torch.equal(back.as_tensor(), image.as_tensor())


def test_what_is_certain_all_around_stays_so() -> None:
    to_here = np.diag([0.4, 0.45, 1.0, 1.0])
    for value in (0.0, 0.5, 1.0):
        back = probability_on(torch.full((1, 9, 8, 3), value), to_here, (22, 17, 3))
        torch.testing.assert_close(back, torch.full_like(back, value), rtol=0, atol=1e-6)
        assert value > 0 or not back.any()


def test_discs_keep_their_area() -> None:
    """Pixels of 2 mm hold the share of them that is in a disc of 7 mm; linear interpolation takes 2.3 %."""
    rng = np.random.default_rng(0)
    fine = (np.arange(400) + 0.5) / 10 - 20
    to_here = np.diag([0.125, 0.125, 1.0, 1.0])
    to_here[:2, 3] = -0.4375  # pixels of 0.25 mm
    areas = []
    for x, y in rng.uniform(-1, 1, (40, 2)):
        inside = np.hypot(fine[:, None] - x, fine - y) < 7
        share = torch.from_numpy(inside.reshape(20, 20, 20, 20).mean((1, 3))).float()
        back = probability_on(share[None, ..., None], to_here, (160, 160, 1))
        areas.append(float((back > 0.5).sum()) / 16)
    assert abs(np.mean(areas) / (np.pi * 49) - 1) < 0.01


@pytest.mark.parametrize("kind", ["straight", "swapped and flipped", "oblique"])
def test_the_way_back_needs_no_coordinates(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spacing = Spacingd("image", (2.0, 2.0, -1.0))
    image = MetaTensor(torch.rand(1, 256, 240, 20), affine=grid(kind, (0.9, 0.9, 6.0)))
    case = spacing({"image": image})
    monkeypatch.setattr(spacing_module, "_resample", None)
    assert spacing.inverse(case)["image"].shape == image.shape


def _middle(image: torch.Tensor) -> torch.Tensor:
    inside = torch.zeros_like(image, dtype=torch.bool)
    inside[:, 2:-1, 1:-2] = True
    return inside


def test_rescaling_is_interpolation_at_every_voxels_place() -> None:
    rng = np.random.default_rng(0)
    volume = rng.random((2, 9, 1, 14))
    to_here = np.diag([0.31, 0.5, 1.7, 1.0])
    to_here[:3, 3] = -0.9, 0.2, 0.4
    expected = [
        ndimage.affine_transform(v, to_here[:3, :3], to_here[:3, 3], (33, 4, 9), order=3, mode="nearest")
        for v in volume
    ]
    ours = rescale(torch.from_numpy(volume), to_here, (33, 4, 9), spline_shares)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_labels_come_back_by_the_nearest_voxel() -> None:
    affine = grid("swapped and flipped", (1.0, 1.0, 3.0))
    labels = MetaTensor(torch.randint(0, 5, (1, 20, 18, 6)).float(), affine=affine)
    spacing = Spacingd("label", (2.0, 2.0, -1.0), mode="nearest")
    back = spacing.inverse(spacing({"label": labels}))["label"]
    monais = transforms.Spacingd("label", (2.0, 2.0, -1.0), mode="nearest")
    assert torch.equal(back, monais.inverse(monais({"label": labels}))["label"])
    assert set(back.unique().tolist()) <= set(range(5))


@pytest.mark.parametrize(
    "pixdim", [2.0, (2.0,), (1.0, 1.0), (1, 1, 1, 1), (1, 1, float("nan")), "fine", None]
)
def test_a_spacing_that_is_not_three_numbers(pixdim: object) -> None:
    """MONAI would make two of them up, and resample the slices too."""
    with pytest.raises(UsageError, match="spacing is three numbers, in mm"):
        Spacingd("image", pixdim)  # type: ignore[arg-type]

"""head_mask and ScaleHeadIntensityd on heads whose true outline is known."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import CropForegroundd

from shared_nets.data import ScaleHeadIntensityd, cranium_mask, head_mask
from tests.heads import dice


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < radius**2


SHAPE, CENTRE = (72, 78, 66), (33, 42, 30)
HEAD = ball(SHAPE, CENTRE, 24)
BRAIN = ball(SHAPE, CENTRE, 18)
VENTRICLE = ball(SHAPE, CENTRE, 6)


def scan(air: float = 0.0, skull: bool = True, seed: int = 0) -> np.ndarray:
    """Scalp, dark skull and cerebrospinal fluid, brain; magnitude noise of standard deviation ``air``."""
    rng = np.random.default_rng(seed)
    image = np.zeros(SHAPE)
    if skull:
        image[HEAD] = 1000  # scalp and fat
        image[ball(SHAPE, CENTRE, 22)] = 50  # bone
    image[BRAIN] = 500
    image[VENTRICLE] = 120
    if air:
        image = np.hypot(image + rng.normal(0, air, SHAPE), rng.normal(0, air, SHAPE))
    return image.astype(np.float32)


@pytest.mark.parametrize(
    ("image", "truth"),
    [
        (scan(), HEAD),
        (scan(air=20), HEAD),
        (scan(air=80), HEAD),
        (scan(skull=False), BRAIN),
        (scan(skull=False) * 1e-3, BRAIN),
        (scan(skull=False) * 1e5, BRAIN),
        (np.where(BRAIN, (scan(skull=False) - 450) / 100, 0), BRAIN),  # z-scored, background 0
        (np.where(BRAIN, scan(skull=False), -1024), BRAIN),
        (scan() + 2000 * ball(SHAPE, (33, 42, 50), 2), HEAD),  # a bright vessel
        (scan(air=20) * np.where(ball(SHAPE, (0, 0, 0), 26), 1000, 1), HEAD),  # air under a coil
    ],
    ids=["clean", "noise", "loud", "stripped", "small", "large", "z-scored", "offset", "vessel", "corner"],
)  # fmt: skip
def test_head_is_found(image: np.ndarray, truth: np.ndarray) -> None:
    mask = head_mask(image[None].astype(np.float32))
    assert mask.dtype == bool
    assert mask.shape == (1, *SHAPE)
    # Blocks of 3 mm around a ball of radius 18-24 mm: Dice above 0.9 is an outline within a block.
    assert dice(mask[0], truth) > 0.9
    # Never more than two blocks cut off or added on any side: what the crop rests on.
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found, true = np.flatnonzero(mask[0].any(others)), np.flatnonzero(truth.any(others))
        assert abs(found[0] - true[0]) <= 6
        assert abs(found[-1] - true[-1]) <= 6


def test_ventricles_and_skull_are_inside() -> None:
    mask = head_mask(scan(air=20)[None])[0]
    assert mask[BRAIN].all()
    assert mask[VENTRICLE].all()


def test_what_floats_in_the_air_is_left_out() -> None:
    image = scan(air=20)
    image[:4, :4, :4] = 900  # a marker beside the head
    assert not head_mask(image[None])[0, :6, :6, :6].any()


def test_any_channel_counts_and_missing_ones_do_not() -> None:
    one = scan(air=20)
    alone = head_mask(one[None])
    for channels in ([one, np.zeros_like(one)], [np.zeros_like(one), one], [one, np.full_like(one, 7)]):
        np.testing.assert_array_equal(head_mask(np.stack(channels)), alone)
    halves = np.stack([np.where(np.arange(SHAPE[0])[:, None, None] < 33, one, 0), one * 0])
    halves[1] = one - halves[0]
    assert dice(head_mask(halves)[0], HEAD) > 0.9


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 4.0), (3.0, 3.0, 3.0)])
def test_kind_device_and_voxel_size(spacing: tuple[float, ...]) -> None:
    tensor = torch.from_numpy(scan(air=20))[None]
    image = MetaTensor(tensor, affine=torch.diag(torch.tensor([*spacing, 1.0])))
    mask = head_mask(image)
    assert isinstance(mask, torch.Tensor)
    assert mask.dtype == torch.bool
    assert mask.device == image.device
    assert dice(mask[0].numpy(), HEAD) > 0.85
    assert isinstance(head_mask(tensor), torch.Tensor)


@pytest.mark.parametrize("seed", range(20))
def test_an_image_that_varies_has_a_head(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, 3))
    image = np.zeros((1, *shape), dtype=np.float32)
    image.flat[rng.integers(image.size, size=seed % 4 + 1)] = rng.normal(0, 10.0 ** rng.integers(-6, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = head_mask(image)
    assert mask.shape == image.shape
    assert mask.any() == (image.min() < image.max())


def test_a_constant_image_has_none() -> None:
    assert not head_mask(np.full((2, 9, 8, 7), 3.0, dtype=np.float32)).any()


def test_crop_foreground_takes_it() -> None:
    image = MetaTensor(torch.from_numpy(scan(air=20))[None])
    crop = CropForegroundd("image", source_key="image", select_fn=head_mask, margin=2)
    cropped = pickle.loads(pickle.dumps(crop))({"image": image})["image"]
    assert all(48 <= n <= 62 for n in cropped.shape[1:])
    assert float(cropped.sum()) > 0.99 * float(image[0][torch.from_numpy(HEAD)].sum())


# ---- intensities ----


def scaled(*channels: np.ndarray, **options: Any) -> np.ndarray:
    image = MetaTensor(torch.from_numpy(np.stack(channels)))
    return ScaleHeadIntensityd("image", **options)({"image": image})["image"].numpy()


def test_percentiles_over_the_head_become_0_and_1() -> None:
    """Of the phantom's own head; the one that is found differs by a block of 3 mm here and there."""
    image = scan(air=20)
    low, high = np.percentile(image[HEAD], [25, 75])
    assert high > 10 * np.percentile(image, 75)  # those of the whole image are air
    result = scaled(image, lower=25, upper=75)[0]
    np.testing.assert_allclose(result, np.clip((image - low) / (high - low), 0, 1), atol=0.05)


def test_result_does_not_depend_on_field_of_view_or_units() -> None:
    image = scan(air=20)
    inside = (slice(15, -15),) * 3
    noise = np.random.default_rng(1).normal(0, 20, (2, *(n + 30 for n in SHAPE)))
    for air in (np.zeros_like(noise[0]), np.hypot(*noise)):  # blank, or as noisy as the scan's own
        wide = air.astype(np.float32)
        wide[inside] = image
        np.testing.assert_allclose(scaled(wide)[0][inside], scaled(image)[0], atol=0.02)
    np.testing.assert_allclose(scaled(image * 7e-4)[0], scaled(image)[0], atol=1e-4)


def test_air_stays_dark() -> None:
    assert scaled(scan(air=20))[0][~ball(SHAPE, CENTRE, 30)].mean() < 0.05


def test_z_scored_background_becomes_air() -> None:
    image = np.where(BRAIN, (scan(skull=False) - 450) / 100, 0).astype(np.float32)
    result = scaled(image)[0]
    assert not result[~BRAIN].any()
    assert result[BRAIN & ~VENTRICLE].mean() > 0.9


def test_channels_are_scaled_apart_and_missing_ones_stay_zero() -> None:
    one, other = scan(air=20), 50 * scan(air=20, seed=1)
    result = scaled(one, np.zeros_like(one), other)
    assert not result[1].any()
    np.testing.assert_allclose(result[0], scaled(one)[0], atol=0.02)
    np.testing.assert_allclose(result[2], scaled(other)[0], atol=0.02)
    assert result.dtype == np.float32


def test_the_scale_of_a_channel_does_not_depend_on_what_others_show() -> None:
    """DWI suppresses scalp and neck, which FLAIR shows: by FLAIR's head more of DWI would be clipped."""
    dwi, flair = np.zeros((2, 40, 40, 40), dtype=np.float32)
    dwi[14:26, 14:26, 14:26] = np.random.default_rng(0).uniform(50, 100, (12, 12, 12))
    flair[4:36, 4:36, 4:36] = 80
    flair[14:26, 14:26, 14:26] = 40
    alone = scaled(dwi)[0]
    for other in (flair, np.zeros_like(dwi)):
        np.testing.assert_array_equal(scaled(dwi, other)[0], alone)


def test_meta_and_other_keys_stay() -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])).double()
    image = MetaTensor(torch.from_numpy(scan())[None], affine=affine, meta={"filename_or_obj": "a.nii"})
    before = image.clone()
    result = ScaleHeadIntensityd("image")({"image": image, "name": "a"})
    assert result["name"] == "a"
    assert result["image"].meta["filename_or_obj"] == "a.nii"
    np.testing.assert_array_equal(result["image"].affine, affine)
    np.testing.assert_array_equal(image, before)


def test_nearly_constant_head() -> None:
    image = np.zeros((20, 20, 20), dtype=np.float32)
    image[5:15, 5:15, 5:15] = 5
    result = scaled(image)[0]
    assert np.isfinite(result).all()
    assert result[10, 10, 10] == 1
    assert result[0, 0, 0] == 0


@pytest.mark.parametrize(("lower", "upper"), [(50, 50), (90, 10), (-1, 99), (1, 101)])
def test_impossible_percentiles(lower: float, upper: float) -> None:
    with pytest.raises(ValueError, match="Percentiles"):
        ScaleHeadIntensityd("image", lower=lower, upper=upper)


@pytest.mark.parametrize("thickness", [1.0, 2.0, 6.0])
def test_the_neck_is_cut_off_160_mm_under_the_vertex(thickness: float) -> None:
    slices = round(240 / thickness)
    image = torch.zeros(1, 60, 50, slices)
    image[:, 10:50, 10:40, : slices - round(12 / thickness)] = 100.0  # a column; 12 mm of air above it
    scan = MetaTensor(image, affine=torch.diag(torch.tensor([4.0, 4.0, thickness, 1.0])))
    kept = cranium_mask(scan)[0].any(0).any(0).numpy().nonzero()[0]
    top = slices - round(12 / thickness)
    assert kept[-1] + 1 == pytest.approx(top, abs=3 / thickness)
    assert (kept[-1] + 1 - kept[0]) * thickness == pytest.approx(160, abs=thickness)


def test_what_is_shorter_than_a_cranium_is_kept_whole() -> None:
    image = scan(air=20)[None]
    np.testing.assert_array_equal(cranium_mask(image), head_mask(image))

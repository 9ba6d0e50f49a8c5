"""Contrasts: tissues in their order, lesions where they are labelled and nothing changed elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared_nets.simulation import Paint, Scene, acute, acute_contrast, build_scene, t1_contrast
from shared_nets.simulation.acute import _misaligned
from shared_nets.simulation.anatomy import CSF, GREY, WHITE
from shared_nets.simulation.appearance import atrophied, blur, closed, scanned
from shared_nets.simulation.t1 import ENCLOSED_MM, _visible_lesion, _with_lesion
from tests.simulation import heads

ANATOMY = heads.brain()
BOTH = pytest.mark.parametrize("paint", [t1_contrast, acute_contrast])


def scene(seed: int, radius_mm: float = 18.0) -> Scene:
    lesion = heads.unmoved(heads.ball(radius_mm, centre=(30.0, -20.0, 10.0)))
    return build_scene(np.random.default_rng(seed), ANATOMY, [lesion], (64, 56), 3.5)


@BOTH
def test_painting_a_lesion_changes_nothing_away_from_it(paint: Paint) -> None:
    changed, shown = 0, 0
    for seed in range(12):
        with_lesion = scene(seed)
        without = replace(with_lesion, lesion=torch.zeros_like(with_lesion.lesion))
        image, label = paint(np.random.default_rng(seed), with_lesion)
        healthy, none = paint(np.random.default_rng(seed), without)
        assert not none.any()
        # Four blurs of at most 3 × 1.6 pixels follow, and FLAIR may be shifted and of another height.
        near = blur(with_lesion.lesion, 3.0).amax(0, keepdim=True) > 0
        grown = torch.nn.functional.max_pool2d(near.float(), 35, stride=1, padding=17) > 0
        grown = grown.expand_as(with_lesion.lesion)
        torch.testing.assert_close(image[:, ~grown], healthy[:, ~grown], rtol=0, atol=1e-5)
        changed += int((image != healthy).any())
        shown += int(with_lesion.lesion.any())
        assert (with_lesion.lesion[label > 0] > 0.3).all()
    assert changed == shown >= 10  # some planes pass the lesion by


@BOTH
def test_labels_are_binary_inside_the_brain_and_never_without_visible_change(paint: Paint) -> None:
    for seed in range(12):
        made = scene(seed)
        image, label = paint(np.random.default_rng(seed), made)
        assert image.isfinite().all()
        assert image.min() >= 0
        assert set(label.unique().tolist()) <= {0.0, 1.0}
        assert (made.brain[label > 0] > 0.3).all()


def test_chronic_lesions_are_dark_on_t1() -> None:
    contrasts = []
    for seed in range(15):
        made = scene(seed)
        image, label = t1_contrast(np.random.default_rng(seed), made)
        if label.sum() > 20:
            white = made.tissues[WHITE] * (label == 0) > 0.9
            contrasts.append((image[0][label > 0].median() / image[0][white].median()).item())
    assert len(contrasts) > 8
    assert max(contrasts) < 1


@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_spared_tissue_between_damaged_is_labelled_up_to_a_width_in_mm(spacing: float) -> None:
    made = build_scene(np.random.default_rng(0), ANATOMY, [], (64, 64), spacing)
    made = replace(
        made,
        lesion=torch.ones_like(made.lesion),
        ventricle=torch.zeros_like(made.ventricle),
        planes_per_slice=1,
    )
    across = spacing * torch.arange(64).expand(1, 64, 64)

    def labelled(spared_mm: float) -> bool:
        damaged = ((across - 32).abs() >= spared_mm / 2) & ((across - 32).abs() < 16)
        label = _visible_lesion(made, damaged.float(), torch.zeros_like(made.lesion))
        assert not label[(across - 32).abs() > 16].any()
        return bool(label[0, 32, (across[0, 0] - 32).abs() < 14].all())

    assert labelled(ENCLOSED_MM - 2)
    assert not labelled(ENCLOSED_MM + 4)


def test_acute_lesions_are_bright_on_dwi() -> None:
    contrasts = []
    for seed in range(15):
        made = scene(seed)
        image, label = acute_contrast(np.random.default_rng(seed), made)
        if label.sum() > 20 and image[0].any():
            tissue = (made.brain * (label == 0) > 0.9) & (made.tissues[CSF] < 0.1)
            contrasts.append((image[0][label > 0].median() / image[0][tissue].median()).item())
    assert len(contrasts) > 8
    assert min(contrasts) > 1


@pytest.mark.parametrize(("peak", "border"), [(2.0, 0.66), (1.0, 0.33), (0.3, 0.18), (0.15, 1.0)])
def test_acute_labels_end_at_a_third_of_the_peak_or_where_nothing_is_seen(
    monkeypatch: pytest.MonkeyPatch, peak: float, border: float
) -> None:
    """The peak is the piece's own: a blurred spot stays below what the lesion would add where it is whole."""
    made = scene(0)
    made = replace(made, lesion=torch.ones_like(made.lesion))
    fading = peak * (1 - (torch.arange(56) - 28).abs() / 3).clip(min=0).expand_as(made.lesion)
    monkeypatch.setattr(acute, "_brightening", lambda rng, scene, csf: (fading, 2.0))
    _, label = acute_contrast(np.random.default_rng(0), made)
    assert torch.equal(label > 0, fading > border)


def test_both_channels_are_stripped_or_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bool] = []
    monkeypatch.setattr(acute, "surrounded", lambda rng, scene, image, cut, **_: said.append(cut) or image)
    for seed in range(60):
        acute_contrast(np.random.default_rng(seed), scene(seed))
    assert said[::2] == said[1::2]
    assert np.mean(said) == pytest.approx(0.4, abs=0.2)


def test_chronic_labels_leave_the_ventricle_out() -> None:
    lesion = [heads.unmoved(heads.ball(40.0, centre=(0.0, -18.0, 5.0)))]
    through = 0
    for seed in range(20):
        made = build_scene(np.random.default_rng(seed), ANATOMY, lesion, (64, 56), 3.5)
        _, label = t1_contrast(np.random.default_rng(seed), made)
        through += bool((made.lesion[made.ventricle >= 0.5] > 0.5).any() and label.any())
        assert not label[made.ventricle >= 0.5].any()
    assert through > 2


def test_a_lesion_darkens_tissue_and_leaves_fluid_alone() -> None:
    for seed in range(10):
        made = scene(seed)
        healthy = made.scan
        painted = _with_lesion(np.random.default_rng(seed), made, healthy, csf=0.3, grey=0.7)
        assert (painted <= healthy).all()
        assert torch.equal(painted[made.ventricle == 1], healthy[made.ventricle == 1])


def test_small_lesions_may_be_holes() -> None:
    """Lacunes are as dark as fluid in their middle; blurred alone, they hardly ever were."""
    holes = []
    for seed in range(60):
        lesion = heads.unmoved(heads.ball(4.0, centre=(35.0, -20.0, 10.0)))
        made = build_scene(np.random.default_rng(seed), ANATOMY, [lesion], (64, 56), 2.0)
        white = torch.ones_like(made.scan)
        painted = _with_lesion(np.random.default_rng(seed), made, white, csf=0.2, grey=0.7)
        holes.append(bool(painted.min() < 0.4))
    assert 0.15 < np.mean(holes) < 0.6


def test_t1_keeps_the_order_of_tissues() -> None:
    for seed in range(15):
        made = scene(seed)
        made = replace(made, lesion=torch.zeros_like(made.lesion))
        image, _ = t1_contrast(np.random.default_rng(seed), made)
        csf, grey, white = (image[0][made.tissues[t] > 0.95].median() for t in (CSF, GREY, WHITE))
        assert csf < grey < white


def test_misaligned_flair_is_of_another_height_and_a_few_pixels_off() -> None:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(56.0), indexing="ij")
    ball = ((rows - 30) ** 2 + (columns - 26) ** 2 < 12**2).float()
    heights, moves = set(), []
    for seed in range(40):
        planes = torch.stack([level * ball for level in range(1, 6)])
        flair = _misaligned(np.random.default_rng(seed), planes, most_planes=1)
        heights.add(tuple(flair[:, 30, 26].round().int().tolist()))
        mass = flair[2] / flair[2].sum()
        moves.append((float((mass * rows).sum()) - 30, float((mass * columns).sum()) - 26))
    assert heights == {(1, 1, 2, 3, 4), (1, 2, 3, 4, 5), (2, 3, 4, 5, 5)}
    assert np.abs(moves).max() < 8
    assert (np.std(moves, axis=0) > 0.5).all()


def test_misaligned_flair_of_a_thick_slice_may_be_its_lowest_or_highest_plane_alone() -> None:
    planes = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, 64, 56)
    shown = [_misaligned(np.random.default_rng(seed), planes, most_planes=2)[:, 30, 26] for seed in range(40)]
    means = {round(float(each.mean()), 1) for each in shown}
    assert means == {1.0, 1.3, 2.0, 2.7, 3.0}
    assert not _misaligned(np.random.default_rng(0), torch.zeros(1, 64, 56), most_planes=1).any()


def test_one_acute_channel_may_be_missing_but_never_both() -> None:
    missing = []
    made = scene(0)
    for seed in range(120):
        image, _ = acute_contrast(np.random.default_rng(seed), made)
        missing.append([not channel.any() for channel in image])
    dwi, flair = np.array(missing).T
    assert not (dwi & flair).any()
    assert flair.mean() == pytest.approx(0.4, abs=0.12)
    assert dwi.sum() < flair.sum()


@BOTH
def test_stripped_slices_have_nothing_but_noise_around_the_brain(paint: Paint) -> None:
    stripped = 0
    for seed in range(40):
        made = scene(seed % 4)
        far = blur(made.brain, 3.0) == 0
        image, label = paint(np.random.default_rng(seed), made)
        around = image[:, far]
        assert not label[far].any()
        stripped += int(around.max() < 0.2)
    assert stripped > 5


def test_atrophy_turns_grey_matter_to_fluid_and_nothing_else() -> None:
    tissues = scene(0).tissues
    shrunk = 0
    for seed in range(10):
        after = atrophied(np.random.default_rng(seed), tissues)
        torch.testing.assert_close(after.sum(0), tissues.sum(0))
        assert torch.equal(after[WHITE], tissues[WHITE])
        assert (after[GREY] <= tissues[GREY]).all()
        assert after.min() >= 0
        shrunk += int(after[GREY].sum() < 0.99 * tissues[GREY].sum())
    assert 3 <= shrunk < 10  # some brains have aged, some not


@pytest.mark.parametrize("seed", range(4))
def test_a_thick_slice_is_as_noisy_as_a_thin_one(seed: int) -> None:
    def noise(planes: int) -> float:
        """Of the mean of the planes of a slice, from the differences of neighbours."""
        made = scene(1)
        coordinates = made.coordinates[:1].expand(planes, -1, -1, -1)
        made = replace(made, coordinates=coordinates, planes_per_slice=planes)
        image = scanned(np.random.default_rng(seed), made, torch.ones(planes, 64, 56), level=0.5).mean(0)
        return image.diff(dim=-1).std().item()

    assert noise(3) == pytest.approx(noise(1), rel=0.1)


def test_blur_keeps_sums_and_has_its_width() -> None:
    point = torch.zeros(1, 41, 41)
    point[0, 20, 20] = 1
    blurred = blur(point, 2.0)[0]
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    variance = (blurred.sum(1) * (torch.arange(41) - 20) ** 2).sum().item()
    assert variance == pytest.approx(4, rel=0.05)
    assert blur(point, 0.1) is point


@pytest.mark.parametrize("reach", [1, 2])
def test_closing_fills_gaps_of_twice_its_reach_and_no_more(reach: int) -> None:
    mask = torch.zeros(1, 13, 24, dtype=torch.bool)
    second, third = 5 + 2 * reach, 7 + 4 * reach
    mask[0, 3:10, 3:5] = True
    mask[0, 3:10, second : second + 1] = True  # after as wide a gap as is filled
    mask[0, 3:10, third : third + 2] = True  # after one that is wider by a column
    filled = closed(mask, reach)[0]
    assert filled[6, 3 : second + 1].all()
    assert not filled[6, second + 1 : third].any()
    assert (filled >= mask[0]).all()

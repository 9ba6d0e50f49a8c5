"""The slice inferer against a plain loop over the slices."""

from __future__ import annotations

import warnings

import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from shared_nets.errors import DeviceError, NetworkOutputError
from shared_nets.inference import SliceWindowInferer
from shared_nets.inference.slices import NO_LESION_LOGIT, SUREST_LOGIT

WINDOW = (32, 24)


class Counting(nn.Module):
    """A network that remembers the shapes it was given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return self.network(x)

    @property
    def windows(self) -> int:
        return sum(shape[0] for shape in self.shapes)


def pixelwise(channels: int = 1) -> Counting:
    """Each voxel's logit depends on that voxel alone, so windows cannot matter."""
    torch.manual_seed(0)
    return Counting(nn.Sequential(nn.Conv2d(channels, 4, 1), nn.Tanh(), nn.Conv2d(4, 1, 1)))


class Position(nn.Module):
    """Logits are the position in the window: 100 × row + column."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = torch.arange(x.shape[2]), torch.arange(x.shape[3])
        return (100.0 * rows[:, None] + columns).expand(len(x), 1, -1, -1)


def volume(size: tuple[int, int, int], box: tuple[slice, slice, slice], channels: int = 1) -> Tensor:
    """Air of exactly 0 and a head of 0.3–1 in the box."""
    torch.manual_seed(1)
    image = torch.zeros(1, channels, *size)
    image[(..., *box)] = 0.3 + 0.7 * torch.rand(image[(..., *box)].shape)
    return image


def by_slice(image: Tensor, network: nn.Module) -> Tensor:
    """The plain loop."""
    return torch.stack([network(image[..., index]) for index in range(image.shape[-1])], dim=-1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((40, 30, 5), (slice(5, 30), slice(4, 26), slice(0, 5))),  # fits
        ((20, 16, 3), (slice(2, 19), slice(1, 15), slice(0, 3))),  # the array is smaller than the window
        ((20, 60, 3), (slice(2, 19), slice(3, 55), slice(0, 3))),  # smaller one way, larger the other
        ((90, 70, 4), (slice(3, 88), slice(2, 69), slice(0, 4))),  # several windows each way
        ((33, 25, 2), (slice(0, 33), slice(0, 25), slice(0, 2))),  # one voxel too large
    ],
)
def test_head_gets_what_a_loop_over_slices_gives(size: tuple[int, int, int], box: tuple[slice, ...]) -> None:
    image, network = volume(size, box), pixelwise()  # type: ignore[arg-type]
    result = SliceWindowInferer(WINDOW)(image, network)
    assert result.shape == image.shape
    torch.testing.assert_close(result[(..., *box)], by_slice(image, network)[(..., *box)])


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 2])
def test_several_volumes_and_channels(channels: int) -> None:
    box = (slice(5, 30), slice(4, 26), slice(1, 4))
    image = volume((40, 30, 5), box, channels)
    image = torch.cat([image, image.flip(2)])
    network = pixelwise(channels)
    result = SliceWindowInferer(WINDOW)(image, network)
    assert result.shape == (2, 1, 40, 30, 5)
    expected = by_slice(image, network)
    head = image.amax(1, keepdim=True) > 0
    torch.testing.assert_close(result[head], expected[head])


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_result_does_not_depend_on_the_batch_size(batch: int) -> None:
    torch.manual_seed(2)
    network = Counting(nn.Conv2d(1, 1, 5, padding=2))
    image = volume((70, 40, 6), (slice(3, 66), slice(5, 30), slice(0, 6)))
    result = SliceWindowInferer(WINDOW, sw_batch_size=batch)(image, network)
    assert max(shape[0] for shape in network.shapes) <= batch
    torch.testing.assert_close(result, SliceWindowInferer(WINDOW, sw_batch_size=2)(image, network))
    assert torch.equal(result, SliceWindowInferer(WINDOW, sw_batch_size=batch)(image, network))


@torch.no_grad()
def test_empty_slices_are_not_computed() -> None:
    network = pixelwise()
    image = volume((40, 30, 10), (slice(5, 30), slice(4, 26), slice(3, 7)))
    result = SliceWindowInferer(WINDOW, sw_batch_size=3)(image, network)
    assert network.windows == 4
    assert (result[..., [0, 1, 2, 7, 8, 9]] == NO_LESION_LOGIT).all()
    assert torch.sigmoid(result.half()[..., 0]).max() < 1e-6  # finite, and no lesion, in half precision
    assert torch.isfinite(result.half()).all()


@torch.no_grad()
def test_a_head_that_fits_is_one_centred_window() -> None:
    network = Counting(Position())
    # 20 rows from 10 and 14 columns from 20: 6 rows above and below, 5 columns left and right.
    image = volume((60, 60, 3), (slice(10, 30), slice(20, 34), slice(0, 3)))
    result = SliceWindowInferer(WINDOW)(image, network)
    assert network.shapes == [(3, 1, *WINDOW)]
    torch.testing.assert_close(result[0, 0, 4, 15, :], torch.zeros(3))
    torch.testing.assert_close(result[0, 0, 35, 38, :], torch.full((3,), 31 * 100.0 + 23))
    outside = result[0, 0].clone()
    outside[4:36, 15:39] = NO_LESION_LOGIT
    assert (outside == NO_LESION_LOGIT).all()


@torch.no_grad()
def test_a_window_at_the_border_stays_inside() -> None:
    network = Counting(Position())
    image = volume((60, 60, 1), (slice(0, 12), slice(50, 60), slice(0, 1)))
    result = SliceWindowInferer(WINDOW)(image, network)
    assert network.windows == 1
    assert result[0, 0, 0, 36, 0] == 0  # rows from 0, columns from 60 − 24


@torch.no_grad()
@pytest.mark.parametrize(
    ("rows", "windows"),
    # 32 rows, at least 8 shared: n windows reach 32 + 24 (n − 1) rows.
    [(32, 1), (33, 2), (56, 2), (57, 3), (80, 3), (81, 4)],
)
def test_fewest_windows(rows: int, windows: int) -> None:
    network = pixelwise()
    image = volume((100, 24, 1), (slice(9, 9 + rows), slice(0, 24), slice(0, 1)))
    result = SliceWindowInferer(WINDOW, overlap=0.25)(image, network)
    assert network.windows == windows
    torch.testing.assert_close(result[:, :, 9 : 9 + rows], by_slice(image, network)[:, :, 9 : 9 + rows])


@torch.no_grad()
def test_windows_without_head_are_not_computed() -> None:
    network = pixelwise()
    image = volume((100, 90, 1), (slice(0, 20), slice(0, 20), slice(0, 1)))
    image += volume((100, 90, 1), (slice(80, 100), slice(70, 90), slice(0, 1)))
    SliceWindowInferer(WINDOW)(image, network)
    assert 2 <= network.windows < 16  # 4 × 4 would cover the box; most of them see only air


@torch.no_grad()
@pytest.mark.parametrize("level", [0.01, 0.03, 0.05])
def test_noisy_air_is_air(level: float) -> None:
    torch.manual_seed(3)
    # Beside a head the noise counts for two voxels more: 32 × 24 hold this one all the same.
    clean = volume((200, 180, 6), (slice(20, 48), slice(20, 40), slice(1, 5)))
    noise = level * torch.randn(2, *clean.shape)
    noisy = ((clean + noise[0]) ** 2 + noise[1] ** 2).sqrt()
    network = pixelwise()
    result = SliceWindowInferer(WINDOW)(noisy, network)
    assert network.windows == 4
    assert (result[..., 20:48, 20:40, 1:5] != NO_LESION_LOGIT).all()


@torch.no_grad()
def test_noisy_air_is_air_where_slices_are_padded_to_the_window() -> None:
    """The padding is no air: without noise, it would pass all of the noise for head."""
    torch.manual_seed(3)
    clean = volume((WINDOW[0], WINDOW[1] - 8, 10), (slice(4, 28), slice(3, 13), slice(0, 5)))
    noise = 0.05 * torch.randn(2, *clean.shape)
    network = pixelwise()
    SliceWindowInferer(WINDOW)(((clean + noise[0]) ** 2 + noise[1] ** 2).sqrt(), network)
    assert network.windows == 5


@torch.no_grad()
def test_tissue_without_any_air_around_is_not_air() -> None:
    image = 0.3 + 0.7 * torch.rand(1, 1, 32, 24, 4)
    network = pixelwise()
    torch.testing.assert_close(SliceWindowInferer(WINDOW)(image, network), by_slice(image, network))


@torch.no_grad()
def test_a_head_in_the_second_channel_alone_counts() -> None:
    image = volume((40, 30, 3), (slice(5, 30), slice(4, 26), slice(0, 3)), channels=2)
    image[:, 0] = 0
    network = pixelwise(2)
    SliceWindowInferer(WINDOW)(image, network)
    assert network.windows == 3


@torch.no_grad()
def test_nothing_but_air_gives_no_lesion() -> None:
    result = SliceWindowInferer(WINDOW)(torch.zeros(1, 1, 40, 30, 4), nn.Conv2d(1, 2, 1))
    assert result.shape == (1, 2, 40, 30, 4)
    assert (result == NO_LESION_LOGIT).all()


@torch.no_grad()
def test_meta_data_memory_format_functions_and_autocast() -> None:
    image = volume((40, 30, 5), (slice(5, 30), slice(4, 26), slice(0, 5)))
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    network = pixelwise()
    plain = SliceWindowInferer(WINDOW)(image, network)

    meta = SliceWindowInferer(WINDOW, device="cpu", sw_device="cpu")(
        MetaTensor(image, affine=affine), network
    )
    assert isinstance(meta, MetaTensor)
    torch.testing.assert_close(meta.affine, affine)
    torch.testing.assert_close(meta.as_tensor(), plain)

    last = image.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(SliceWindowInferer(WINDOW)(last, network), plain)
    doubled = SliceWindowInferer(WINDOW)(image, lambda x, factor: factor * network(x), factor=2.0)
    head = plain != NO_LESION_LOGIT
    torch.testing.assert_close(doubled[head], 2 * plain[head])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = SliceWindowInferer(WINDOW)(image, network)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, plain, atol=0.05, rtol=0.05)


def greedy(limit: int) -> Counting:
    """A network whose memory suffices for ``limit`` windows."""

    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > limit:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return x

    return Counting(Greedy())


@torch.no_grad()
def test_too_little_memory_halves_the_batch_and_says_so_once() -> None:
    image = volume((32, 24, 20), (slice(5, 30), slice(4, 22), slice(0, 20)))
    network, inferer = greedy(3), SliceWindowInferer(WINDOW, sw_batch_size=16)
    with pytest.warns(UserWarning, match="2 at a time, not 16") as warned:
        result = inferer(image, network)
    assert len(warned) == 1
    torch.testing.assert_close(result, image)
    assert [shape[0] for shape in network.shapes][:5] == [16, 8, 4, 2, 2]

    network.shapes.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inferer(image, network)  # the next scan starts with what fits, and nothing is said
    assert {shape[0] for shape in network.shapes} == {2}


@torch.no_grad()
def test_too_little_memory_for_one_window() -> None:
    with pytest.raises(DeviceError, match="--device cpu"):
        SliceWindowInferer(WINDOW)(torch.ones(1, 1, 32, 24, 3), greedy(0))


@torch.no_grad()
def test_other_errors_of_the_network_pass() -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        SliceWindowInferer(WINDOW)(torch.ones(1, 1, 32, 24, 3), nn.Conv2d(2, 1, 1))


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_do_not_pass_for_no_lesion(value: float) -> None:
    """As of a network whose sums are too large for half precision."""

    def overflowing(windows: Tensor) -> Tensor:
        logits = windows.clone()
        logits[-1, 0, 3, 3] = value
        return logits

    with pytest.raises(NetworkOutputError, match="NaN or infinite"):
        SliceWindowInferer((8, 8))(torch.rand(1, 1, 8, 8, 3) + 0.1, overflowing)


@pytest.mark.parametrize("network", [nn.MaxPool2d(2), nn.Flatten(), lambda x: x[:1]])
def test_a_network_that_changes_the_windows_is_told(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="must keep the number and size"):
        SliceWindowInferer(WINDOW)(torch.ones(1, 1, 32, 24, 3), network)


@pytest.mark.parametrize(
    "settings",
    [
        {"roi_size": (0, 24)},
        {"sw_batch_size": 0},
        {"overlap": 1.0},
        {"overlap": -0.1},
        {"background": -1},
        {"smoothing_mm": -1},
        {"smoothing_mm": float("nan")},
        {"smoothing_mm": float("inf")},
        {"mode": "linear"},
    ],
)
def test_impossible_settings(settings: dict) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (MONAI words the last one)
        SliceWindowInferer(**settings)


@pytest.mark.parametrize("shape", [(1, 1, 32, 24), (1, 32, 24, 5, 1, 1)])
def test_inputs_that_are_no_volumes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="N, channels, H, W, slices"):
        SliceWindowInferer(WINDOW)(torch.ones(shape), nn.Identity())


def test_mirrored_scans_give_mirrored_results_with_mirror_only() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(1, 1, 5, padding=2)  # its kernel is not symmetric
    image = volume((32, 24, 3), (slice(4, 28), slice(2, 20), slice(0, 3)))
    turned = image.flip(3)
    with_mirror, without = (SliceWindowInferer(WINDOW, mirror=mirror) for mirror in (True, False))
    found = with_mirror(image, network)
    torch.testing.assert_close(with_mirror(turned, network), found.flip(3))
    assert not torch.allclose(without(turned, network), without(image, network).flip(3))
    # Both halves count: it is the mean of the scan's own logits and of its mirror image's, turned back.
    expected = (by_slice(image, network) + by_slice(turned, network).flip(3)) / 2
    torch.testing.assert_close(found, expected)


def test_mirror_changes_nothing_for_a_network_without_sides() -> None:
    network = pixelwise()
    image = volume((50, 60, 2), (slice(4, 48), slice(3, 55), slice(0, 2)))  # several windows a slice
    mirrored = SliceWindowInferer(WINDOW, mirror=True)(image, network)
    torch.testing.assert_close(mirrored, SliceWindowInferer(WINDOW)(image, network))


@pytest.mark.parametrize("mirror", [False, True])
def test_other_channels_take_away_but_add_nothing_where_the_first_decides(mirror: bool) -> None:
    rows, columns, everything = slice(4, 28), slice(2, 20), slice(0, 3)
    image = volume((32, 24, 3), (rows, columns, everything), channels=2)
    first, second = image[:, :1], image[:, 1:]
    inferer = SliceWindowInferer(WINDOW, mirror=mirror, first_channel_decides=True)
    adding = inferer(image, lambda x: x[:, :1] + 2 * x[:, 1:])
    torch.testing.assert_close(adding, first)
    taking = inferer(image, lambda x: x[:, :1] - 2 * x[:, 1:])
    torch.testing.assert_close(taking, first - 2 * second)
    without = SliceWindowInferer(WINDOW, mirror=mirror)(image, lambda x: x[:, :1] + 2 * x[:, 1:])
    torch.testing.assert_close(without, first + 2 * second)


@pytest.mark.parametrize(("channels", "missing"), [(2, 0), (2, 1), (1, None)])
def test_one_channel_is_enough_where_the_first_decides(channels: int, missing: int | None) -> None:
    """Without DWI, FLAIR decides; nothing is computed twice."""
    network = pixelwise(channels)
    image = volume((32, 24, 3), (slice(4, 28), slice(2, 20), slice(0, 3)), channels=channels)
    if missing is not None:
        image[:, missing] = 0
    found = SliceWindowInferer(WINDOW, first_channel_decides=True)(image, network)
    assert network.windows == 3
    torch.testing.assert_close(found, SliceWindowInferer(WINDOW)(image, network))


def test_a_slice_without_the_other_channel_among_slices_with_it() -> None:
    """FLAIR may end below the vertex."""
    image = volume((32, 24, 3), (slice(4, 28), slice(2, 20), slice(0, 3)), channels=2)
    image[:, 1, ..., 2] = 0
    found = SliceWindowInferer(WINDOW, first_channel_decides=True)(image, lambda x: x[:, :1] + x[:, 1:])
    torch.testing.assert_close(found, image[:, :1])


def with_slices_apart(image: Tensor, *mm: float) -> MetaTensor:
    """Volumes of oblique slices that lie so far apart."""
    turn = torch.tensor([[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]], dtype=torch.float64)
    affines = torch.eye(4, dtype=torch.float64).repeat(len(mm), 1, 1)
    affines[:, :3, :3] = turn @ torch.diag_embed(torch.tensor([[2.0, 2.0, one] for one in mm]).double())
    return MetaTensor(image, affine=affines[0] if len(mm) == 1 else affines)


@torch.no_grad()
@pytest.mark.parametrize("mm", [0.7, 1.0, 2.5, 7.0])
def test_smoothing_is_scipys_along_the_slices(mm: float) -> None:
    image = volume((40, 30, 12), (slice(5, 30), slice(4, 26), slice(2, 10)))

    def network(x: Tensor) -> Tensor:
        return 60 * x - 20  # some beyond what counts

    plain = SliceWindowInferer(WINDOW)(image, network)
    found = SliceWindowInferer(WINDOW, smoothing_mm=1.5)(with_slices_apart(image, mm), network)
    limited = plain.clamp(-SUREST_LOGIT, SUREST_LOGIT).double().numpy()
    expected = gaussian_filter1d(limited, 1.5 / mm, axis=-1, mode="nearest")
    torch.testing.assert_close(found.as_tensor(), torch.from_numpy(expected).float(), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_smoothing_is_in_float32_under_autocast() -> None:
    image = volume((32, 24, 6), (slice(4, 28), slice(2, 20), slice(0, 6)))
    inferer = SliceWindowInferer(WINDOW, smoothing_mm=1.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = inferer(image, lambda x: 20 * x - 10)  # not computed otherwise under autocast
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, inferer(image, lambda x: 20 * x - 10))


@torch.no_grad()
def test_each_volume_is_smoothed_by_its_own_distance_of_slices() -> None:
    image = torch.cat([volume((32, 24, 6), (slice(4, 28), slice(2, 20), slice(0, 6)))] * 2)
    image[1] = image[1].flip(-1)
    network = pixelwise()
    inferer = SliceWindowInferer(WINDOW, smoothing_mm=1.5)
    both = inferer(with_slices_apart(image, 1.0, 3.0), network)
    for one, mm, result in zip(image, (1.0, 3.0), both, strict=True):
        torch.testing.assert_close(result, inferer(with_slices_apart(one[None], mm), network)[0])
    # Without an affine slices lie 1 mm apart.
    torch.testing.assert_close(inferer(image[:1], network), both[:1].as_tensor())


@torch.no_grad()
@pytest.mark.parametrize(("mm", "slices", "stays"), [(1, 1, False), (1, 5, True), (6, 1, True)])
def test_a_lesion_of_one_thin_slice_goes_and_others_stay(mm: float, slices: int, stays: bool) -> None:
    """The network is fairly sure of the lesion, and of there being none elsewhere."""
    image = torch.full((1, 1, 32, 24, 15), 0.3)
    image[..., 10:16, 8:14, 7 : 7 + slices] = 0.9
    logits = SliceWindowInferer(WINDOW, smoothing_mm=1.5)(
        with_slices_apart(image, mm), lambda x: torch.where(x > 0.5, 3.0, -5.0)
    )
    assert bool((logits > 0).any()) is stays
    assert not (logits[..., [0, 14]] > 0).any()

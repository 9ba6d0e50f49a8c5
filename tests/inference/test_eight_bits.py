"""Networks in 8 bits: how values are rounded, what scale they need, and from scans to masks."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from shared_nets.errors import UsageError
from shared_nets.inference import LesionSegmenter, backends, computed_in, for_inference, rewrite
from shared_nets.inference.eight_bits import in_eight_bits, watched
from shared_nets.inference.ranges import RANGES, read_ranges, write_ranges
from shared_nets.precision import has_vnni
from shared_nets.release.archive import bundle_files
from shared_nets.weights import load_weights
from tests.commands import ROOT, Done, strokeseg

Folders = Mapping[str, Path]


def a_layer(weight: float, bias: float = 0.0) -> nn.Module:
    layer = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        layer.weight.fill_(weight)
        layer.bias.fill_(bias)
    return before_logits(layer)


def before_logits(layer: nn.Module) -> nn.Module:
    """A network of this layer and a last one, which is never rounded and here gives what it takes."""
    last = nn.Conv2d(layer.out_channels, layer.out_channels, 1, bias=False)
    with torch.no_grad():
        last.weight.copy_(torch.eye(layer.out_channels)[:, :, None, None])
    return nn.Sequential(layer, last)


@pytest.mark.parametrize(
    ("ends", "given", "rounded"),
    [
        ((0, 255), [3.4, 3.6, 254.9, 300, -7], [3, 4, 255, 255, 0]),
        ((0, 25.5), [3.44, 3.46, 26, -1], [3.4, 3.5, 25.5, 0]),
        ((-51, 204), [-51.2, -60, 0, 0.4, 500], [-51, -51, 0, 0, 204]),
        ((10, 255), [0, 3.2, 300], [0, 3, 255]),  # zero is a step, as padding is zero
        ((0, 0), [0, 1], [0, 0]),  # a layer that took nothing but zero
    ],
)
def test_what_a_layer_takes_is_rounded(
    ends: tuple[float, float], given: list[float], rounded: list[float]
) -> None:
    network = in_eight_bits(a_layer(2.0, bias=1.0), {"0": ends})
    found = network(torch.tensor(given, dtype=torch.float32).view(1, 1, 1, -1))
    expected = 2 * torch.tensor(rounded, dtype=torch.float32).view(1, 1, 1, -1) + 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ConvTranspose2d(2, 3, 4, 2, 1)]
)
def test_weights_are_rounded_by_their_output_channel(layer: nn.Module) -> None:
    """Each channel to 127 steps on both sides of zero: a small channel keeps its own fine steps."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    scales = torch.tensor([1.0, 1e-3, 50.0])
    shape = (1, 3, 1, 1) if transposed else (3, 1, 1, 1)
    with torch.no_grad():
        layer.weight.copy_((torch.rand_like(layer.weight) - 0.5) * scales.view(shape))
        layer.bias.zero_()
    x = torch.randint(0, 256, (1, 2, 8, 8)).float()
    exact = rewrite(before_logits(layer))
    rounded = in_eight_bits(exact, {"0": (0, 255)})(x)
    others = (0, 2, 3) if transposed else (1, 2, 3)
    steps = layer.weight.abs().amax(others, keepdim=True) / 127
    by_hand = rewrite(before_logits(layer))
    by_hand[0].weight.copy_((layer.weight / steps).round() * steps)
    torch.testing.assert_close(rounded, by_hand(x), rtol=1e-4, atol=1e-3)
    assert not torch.equal(rounded, exact(x))


def test_the_ends_are_those_that_a_tenth_of_the_slices_exceed(tmp_path: Path) -> None:
    network = rewrite(a_layer(1.0))
    with watched(network) as seen:
        for highest in range(101):  # slices of a lowest value 0 … -100 and a highest 0 … 100
            network(torch.tensor([-highest, 0.0, highest]).view(1, 1, 1, 3))
    network(torch.full((1, 1, 1, 3), 1e6))  # no longer watched
    state = a_layer(1.0).state_dict()
    write_ranges(tmp_path / "ranges.json", state, seen)
    assert read_ranges(tmp_path / "ranges.json", state) == {"0": (-90.0, 90.0)}


def test_weights_of_one_folder_share_a_file(tmp_path: Path) -> None:
    """As shipped, trained and restored: each keeps its ranges, in whatever precision it is stored."""
    shipped, trained = a_layer(1.0).state_dict(), a_layer(2.0).state_dict()
    path = tmp_path / "ranges.json"
    for state, end in ((shipped, 1.0), (trained, 2.0)):
        write_ranges(path, state, {"0": [(0.0, end)] * 20})
    half = {name: tensor.half() for name, tensor in shipped.items()}
    for state, end in ((shipped, 1.0), (half, 1.0), (trained, 2.0)):
        assert read_ranges(path, state) == {"0": (0.0, end)}


@pytest.fixture
def a_cpu_with_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "has_vnni", lambda: True)


@pytest.mark.skipif(not has_vnni(), reason="this CPU has no VNNI, without which sums overflow")
def test_openvino_computes_in_eight_bits_what_pytorch_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers of many channels, whose sums would overflow 16 bits; padding; a range on both sides of zero."""
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.Conv2d(16, 1, 1)
    ).eval()
    x = 5 * torch.randn(20, 16, 16, 24)
    fast = rewrite(network)
    with watched(fast) as seen:
        exact = fast(x)
    path = tmp_path / "ranges.json"
    write_ranges(path, network.state_dict(), seen)
    kernels: list[str] = []
    core = backends._openvino_core()

    class Watched:
        def compile_model(self, *arguments: object) -> object:
            compiled = core.compile_model(*arguments)
            for operation in compiled.get_runtime_model().get_ops():
                told = {key: value.astype(str) for key, value in operation.get_rt_info().items()}
                if told["layerType"] in ("Convolution", "Deconvolution"):
                    kernels.append(told["runtimePrecision"])
            return compiled

    monkeypatch.setattr(backends, "_openvino_core", Watched)
    ours = for_inference(network, "openvino", cpu_precision="int8", ranges=path)
    rounded = in_eight_bits(fast, read_ranges(path, network.state_dict()))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")  # a fallback to PyTorch would say so
        found, expected = ours(x), rounded(x)
    assert sorted(kernels) == ["f32", "u8", "u8"] or sorted(kernels) == ["f32", "i8", "u8"]
    scale = exact.std()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01 * float(scale))
    assert 0.001 < (expected - exact).abs().max() / scale < 1


@pytest.mark.usefixtures("a_cpu_with_eight_bits")
def test_ranges_that_cannot_be_used(tiny: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "ranges.json"

    def told() -> str:
        with pytest.raises(UsageError) as caught:
            for_inference(tiny, cpu_precision="int8", ranges=path)
        return str(caught.value)

    remedy = "make it by strokeseg weights calibrate, or compute in another cpu_precision."
    assert told() == f"{path} is not there, and int8 needs it: {remedy}"
    for content in ("", "[]", "{}", "no JSON"):
        path.write_text(content)
        assert told() == f"{path} is damaged: {remedy}"
    with pytest.raises(UsageError, match="The network looked at 19 windows of these scans, too few"):
        write_ranges(path, tiny.state_dict(), {"0": [(0.0, 1.0)] * 19})
    write_ranges(path, tiny.state_dict(), {"0": [(0.0, 1.0)] * 20})
    told_of_both = computed_in(for_inference(tiny, cpu_precision="int8", ranges=path))
    assert computed_in(for_inference(tiny, cpu_precision="int8", ranges=path), amp=True) == "bfloat16"
    write_ranges(
        path, a_layer(1.0).state_dict(), {"0": [(0.0, 9.0)] * 20}
    )  # what is told is of these weights
    assert computed_in(for_inference(tiny, cpu_precision="int8", ranges=path)) == told_of_both
    with pytest.raises(
        UsageError, match=r"^int8 needs ranges: name their file; make it by strokeseg weights"
    ):
        for_inference(tiny, cpu_precision="int8")
    digest = next(iter(json.loads(path.read_text())))
    for ranges in ([1], [2, 1], 1, ["a", "b"], None):
        path.write_text(json.dumps({digest: {"ranges": {"0": ranges}}}))
        assert told() == f"{path} is damaged: {remedy}"
    write_ranges(path, tiny.state_dict(), {"3": [(0.0, 1.0)] * 20})
    assert told() == f"The ranges are of another network: they have no 0; {remedy}"
    with torch.no_grad():
        tiny[0].weight[0, 0, 0, 0] += 1e-3
    assert told() == f"{path} is of other weights: {remedy}"


def test_where_int8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "has_vnni", lambda: False)
    with pytest.raises(UsageError, match=r"^This CPU has no instructions for int8 \(AVX-512 VNNI\), without"):
        backends.check_precision("int8", "cpu")
    monkeypatch.setattr(backends, "has_vnni", lambda: True)
    for backend in ("torch", "onnxruntime"):
        with pytest.raises(
            UsageError, match=f"^{backend} does not compute in int8: leave it out, or cpu_pre"
        ):
            backends.check_precision("int8", "cpu", backend)
    monkeypatch.setattr(backends, "_is_installed", lambda name: name != "openvino")
    with pytest.raises(
        UsageError, match=r"Only openvino computes in int8.*pip install 'shared_nets\[openvino"
    ):
        backends.check_precision("int8", "cpu")
    backends.check_precision("int8", "cuda")  # of which it says nothing


@pytest.fixture
def calibrated(trees: Folders, bundles: Folders, tmp_path: Path) -> Path:
    """A bundle whose weights were calibrated on small heads."""
    folder = tmp_path / "cnnres_bundle"
    shutil.copytree(bundles["cnnres"], folder)
    scans = trees["cnnres"] / "imagesTs"
    made = strokeseg("weights", "calibrate", scans, "--model", "cnnres", "--bundle", folder, "--quiet")
    assert (made.code, made.err) == (0, "")
    assert made.out == f"Wrote {folder / 'models' / 'ranges.json'}\n"
    return folder


def test_scans_tell_what_each_convolution_takes(calibrated: Path) -> None:
    """Images are scaled to 0 to 1, and what follows a ReLU is not below 0."""
    ranges = read_ranges(calibrated / RANGES, load_weights(calibrated / "models" / "model.pt"))
    assert len(ranges) == 25
    assert ranges["translation1.conv"] == pytest.approx((0, 1), abs=0.05)
    assert ranges["residual1.unit.conv2"][0] == 0
    assert all(lowest < highest for lowest, highest in ranges.values())


@pytest.mark.skipif(not has_vnni(), reason="this CPU has no VNNI, without which int8 is refused")
def test_from_scans_to_masks_in_eight_bits(calibrated: Path, trees: Folders, tmp_path: Path) -> None:
    """Segmented, recorded; and refused for the next weights."""
    pytest.importorskip("openvino")
    scans = trees["cnnres"] / "imagesTs"

    def predict(name: str, precision: str) -> Done:
        return strokeseg(
            "predict", "--model", "cnnres", "--bundle", calibrated, "--quiet", "--device", "cpu",
            "--save-probability", "--backend", "openvino", "--cpu-precision", precision,
            "--output", tmp_path / name, scans,
        )  # fmt: skip

    for precision in ("int8", "float32"):
        done = predict(precision, precision)
        assert (done.code, done.told) == (0, "")
    rounded, exact = tmp_path / "int8", tmp_path / "float32"
    one, other = (nib.load(out / "case1_label-lesion_probseg.nii.gz").get_fdata() for out in (rounded, exact))
    assert 0 < np.abs(one - other).max() < 0.1
    recorded = [
        json.loads((out / "case1_label-lesion_mask.json").read_text())["Settings"]["precision"]
        for out in (rounded, exact)
    ]
    assert recorded[0].startswith("int8, ranges ")
    assert recorded[1] == "float32"
    segmenter = LesionSegmenter(
        "cnnres", bundle=calibrated, device="cpu", backend="openvino", cpu_precision="int8"
    )
    mask = segmenter.predict([scans / f"case1_000{n}.nii.gz" for n in (0, 1)]).mask
    assert np.array_equal(mask.dataobj, nib.load(rounded / "case1_label-lesion_mask.nii.gz").dataobj)

    path = calibrated / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    next(iter(state.values())).add_(0.01)
    torch.save(state, path)
    done = predict("others", "int8")
    assert done.code == 1
    assert done.told.startswith(f"{calibrated / RANGES} is of other weights: ")
    assert not list(tmp_path.glob("others/*.nii.gz"))


def test_a_bad_scan_ends_the_calibration_in_words(trees: Folders, bundles: Folders, tmp_path: Path) -> None:
    """One that is corrupt, one that is not there, one without a head."""
    folder = tmp_path / "xnet_bundle"
    shutil.copytree(bundles["xnet"], folder)
    corrupt, air = tmp_path / "corrupt.nii.gz", tmp_path / "air.nii.gz"
    good = trees["xnet"] / "imagesTs" / "case1.nii.gz"
    corrupt.write_bytes(good.read_bytes()[:2000])
    specks = np.zeros((48, 48, 24), np.float32)
    specks[20:23, 20:23, 10] = 1
    nib.save(nib.Nifti1Image(specks, np.diag([4, 4, 4, 1])), air)
    for scan, said in (
        (corrupt, corrupt.name),
        (tmp_path / "none.nii.gz", "none.nii.gz"),
        (air, "too few"),
    ):
        done = strokeseg("weights", "calibrate", scan, "--model", "xnet", "--bundle", folder, "--quiet")
        assert done.code == 1
        assert said in done.err
        assert "Traceback" not in done.err
        assert not (folder / "models" / "ranges.json").exists()


def test_ranges_go_with_weights_that_are_passed_on(tmp_path: Path) -> None:
    """With a bundle's archive; checked by `weights verify`, which tells of those that fit no layer."""
    shipped = ROOT / "cnnres_bundle"
    assert bundle_files(shipped)[RANGES] == (shipped / RANGES).read_bytes()
    folder = tmp_path / "cnnres_bundle"
    shutil.copytree(shipped, folder)
    path = folder / RANGES
    content = json.loads(path.read_text())
    digest = next(iter(content))
    for ranges, said in (({}, "is of other weights"), ({"head": [0, 1]}, "they have no translation1.conv")):
        path.write_text(json.dumps({digest: {"ranges": ranges}}))
        done = strokeseg("weights", "verify", folder)
        assert (done.code, done.out) == (1, "")
        assert said in done.told
    path.unlink()
    assert strokeseg("weights", "verify", folder).code == 0

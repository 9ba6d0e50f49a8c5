"""Exports give what the network gives, for any number and size of slices, and over whole volumes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from shared_nets.errors import OutputError, UsageError, WeightsError
from shared_nets.release.exports import bundle_network, export_network
from shared_nets.weights import CURRENT, SHIPPED, load_into, sha256
from tests.commands import ROOT, strokeseg
from tests.heads import head, lesion_mask, write

Runner = Callable[[Tensor], Tensor]
CHANNELS = {"xnet": 1, "cnnres": 2}


def torchscript(path: Path) -> Runner:
    return torch.jit.load(path)


def onnxruntime(path: Path) -> Runner:
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    return lambda x: torch.from_numpy(session.run(["pred"], {"image": x.numpy()})[0])


def openvino(path: Path) -> Runner:
    core = pytest.importorskip("openvino").Core()
    # Full precision, as on every machine: by default some CPUs compute in bfloat16.
    model = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: torch.from_numpy(model({"image": x.numpy()})["pred"])


RUNTIMES = {".ts": torchscript, ".onnx": onnxruntime, ".xml": openvino}


@pytest.fixture(scope="module")
def shipped() -> dict[str, nn.Module]:
    """Both networks with the shipped weights."""
    folders = {name: ROOT / f"{name}_bundle" for name in CHANNELS}
    return {
        name: load_into(bundle_network(folder), folder / "models" / "model.pt").eval()
        for name, folder in folders.items()
    }


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("xnet", ".ts"),
        ("cnnres", ".ts"),
        ("xnet", ".onnx"),
        ("cnnres", ".onnx"),
        ("cnnres", ".xml"),
        pytest.param("xnet", ".xml", marks=pytest.mark.long),
    ],
)
def test_an_export_equals_the_network(
    shipped: Mapping[str, nn.Module], tmp_path: Path, name: str, ending: str
) -> None:
    if ending != ".ts":
        pytest.importorskip(ending[1:] if ending == ".onnx" else "openvino")
    path = tmp_path / "made" / f"{name}{ending}"
    assert export_network(ROOT / f"{name}_bundle", path) == path
    run, network = RUNTIMES[ending](path), shipped[name]
    torch.manual_seed(1)
    for number, height, width in ((1, 48, 32), (3, 16, 64)):
        x = torch.rand(number, CHANNELS[name], height, width)
        with torch.no_grad():
            expected = network(x)
            torch.testing.assert_close(run(x), expected, rtol=1e-4, atol=1e-4)
        assert expected.std() > 0.1  # so that equal is not equally empty

    # A whole head through the bundle's own inferer, windows of another size and number than exported with.
    parser = ConfigParser()
    parser.read_config(ROOT / f"{name}_bundle" / "configs" / "inference.json")
    parser.update({"spacing": [6.0, 6.0, -1.0], "window": [32, 32]})
    modality = "T1w" if name == "xnet" else "DWI"
    scan = write(tmp_path / "scan.nii.gz", head(modality, lesion_mask(1), seed=1))
    volume = parser.get_parsed_content("preprocessing")({"image": str(scan)})["image"][None]
    inferer = parser.get_parsed_content("inferer")
    with torch.no_grad():
        ours, theirs = inferer(volume, network), inferer(volume, run)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_a_torchscript_file_tells_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "net.ts"
    done = strokeseg("export", ROOT / "cnnres_bundle", path)
    assert (done.code, done.out, done.told) == (0, f"Wrote {path}\n", "")
    files: dict[str, Any] = {"metadata.json": "", "inference.json": ""}
    torch.jit.load(path, _extra_files=files)
    for name, content in files.items():
        told = json.loads(content)
        stored = json.loads((ROOT / "cnnres_bundle" / "configs" / name).read_text())
        assert {key: told[key] for key in stored} == stored


def test_a_torchscript_file_is_the_same_wherever_the_package_lies(tmp_path: Path) -> None:
    paths = []
    for place in (ROOT, tmp_path / "home" / "smith"):
        if place != ROOT:
            shutil.copytree(ROOT / "shared_nets", place / "shared_nets")
        paths.append(tmp_path / str(len(paths)) / "net.ts")
        done = subprocess.run(
            [sys.executable, "-m", "shared_nets.cli", "export", ROOT / "cnnres_bundle", paths[-1]],
            cwd=place,
            # TorchScript writes a module's constants in the order of a set.
            env=os.environ | {"PYTHONPATH": str(place), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        with zipfile.ZipFile(paths[-1]) as archive:
            assert not [name for name in archive.namelist() if str(place).encode() in archive.read(name)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def told_by(path: Path) -> dict[str, Any]:
    """The metadata in an export."""
    if path.suffix == ".onnx":
        model = pytest.importorskip("onnx").load(path)
        return {entry.key: entry.value for entry in model.metadata_props}
    files: dict[str, Any] = {"metadata.json": ""}
    torch.jit.load(path, _extra_files=files)
    return json.loads(files["metadata.json"])


@pytest.mark.parametrize("ending", [".ts", ".onnx"])
def test_of_other_weights_an_export_tells_the_sha256_and_no_claim(
    bundles: Mapping[str, Path], tmp_path: Path, ending: str
) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnx")
    folder, mine = ROOT / "cnnres_bundle", bundles["cnnres"] / "models" / "model.pt"
    done = strokeseg("export", folder, tmp_path / f"mine{ending}", "--weights", mine)
    assert done.code == 0, done.err
    told = told_by(tmp_path / f"mine{ending}")
    assert f"Weights with the SHA-256 {sha256(mine)}" in told["description"]
    assert "not a medical device" in told["description"]
    assert "imulated" not in str(told)
    assert sha256(folder / CURRENT) not in str(told)
    told = told_by(export_network(folder, tmp_path / f"own{ending}", weights=folder / SHIPPED))
    assert "Weights pretrained on simulated lesions." in told["description"]
    if ending == ".ts":
        x, network = torch.rand(1, 2, 32, 32), load_into(bundle_network(folder), mine).eval()
        torch.testing.assert_close(torchscript(tmp_path / "mine.ts")(x), network(x), rtol=1e-4, atol=1e-4)


def test_an_onnx_file_tells_what_it_is(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(export_network(bundles["cnnres"], tmp_path / "net.onnx"))
    onnx.checker.check_model(model)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["name"] == "CNN-Res stroke lesion segmentation"
    assert "not a medical device" in told["description"]
    for value in (model.graph.input[0], model.graph.output[0]):
        sizes = value.type.tensor_type.shape.dim
        assert [bool(size.dim_param) for size in sizes] == [True, False, True, True]


def test_what_cannot_be_exported_is_told(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    folder = bundles["cnnres"]
    with pytest.raises(
        UsageError, match=r"net\.pb has no ending of an export; name it \.ts, \.onnx or \.xml"
    ):
        export_network(folder, tmp_path / "net.pb")
    with pytest.raises(UsageError, match="is no bundle"):
        export_network(tmp_path, tmp_path / "net.ts")
    with pytest.raises(WeightsError, match=r"absent\.pt is missing"):
        export_network(folder, tmp_path / "net.ts", weights=tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match="weights of X-Net"):
        export_network(folder, tmp_path / "net.ts", weights=bundles["xnet"] / "models" / "model.pt")
    (tmp_path / "file").write_text("")
    bare = shutil.copytree(folder, tmp_path.with_name(f"{tmp_path.name}_bare"))
    (bare / "configs" / "metadata.json").unlink()
    for ending in (".ts", ".onnx", ".xml"):
        with pytest.raises(UsageError, match=r"is no bundle to export \(configs/metadata\.json is missing\)"):
            export_network(bare, tmp_path / f"net{ending}")
    with pytest.raises(OutputError, match=r"net\.ts"):
        export_network(folder, tmp_path / "file" / "net.ts")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    done = strokeseg("export", folder, tmp_path / "net.pb")
    assert (done.code, done.out) == (1, "")
    assert len(done.told.splitlines()) == 1
    assert strokeseg("export", folder).code == 2

"""`strokeseg weights info`, `verify` and `convert`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from shared_nets.errors import UsageError, WeightsError
from shared_nets.release.provenance import convert_weights, describe, verify_bundle
from shared_nets.weights import load_weights, save_weights
from tests.commands import ROOT, strokeseg


def told(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_a_bundles_weights_are_described() -> None:
    folder = ROOT / "xnet_bundle"
    done = strokeseg("weights", "info", folder)
    assert done.code == 0, done.err
    lines = told(done.out)
    content = (folder / "models" / "model.pt").read_bytes()
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert lines["sha256"] == hashlib.sha256(content).hexdigest()
    assert lines["network"] == "X-Net"
    assert lines["values"] == "15,072,332 trained, 45,314 statistics"  # as Keras counts the authors' network
    assert lines["precision"] == "float16, float32, int64"
    assert lines["released"].startswith("yes")
    assert lines["version"] == metadata["version"]
    assert lines["data_source"] == metadata["data_source"]
    file = told(describe(folder / "models" / "model.safetensors"))
    assert file["released"].startswith("yes")
    assert file["sha256"] == metadata["weights_sha256"]["model.safetensors"]


def test_weights_that_are_not_ours_are_described(tmp_path: Path) -> None:
    save_weights({"a.weight": torch.ones(3, 4), "a.running_mean": torch.ones(2)}, tmp_path / "w.safetensors")
    lines = told(describe(tmp_path / "w.safetensors"))
    assert lines["network"] == "none of this package's"
    assert lines["values"] == "12 trained, 2 statistics"
    assert lines["precision"] == "float32"
    assert "released" not in lines
    for path, error in ((tmp_path, UsageError), (tmp_path / "no.pt", WeightsError)):
        with pytest.raises(error, match=path.name):
            describe(path)


def test_the_shipped_bundles_verify() -> None:
    for name in ("xnet_bundle", "cnnres_bundle"):
        assert len(verify_bundle(ROOT / name)) == 3


def test_what_does_not_verify_is_told(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "cnnres_bundle"
    shutil.copytree(ROOT / "cnnres_bundle", folder)
    shutil.copy(bundles["cnnres"] / "models" / "model.pt", folder / "models" / "model.pt")
    done = strokeseg("weights", "verify", folder)
    assert (done.code, done.out) == (1, "")
    assert "model.pt is not the file that was released or asked for" in done.told
    assert describe(folder).splitlines()[5] == "released: no, changed since the release"
    assert strokeseg("weights", "restore", folder).code == 0
    assert strokeseg("weights", "verify", folder).code == 0

    # Named in the metadata, but not the same values; then another network's.
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    for weights, said in (
        (bundles["cnnres"] / "models" / "model.pt", "model.pt and models/model.safetensors differ in "),
        (bundles["xnet"] / "models" / "model.pt", "weights of X-Net"),
    ):
        shutil.copy(weights, folder / "models" / "model.pt")
        metadata["weights_sha256"]["model.pt"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        path.write_text(json.dumps(metadata))
        with pytest.raises(WeightsError, match=said):
            verify_bundle(folder)
    del metadata["weights_sha256"]
    path.write_text(json.dumps(metadata))
    with pytest.raises(WeightsError, match="names no SHA-256"):
        verify_bundle(folder)


def test_there_and_back_keeps_every_bit(tmp_path: Path) -> None:
    source = ROOT / "cnnres_bundle" / "models" / "model.pt"
    done = strokeseg("weights", "convert", source, tmp_path / "a.safetensors")
    assert (done.code, done.out) == (0, f"Wrote {tmp_path / 'a.safetensors'}\n"), done.err
    convert_weights(tmp_path / "a.safetensors", tmp_path / "b.pt")
    assert (tmp_path / "b.pt").read_bytes() == source.read_bytes()
    shipped = ROOT / "cnnres_bundle" / "models" / "model.safetensors"
    assert (tmp_path / "a.safetensors").read_bytes() == shipped.read_bytes()


def test_half_precision_is_asked_for(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    source = bundles["cnnres"] / "models" / "model.pt"
    convert_weights(source, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.51 * source.stat().st_size
    one, other = load_weights(source), load_weights(tmp_path / "half.safetensors")
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor, rtol=1e-3, atol=1e-6)
    with pytest.raises(WeightsError, match=r"no ending of a weight file"):
        convert_weights(source, tmp_path / "w.bin")

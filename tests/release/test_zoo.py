"""What the MONAI Model Zoo checks of a bundle, by MONAI's own commands, and what programs ask of one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import BundlePropertyConfig

import shared_nets
from shared_nets.release.exports import bundle_network
from shared_nets.weights import load_into
from tests.bundles.configs import WORKFLOWS, config, items
from tests.commands import ROOT, assert_told, bundle, run
from tests.conftest import NETWORKS
from tests.release.schema import SCHEMA, verify_metadata

Folders = Mapping[str, Path]
both = pytest.mark.parametrize("name", list(NETWORKS))


def metadata(name: str) -> dict[str, Any]:
    return json.loads((ROOT / f"{name}_bundle" / "configs" / "metadata.json").read_text())


@both
def test_metadata_meets_the_schema(name: str, tmp_path: Path) -> None:
    assert metadata(name)["schema"].endswith(SCHEMA.name)
    done = verify_metadata(ROOT / f"{name}_bundle" / "configs" / "metadata.json")
    assert done.code == 0, done.err
    assert "metadata is verified with no error" in done.out + done.err
    # The check does refuse.
    broken = metadata(name) | {"version": 1}
    (tmp_path / "metadata.json").write_text(json.dumps(broken))
    assert verify_metadata(tmp_path / "metadata.json").code != 0


@both
def test_metadata_says_what_holds(name: str) -> None:
    told = metadata(name)
    assert told["version"] == shared_nets.__version__
    assert told["version"] in told["changelog"]
    assert told["required_packages_version"]["shared_nets"] == shared_nets.__version__
    assert "optional_packages_version" not in told
    pins = dict(
        line.split(";")[0].strip().split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    versions = told["required_packages_version"] | {
        "monai": told["monai_version"],
        "torch": told["pytorch_version"],
        "numpy": told["numpy_version"],
    }
    del versions["shared_nets"]
    assert versions == {package: pins[package] for package in versions}
    for key in ("intended_use", "eval_metrics", "data_source", "references", "copyright"):
        assert told[key]
    form = told["network_data_format"]
    inputs, outputs = form["inputs"]["image"], form["outputs"]["pred"]
    assert inputs["num_channels"] == len(inputs["channel_def"])
    assert list(form["inputs"]) == ["image"]
    assert list(form["outputs"]) == ["pred"]
    # MONAI Label takes an annotation's label names and values from here.
    assert outputs["channel_def"] == {"0": "background", "1": "lesion"}
    network = bundle_network(ROOT / f"{name}_bundle")
    with torch.no_grad():
        made = network.eval()(torch.rand(1, inputs["num_channels"], 32, 48))
    assert made.shape == (1, outputs["num_channels"], 32, 48)


@both
def test_the_network_takes_and_gives_what_the_metadata_says(name: str) -> None:
    configs = ROOT / f"{name}_bundle" / "configs"
    for size in (2, 5):  # multiples of 16
        done = run(
            "monai.bundle", "verify_net_in_out", "network_def", "--n", size,
            "--meta_file", configs / "metadata.json", "--config_file", configs / "inference.json",
        )  # fmt: skip
        assert done.code == 0, done.err
        assert "data shape of network is verified with no error" in done.out + done.err


def exported(command: str, folder: Path, path: Path, *more: object) -> None:
    """One of MONAI's export commands, on a bundle with its own weights."""
    configs = folder / "configs"
    done = run(
        "monai.bundle", command, "network_def", "--filepath", path,
        "--ckpt_file", folder / "models" / "model.pt",
        "--meta_file", configs / "metadata.json", "--config_file", configs / "inference.json", *more,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert path.is_file()


def slices_and_logits(name: str, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two slices, and what the network gives for them by the shipped weights."""
    folder = ROOT / f"{name}_bundle"
    torch.manual_seed(2)
    x = torch.rand(2, metadata(name)["network_data_format"]["inputs"]["image"]["num_channels"], height, width)
    with torch.no_grad():
        return x, load_into(bundle_network(folder), folder / "models" / "model.pt").eval()(x)


@both
def test_monai_exports_torchscript(name: str, tmp_path: Path) -> None:
    exported("ckpt_export", ROOT / f"{name}_bundle", tmp_path / "net.ts")
    x, expected = slices_and_logits(name, 48, 32)
    with torch.no_grad():
        made = torch.jit.load(tmp_path / "net.ts")(x)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


FREE_SIZES = {"image": {0: "batch", 2: "height", 3: "width"}, "pred": {0: "batch", 2: "height", 3: "width"}}
DYNAMIC = {
    "input_names": ["image"],
    "output_names": ["pred"],
    "dynamic_axes": FREE_SIZES,
    "dynamo": False,
}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--use_trace", True, "--converter_kwargs", DYNAMIC), id="any size"),
        pytest.param(("--input_shape", "[2,CHANNELS,48,32]"), id="one size", marks=pytest.mark.long),
    ],
)
@both
def test_monai_exports_onnx(name: str, arguments: tuple[object, ...], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    x, expected = slices_and_logits(name, 48, 32)
    told = [str(argument).replace("CHANNELS", str(x.shape[1])) for argument in arguments]
    exported("onnx_export", ROOT / f"{name}_bundle", tmp_path / "net.onnx", *told)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    made = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(made), expected, rtol=1e-4, atol=1e-4)


@both
def test_the_card_is_in_the_zoos_order(name: str) -> None:
    folder = ROOT / f"{name}_bundle" / "docs"
    card = (folder / "README.md").read_text()
    assert re.findall(r"^## (.+)$", card, flags=re.MULTILINE) == [
        "Overview",
        "Data",
        "Training",
        "Memory and speed",
        "Input",
        "Output",
        "Performance",
        "Commands",
        "Limits",
        "References",
        "Licence",
    ]
    assert "not a medical device" in card.split("## ")[0]
    performance = card.split("## Performance")[1].split("## Commands")[0]
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", performance)
    assert pictures
    assert all((folder / picture).is_file() for picture in pictures)


# ---- properties ----


def workflow(folder: Path, files: tuple[str, ...], data: Path, output: Path) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=[str(folder / "configs" / f"{file}.json") for file in files],
        meta_file=str(folder / "configs" / "metadata.json"),
        workflow_type="infer" if files == ("inference",) else "train",
        bundle_root=str(folder),
        dataset_dir=str(data),
        output_dir=str(output),
        quiet=True,
        **({} if files == ("inference",) else {"cache_gb": 0}),
    )


def same(one: Any, other: Any) -> bool:
    """The same object, or a list of the same objects."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or (isinstance(one, str | int | float | dict) and one == other)


@both
@pytest.mark.parametrize("files", [("train",), ("train", "evaluate"), ("inference",)], ids="+".join)
def test_every_property_can_be_got_and_set(
    trees: Folders, bundles: Folders, tmp_path: Path, name: str, files: tuple[str, ...]
) -> None:
    """What is got can be set in another workflow, which then has it."""
    made = workflow(bundles[name], files, trees[name], tmp_path)
    made.initialize()
    assert made.check_properties() == []  # MONAI's check reads configs, not what is set in their place
    values = {key: getattr(made, key) for key in made.properties}
    places = {key: f"{made.properties[key][BundlePropertyConfig.ID]}::" for key in values}
    # A whole is set, or else its parts: a trainer, or its epochs.
    whole = [
        key
        for key in values
        if not any(places[key].startswith(p) for p in {*places.values()} - {places[key]})
    ]
    parts = [
        key
        for key in values
        if not any(p.startswith(places[key]) for p in {*places.values()} - {places[key]})
    ]
    assert {*whole, *parts} == set(values)
    for chosen in (whole, parts):
        other = workflow(bundles[name], files, trees[name], tmp_path)
        for key in chosen:
            setattr(other, key, values[key])
        other.initialize()
        for key in chosen:
            assert same(values[key], getattr(other, key)), key


@both
def test_what_is_set_is_what_runs(trees: Folders, bundles: Folders, tmp_path: Path, name: str) -> None:
    flow = workflow(bundles[name], ("train",), trees[name], tmp_path)
    network = NETWORKS[name]()
    flow.max_epochs = 3
    flow.network_def = network
    ending = "" if name == "xnet" else "_0000"
    folder = trees[name]
    chosen = [
        {
            "image": str(folder / "imagesTr" / f"case2{ending}.nii.gz"),
            "label": str(folder / "labelsTr" / "case2.nii.gz"),
        }
    ]
    flow.train_dataset_data = chosen
    flow.train_handlers = []
    flow.device = "cpu"
    flow.initialize()
    assert flow.trainer.state.max_epochs == 3
    assert flow.trainer.network is network
    assert flow.train_dataset_data == chosen
    flow = workflow(bundles[name], ("inference",), trees[name], tmp_path)
    flow.dataset_dir = str(trees[name] / "imagesTs")
    flow.bundle_root = str(bundles[name])
    flow.initialize()
    assert [case["name"] for case in flow.dataset_data] == ["case1", "case2"]
    assert flow.version == shared_nets.__version__


# ---- where bundles of the zoo were found poor ----


@both
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_no_data_is_one_sentence(bundles: Folders, tmp_path: Path, name: str, workflow: str) -> None:
    """There: exit code 0 and a warning, or hundreds of lines. The other things missing: `test_workflows`."""
    done = bundle(
        workflow, config_file=config(bundles[name], *WORKFLOWS[workflow]), bundle_root=bundles[name],
        dataset_dir=tmp_path, output_dir=tmp_path / "out",
    )  # fmt: skip
    assert_told(done, str(tmp_path))


@both
def test_corrupt_scans_are_one_sentence_each_in_an_evaluation(
    trees: Folders, bundles: Folders, tmp_path: Path, name: str
) -> None:
    shutil.copytree(trees[name], tmp_path / "data")
    broken = [next((tmp_path / "data" / "imagesTr").glob(f"case{number}*")) for number in (1, 2)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:2000])
    content = {
        "training": items(name, [4, 5]),
        "validation": items(name, [1, 2, 3]),
    }
    (tmp_path / "data" / "list.json").write_text(json.dumps(content))
    done = bundle(
        "evaluating", config_file=config(bundles[name], "train", "evaluate"), bundle_root=bundles[name],
        dataset_dir=tmp_path / "data" / "list.json", output_dir=tmp_path / "out",
    )  # fmt: skip
    assert done.code == 1
    failed = [line for line in done.told.splitlines() if line.startswith("Failed: ")]
    assert len(failed) == len(broken)
    assert all(str(path) in line for path, line in zip(broken, failed, strict=True))
    assert "Traceback" not in done.err
    table = pd.read_csv(tmp_path / "out" / "metrics.csv").set_index("scan")
    assert dict(table["status"]) == {"case1": "failed", "case2": "failed", "case3": "ok"}


@both
def test_loaders_start_no_processes_unasked(name: str) -> None:
    """There: four, hard-coded. Ours keep what is prepared in memory, and take more when asked to."""
    configs = ROOT / f"{name}_bundle" / "configs"
    train, inference = (json.loads((configs / f"{file}.json").read_text()) for file in ("train", "inference"))
    assert inference["dataloader"]["num_workers"] == 0
    assert train["workers"] == 0
    for section in ("train", "validate"):
        assert "@workers" in train[section]["dataloader"]["num_workers"]

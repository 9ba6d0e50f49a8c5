"""`strokeseg inspect`: what a bundle would run is listed, and none of it is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from shared_nets.cli import app
from shared_nets.errors import UsageError
from shared_nets.inspection import inspect_bundle, is_known_component, is_known_expression
from tests.commands import ROOT
from tests.traps import Trap

LISTED = "Listed by strokeseg inspect as code to be read first, and not run."


def inspected(done: str) -> pytest.MarkDecorator:
    return pytest.mark.reliability("Weights and configs", done, LISTED)


def unknown(folder: Path) -> list[str]:
    return [f"{found.file}: {found.code}" for found in inspect_bundle(folder) if not found.known]


@pytest.mark.parametrize("name", ["xnet_bundle", "cnnres_bundle"])
def test_our_own_bundles_have_nothing_unknown(name: str) -> None:
    found = inspect_bundle(ROOT / name)
    assert unknown(ROOT / name) == []
    # Every expression of every config, counted by another way than parsing.
    text = "".join(path.read_text() for path in (ROOT / name / "configs").glob("*.json"))
    assert len(found) == text.count('"$')


@inspected("A config with an expression or a component that starts a program")
@pytest.mark.parametrize(
    ("content", "listed"),
    [
        ({"device": "$__import__('os').system('touch made')"}, "$__import__('os').system('touch made')"),
        ({"imports": ["$import os", "$import torch"]}, "$import os"),
        ({"a": {"b": ["$open('made', 'w')"]}}, "$open('made', 'w')"),
        ({"x": "$(1).__class__.__base__.__subclasses__()"}, "$(1).__class__.__base__.__subclasses__()"),
        (
            {"x": "$monai.transforms.io.array.os.system('true')"},
            "$monai.transforms.io.array.os.system('true')",
        ),
        ({"x": "$torch.hub.load('a', 'b')"}, "$torch.hub.load('a', 'b')"),
        ({"x": "$monai.bundle.download('a')"}, "$monai.bundle.download('a')"),
        ({"x": "$not valid python ("}, "$not valid python ("),
        ({"x": "$shared_nets.files.write_bytes('made', b'')"}, "$shared_nets.files.write_bytes('made', b'')"),
        ({"x": "$shared_nets.inference.write_table('made', [], [])"}, "write_table('made', [], [])"),
        ({"net": {"_target_": "shared_nets.release.release._build"}}, "shared_nets.release.release._build"),
        ({"net": {"_target_": "shared_nets.training.start._keep_still"}}, "_keep_still"),
        ({"net": {"_target_": "os.system", "command": "touch made"}}, "os.system"),
        ({"net": {"_target_": "subprocess.Popen"}}, "subprocess.Popen"),
        ({"net": {"_target_": "download_url"}}, "download_url"),
        ({"net": {"_target_": "torch.load"}}, "torch.load"),
        ({"net": {"_target_": "scripts.net.Network"}}, "scripts.net.Network"),
        ({"net": {"_target_": "Compose", "_mode_": "debug"}}, "opens a debugger"),
        ({"x": "%../other.json::a"}, "%../other.json::a: takes over another file"),
        ({"lib": "$import torch"}, "$import torch"),
        (
            {"imports": ["$import torch"], "x": "$@imports#0.os.system('true')"},
            "$@imports#0.os.system('true')",
        ),
        ({"imports": ["$import torch"], "x": "%imports#0"}, "%imports#0: refers to a module"),
        ({"x": "$(lambda eval: 0) and eval('1')"}, "$(lambda eval: 0) and eval('1')"),
        ({"x": "$(eval := eval)('1')"}, "$(eval := eval)('1')"),
        ({"x": "$open('a')\r  $int(1)"}, "$open('a')\\r  $int(1)"),
    ],
)
def test_what_is_unknown_is_listed(
    tmp_path: Path, content: Any, listed: str, happened: Callable[[object], None]
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(content))
    result = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if line.startswith("! ")]
    assert len(lines) == 1
    assert lines[0].endswith(listed)
    happened(lines[0])
    assert {path.name for path in tmp_path.rglob("*")} == {"configs", "inference.json"}


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_is_no_bundle_is_told(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "scans"
    if there:
        folder.mkdir()
        (folder / "a_T1w.nii.gz").write_bytes(b"voxels")
    result = CliRunner().invoke(app, ["inspect", str(folder)])
    assert isinstance(result.exception, UsageError)
    assert str(folder) in str(result.exception)


@inspected("The same in YAML, in any folder of the bundle")
@pytest.mark.parametrize("name", ["configs/a.yaml", "docs/deep/a.yml", "hidden.YAML"])
def test_yaml_anywhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("net:\n  - _target_: os.system\n    x: $import shutil\n")
    assert unknown(tmp_path) == [f"{name}: os.system", f"{name}: $import shutil"]


@inspected("Code files, a logging.conf with calls, a link out of the bundle")
def test_other_files(tmp_path: Path) -> None:
    for name in ("scripts/net.py", "run.sh", "lib.so"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "logging.conf").write_text(
        "[handler_a]\nclass=StreamHandler\nargs=(__import__('os').system('true'),)\n"
        "[handler_b]\nclass=handlers.SMTPHandler\nargs=(sys.stdout,)\n"
    )
    (tmp_path / "link.json").symlink_to("/etc/hostname")
    assert len(unknown(tmp_path)) == 6


@inspected("Weight files that are programs: a pickle with a call, a TorchScript archive")
def test_weights(tmp_path: Path, happened: Callable[[object], None]) -> None:
    models = tmp_path / "models"
    models.mkdir()
    torch.save({"a": torch.zeros(3), "b": nn.Parameter(torch.ones(2).half())}, models / "fine.pt")
    torch.save(nn.BatchNorm2d(3).state_dict(), models / "old.pt", _use_new_zipfile_serialization=False)
    assert unknown(tmp_path) == []
    torch.save({"a": Trap(tmp_path / "made")}, models / "trap.pt")
    (models / "trap.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "made")))
    (models / "cut.pt").write_bytes((models / "fine.pt").read_bytes()[:200])
    torch.jit.trace(nn.ReLU(), torch.zeros(1)).save(models / "program.pt")
    found = unknown(tmp_path)
    assert [line.split(":")[0] for line in found] == [
        f"models/{name}" for name in ("cut.pt", "program.pt", "trap.pkl", "trap.pt")
    ]
    assert "io.open" in found[2]
    assert "io.open" in found[3]
    assert not (tmp_path / "made").exists()
    happened(found[-1])


def test_a_name_hidden_on_the_stack_of_a_pickle_is_not_known(tmp_path: Path) -> None:
    # Strings of a harmless name are pushed last and dropped; the name called comes from the memo.
    hidden = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x8c\x0bcollections\x8c\x0bOrderedDict00\x93."
    (tmp_path / "a.pkl").write_bytes(hidden)
    assert len(unknown(tmp_path)) == 1


def test_a_yaml_that_repeats_or_contains_itself_ends(tmp_path: Path) -> None:
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30))
    (tmp_path / "bomb.yaml").write_text(f"l0: &l0 [$import os]\n{levels}\n")
    (tmp_path / "ring.yaml").write_text("a: &a\n  b: *a\n")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert [line.split(":")[0] for line in unknown(tmp_path)] == ["bomb.yaml", "deep.json"]


@pytest.mark.parametrize(
    "code",
    [
        "@a#b + [-1]",
        "torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "lambda engine: engine.state.metrics['val_dice']",
        "[x for x in @data if len(x) > 2]",
        "monai.handlers.from_engine(['pred', 'label'])",
        "torch.uint8",
        "import monai",
        "from torch.nn import Conv2d",
    ],
)
def test_what_bundles_are_made_of_is_known(code: str) -> None:
    assert is_known_expression(code, may_import=True)


@pytest.mark.parametrize("name", ["Compose", "monai.networks.nets.UNet", "torch.optim.Adam", "DiceCELoss"])
def test_components_of_bundles_are_known(name: str) -> None:
    assert is_known_component(name)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        inspect_bundle(tmp_path / "no")


@pytest.mark.skipif(os.name == "nt", reason="symlinks")
def test_a_bundle_that_brings_its_own_package_is_listed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "xnet_bundle" / "configs", tmp_path / "configs")
    (tmp_path / "shared_nets").mkdir()
    (tmp_path / "shared_nets" / "__init__.py").touch()
    assert unknown(tmp_path) == ["shared_nets/__init__.py: a file of code"]

"""Archives: the same bytes twice, whole without the repository, and unpacked only when they are harmless."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import shared_nets
from shared_nets.errors import UsageError, WeightsError
from shared_nets.files import write_bytes
from shared_nets.release import archive as archive_module
from shared_nets.release.archive import (
    bundle_files,
    configs_to_pass_on,
    requirements,
    unpack,
    write_archive,
    write_folder,
)
from shared_nets.release.release import write_release
from tests.commands import ROOT, strokeseg
from tests.heads import SMALL, head, lesion_mask, write

VERSION = shared_nets.__version__


def archive_of(release: Path, name: str) -> Path:
    return release / f"{name}_bundle_v{VERSION}.zip"


def test_a_release_has_the_archives_and_their_sums(release: Path) -> None:
    names = [f"cnnres_bundle_v{VERSION}.zip", f"xnet_bundle_v{VERSION}.zip"]
    assert sorted(path.name for path in release.iterdir()) == ["SHA256SUMS", *names]
    told = dict(reversed(line.split("  ")) for line in (release / "SHA256SUMS").read_text().splitlines())
    assert told == {name: hashlib.sha256((release / name).read_bytes()).hexdigest() for name in names}


def test_the_same_bundle_gives_the_same_bytes(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "cnnres_bundle"
    shutil.copytree(ROOT / "cnnres_bundle", copy)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")  # the card's pictures
    # Other times and permissions, and what using a bundle leaves in it.
    for path in copy.rglob("*.json"):
        os.utime(path, (0, 1_000_000_000))
        path.chmod(0o600)
    (copy / "models" / "last.ckpt").write_bytes(b"left by a training")
    (copy / "runs").mkdir()
    (copy / "configs" / ".cache").write_text("")
    # What work on the package leaves in it.
    package = tmp_path / "clone" / "shared_nets"
    shutil.copytree(ROOT / "shared_nets", package)
    for name in ("notes.txt", "weights.py.orig", "inference/report.html.j2.rej"):
        (package / name).write_text("of mine")
    monkeypatch.setattr(archive_module, "PACKAGE", package)
    shutil.copy(ROOT / "pyproject.toml", package.parent)
    made = write_archive(copy, tmp_path / "out")
    assert made.name == f"cnnres_bundle_v{VERSION}.zip"
    assert made.read_bytes() == archive_of(release, "cnnres").read_bytes()


def package_files() -> set[Path]:
    """The package's own files, code and the report's template, from the repository's root."""
    files = {path.relative_to(ROOT) for path in (ROOT / "shared_nets").rglob("*") if path.is_file()}
    return {path for path in files if "__pycache__" not in path.parts}


@pytest.mark.parametrize("name", ["xnet", "cnnres"])
def test_an_archive_holds_all_that_is_needed(release: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(archive_of(release, name)) as archive:
        assert {entry.split("/")[0] for entry in archive.namelist()} == {f"{name}_bundle"}
    folder = unpack(archive_of(release, name), tmp_path)
    assert folder == tmp_path / f"{name}_bundle"
    for part in ("configs", "models"):
        theirs = {
            path.name: path.read_bytes() for path in (ROOT / folder.name / part).iterdir() if path.is_file()
        }
        assert {path.name: path.read_bytes() for path in (folder / part).iterdir()} == theirs
    vendored = {path.relative_to(folder) for path in (folder / "shared_nets").rglob("*") if path.is_file()}
    assert vendored == package_files()
    card = (folder / "docs" / "README.md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", card)
    assert pictures
    for link in pictures:
        assert (folder / "docs" / link).is_file()
    # Its own sums, by a program that is not ours.
    check = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert check.returncode == 0, check.stderr
    listed = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(listed) + 1 == sum(path.is_file() for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["cnnres"])
def test_an_unpacked_archive_segments_with_its_own_package(release: Path, tmp_path: Path, name: str) -> None:
    """By MONAI's command from the bundle's folder: the package in it is the one that runs."""
    folder = unpack(archive_of(release, name), tmp_path)
    config = folder / "configs" / "inference.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | SMALL))
    own = folder / "shared_nets" / "__init__.py"
    own.write_text(own.read_text() + "\nprint('from', __file__)\n")
    scan = write(tmp_path / "scan.nii.gz", head("DWI", lesion_mask(1), seed=1))
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file"]
    command += ["configs/inference.json", "--dataset_dir", str(scan), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"from {own}" in done.stdout
    mask = nib.load(tmp_path / "out" / "scan_label-lesion_mask.nii.gz")
    np.testing.assert_array_equal(mask.affine, nib.load(scan).affine)


def test_in_an_unpacked_archive_its_bundle_is_the_default(release: Path, tmp_path: Path) -> None:
    folder = unpack(archive_of(release, "xnet"), tmp_path)
    environment = os.environ | {"PYTHONPATH": str(folder)}
    out, app = tmp_path / "out", tmp_path / "app"
    for words in (("release", out, "--no-packages"), ("monailabel", "prepare", app)):
        command = [sys.executable, "-W", "ignore", "-m", "shared_nets.cli", *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    again = out / archive_of(release, "xnet").name
    assert again.read_bytes() == archive_of(release, "xnet").read_bytes()
    assert [path.name for path in (app / "model").iterdir()] == ["xnet_bundle"]


# Names of packages whose modules are called otherwise.
MODULES = {
    "connected-components-3d": "cc3d",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "pytorch-ignite": "ignite",
    "scikit-image": "skimage",
}


def imported(path: Path) -> Iterable[str]:
    """The top-level modules that a file imports at once, whatever is called."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]


def test_what_is_imported_is_declared() -> None:
    lines = [re.match(r"[\w.-]+", line)[0] for line in requirements()]  # type: ignore[index]
    declared = {MODULES.get(name, name.replace("-", "_")) for name in lines}
    needed = {module for path in (ROOT / "shared_nets").rglob("*.py") for module in imported(path)}
    undeclared = needed - declared - set(sys.stdlib_module_names) - {"shared_nets"}
    # Only its own server has MONAI Label; the simulator's packages are an extra.
    assert undeclared <= {"monailabel", "nilearn", "sklearn"}


def test_the_hubs_folder_has_a_valid_card(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder = write_folder(ROOT / "xnet_bundle", tmp_path)
    write_folder(ROOT / "xnet_bundle", tmp_path)  # again, over the first
    card = hub.ModelCard.load(folder / "README.md")
    told = card.data.to_dict()
    assert told["license"] == "apache-2.0"
    assert told["library_name"] == "monai"
    assert told["pipeline_tag"] == "image-segmentation"
    assert {"monai", "stroke"} <= set(told["tags"])
    assert "not a medical device" in card.text
    assert card.text.lstrip().startswith("# X-Net")
    for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", card.text):
        assert (folder / link).is_file()
    assert not re.search(r"\]\(\.\./", card.text)  # no link out of the folder


def test_the_hubs_folder_replaces_nothing_but_an_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "cnnres_bundle"
    (folder / ".git").mkdir(parents=True)
    (folder / "SHA256SUMS").write_text("")  # pushed before
    with pytest.raises(UsageError, match=r"cnnres_bundle is not of an earlier release, or a clone"):
        write_folder(ROOT / "cnnres_bundle", tmp_path)
    (folder / ".git").rmdir()
    (folder / "SHA256SUMS").rename(folder / "notes.txt")
    with pytest.raises(UsageError, match="is not replaced: move it, or choose another output folder"):
        write_folder(ROOT / "cnnres_bundle", tmp_path)
    assert (folder / "notes.txt").is_file()
    (tmp_path / "out" / "huggingface").mkdir(parents=True)
    folder.rename(tmp_path / "out" / "huggingface" / "cnnres_bundle")
    with pytest.raises(UsageError, match="is not of an earlier release"):
        write_release(tmp_path / "out", [ROOT / "cnnres_bundle"], packages=False, hub=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["huggingface"]


def test_a_hubs_folder_that_was_broken_off_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with nothing there before, once with an earlier one, which stays as it was."""

    def broken_off(path: Path, content: bytes) -> None:
        if path.name == "LICENSE":
            raise KeyboardInterrupt
        write_bytes(path, content)

    earlier = tmp_path / "cnnres_bundle" / "of_an_earlier_version"
    for there in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(archive_module, "write_bytes", broken_off)
            with pytest.raises(KeyboardInterrupt):
                write_folder(ROOT / "cnnres_bundle", tmp_path)
        assert earlier.exists() == there
        folder = write_folder(ROOT / "cnnres_bundle", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["cnnres_bundle"]
        assert (folder / "LICENSE").is_file()
        assert not earlier.exists()
        earlier.touch()


@pytest.mark.parametrize("hub", [False, True])
def test_two_bundles_of_one_name_are_not_released(tmp_path: Path, hub: bool) -> None:
    for place in ("a", "b"):
        shutil.copytree(ROOT / "cnnres_bundle", tmp_path / place / "ours")
    if hub:  # there, the version is not in the name
        metadata = tmp_path / "b" / "ours" / "configs" / "metadata.json"
        metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"version": "9.0.0"}))
    told = "as ours: rename" if hub else rf"as ours_v{VERSION}\.zip: rename"
    with pytest.raises(UsageError, match=told):
        write_release(tmp_path / "out", [tmp_path / "a" / "ours", tmp_path / "b" / "ours"], False, hub)
    assert not (tmp_path / "out").exists()


def test_monai_pushes_the_hubs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run of ``monai.bundle push_to_hf_hub``: what it would upload, without a hub."""
    scripts = pytest.importorskip("monai.bundle.scripts")
    pytest.importorskip("huggingface_hub")
    asked = []

    class Hub:
        def __init__(self, token: str | None = None) -> None:
            pass

        def __getattr__(self, name: str) -> object:
            return lambda **arguments: asked.append((name, arguments))

    monkeypatch.setattr(scripts.huggingface_hub, "HfApi", Hub)
    folder = write_folder(ROOT / "cnnres_bundle", tmp_path)
    scripts.push_to_hf_hub(
        repo="somebody/cnnres_bundle", name=folder.name, bundle_dir=str(tmp_path), version="1"
    )
    assert [name for name, _ in asked] == ["create_repo", "upload_folder", "create_tag"]
    assert asked[1][1]["folder_path"] == str(folder)
    # MONAI puts a head of its own before the card under docs/.
    assert (folder / "README.md").read_text().startswith("---\ntags:\n- monai\n")


# ---- what is not released ----


def test_a_clone_has_the_same_bytes_on_windows() -> None:
    """Git there ends lines otherwise where no attribute says how."""
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    names = ("shared_nets/weights.py", "xnet_bundle/configs/train.json", "xnet_bundle/models/model.pt")
    command = ["git", "check-attr", "text", "eol", "--", *names, "docs/images/new.png", "new.nii.gz"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    told = [line.rsplit(": ", 1)[1] for line in said]
    assert told == [*["auto", "lf"] * 2, *["unset", "lf"] * 3]


def test_what_was_trained_since_is_not_released(tmp_path: Path) -> None:
    folder = tmp_path / "cnnres_bundle"
    shutil.copytree(ROOT / "cnnres_bundle", folder)
    weights = (folder / "models" / "model.pt").read_bytes()
    (folder / "models" / "model.pt").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(WeightsError, match=r"model\.pt is not the file that was released"):
        write_archive(folder, tmp_path)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    del metadata["weights_sha256"]
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(WeightsError, match="names no SHA-256"):
        write_archive(folder, tmp_path)
    shutil.rmtree(folder / "docs")
    with pytest.raises(UsageError, match=r"is no bundle to release \(docs/README.md is missing\)"):
        write_archive(folder, tmp_path)
    assert not list(tmp_path.glob("*.zip"))
    done = strokeseg("release", tmp_path / "out", "--bundle", tmp_path, "--no-packages")
    assert (done.code, done.out, len(done.told.splitlines())) == (1, "", 1)


def test_what_monai_label_trained_on_is_not_released(tmp_path: Path) -> None:
    folder = tmp_path / "cnnres_bundle"
    for part in ("cnnres_bundle", "docs"):  # where the pictures of its card are
        shutil.copytree(ROOT / part, tmp_path / part)
    before = bundle_files(folder)
    for name in ("configs/monailabel_train.json", "configs/.hidden", "docs/__pycache__/a.pyc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text('{"image": "/patients/smith.nii.gz"}')
    assert bundle_files(folder) == before


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("ours.json", {"dataset_dir": "patients"}, "dataset_dir"),
        ("ours.json", {"dataset_dir": ["a.json", "b.json"]}, "dataset_dir"),
        ("ours.json", {"train": {"lists": ["@x", "/data/smith/list.json"]}}, "train#lists#1"),
        ("ours.yaml", {"weights": "D:\\\\smith\\\\model.pt"}, "weights"),
        ("nested/ours.json", {"cases": "$'/data/' + @name"}, "cases"),
        ("ours.json", {"home": "~smith/scans"}, "home"),
        ("ours.json", {"lr": "%/data/smith/train.json::lr"}, "lr"),
        ("ours.json", {"weights": "$Path('/data/smith/model.pt')"}, "weights"),
        ("ours.json", {"weights": "$@lab + '/data/smith'"}, "weights"),
        ("ours.json", {"cache": "$str(@output_dir) + '/cache' if @short else '/home/smith/cache'"}, "cache"),
    ],
)
def test_a_config_that_tells_where_files_lie_is_not_passed_on(
    tmp_path: Path, name: str, content: Mapping[str, object], key: str
) -> None:
    folder = tmp_path / "cnnres_bundle"
    shutil.copytree(ROOT / "cnnres_bundle" / "configs", folder / "configs")
    assert len(configs_to_pass_on(folder)) == 9
    recipe = folder / "configs" / name
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(json.dumps(content))
    told = rf"{recipe.name}: {key} tells where files of yours lie .*: empty it"
    with pytest.raises(UsageError, match=told):
        configs_to_pass_on(folder)
    recipe.write_text('{"a": ')
    with pytest.raises(UsageError, match=f"{recipe.name} is no readable config"):
        configs_to_pass_on(folder)


def test_a_config_that_names_its_own_folders_is_passed_on(tmp_path: Path) -> None:
    content = {
        "dataset_dir": "@data",
        "weights": "$@bundle_root + '/models/' + str(@fold) + '/model.pt'",
        "parts": "$@name.replace('\\\\', '/').split('/')",
        "half": "%train.json::train#half",
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ours.json").write_text(json.dumps(content))
    assert list(configs_to_pass_on(tmp_path)) == ["configs/ours.json"]


def test_configs_are_looked_at_before_a_release(tmp_path: Path) -> None:
    for part in ("cnnres_bundle", "docs"):  # where the pictures of its card are
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "cnnres_bundle" / "configs" / "ours.json").write_text('{"dataset_dir": "/data"}')
    with pytest.raises(UsageError, match=r"ours\.json: dataset_dir tells where files of yours lie \(/data\)"):
        bundle_files(tmp_path / "cnnres_bundle")


# ---- hostile archives ----


def packed(path: Path, entries: Mapping[str, bytes], modes: Mapping[str, int] | None = None) -> Path:
    """A zip of entries, with the sums that they should have."""
    lines = [
        f"{hashlib.sha256(content).hexdigest()}  {name.removeprefix('b/')}\n"
        for name, content in sorted(entries.items())
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**entries, "b/SHA256SUMS": "".join(lines).encode()}.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return path


def test_a_harmless_archive_is_unpacked_once(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"b/x.txt": b"x", "b/c/y.txt": b"y"})
    assert unpack(archive, tmp_path / "out") == tmp_path / "out" / "b"
    assert (tmp_path / "out" / "b" / "c" / "y.txt").read_bytes() == b"y"
    with pytest.raises(UsageError, match=r"out/b is there already"):
        unpack(archive, tmp_path / "out")


def test_the_command_unpacks_into_a_folder_named_or_where_one_is(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"b/x.txt": b"x"})
    (tmp_path / "here").mkdir()
    for words, made in ((["out"], "out/b"), ([], "b")):
        done = strokeseg("unpack", archive, *words, cwd=tmp_path / "here")
        assert (done.code, done.out) == (0, f"Unpacked {made}\n"), done.err
        assert (tmp_path / "here" / made / "x.txt").read_bytes() == b"x"
    done = strokeseg("unpack", archive, cwd=tmp_path / "here")
    assert (done.code, done.out) == (1, "")
    assert "b is there already" in done.told
    assert len(done.told.splitlines()) == 1


def archive(done: str) -> pytest.MarkDecorator:
    return pytest.mark.reliability(
        "Weights and configs", done, "Refused in one sentence; nothing of it is unpacked."
    )


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"b/../../out.txt": b""}, "would lie outside its folder"),
        ({"../out.txt": b""}, "would lie outside its folder"),
        ({"/tmp/out.txt": b""}, "would lie outside its folder"),
        ({"b\\..\\..\\out.txt": b""}, "would lie outside its folder"),
        ({"C:/out.txt": b""}, "would lie outside its folder"),
        ({"b//tmp/out.txt": b""}, "would lie outside its folder"),
        ({"b/./out.txt": b""}, "would lie outside its folder"),
        ({"b/x.txt": b"", "c/x.txt": b""}, "more than one folder"),
        ({"out.txt": b""}, "lies in no folder"),
        ({f"b/{n}": b"" for n in range(10_001)}, "it has 10002 entries"),
    ],
    ids=[
        "parent",
        "parent at once",
        "absolute",
        "backslash",
        "drive",
        "two slashes",
        "dot",
        "two roots",
        "no root",
        "many",
    ],
)
@archive("An archive with paths that lead out of its folder")
def test_an_archive_that_leads_elsewhere_is_refused(
    tmp_path: Path, entries: Mapping[str, bytes], said: str
) -> None:
    archive = packed(tmp_path / "a.zip", entries)
    with pytest.raises(UsageError, match=said):
        unpack(archive, tmp_path / "in" / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
@archive("An archive with links or devices")
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    archive = packed(tmp_path / "a.zip", {"b/x": b"/etc/passwd"}, {"b/x": kind | 0o777})
    with pytest.raises(UsageError, match="is a link or device"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, compression: int) -> None:
    """Their faults end in errors of their own."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("b/x", bytes(range(256)) * 8)
    content = bytearray(path.read_bytes())
    content[60:100] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="'b/x' is compressed by another method than deflate"):
        unpack(path, tmp_path / "out")


@archive("A small archive that says it unpacks to more than a bundle holds")
def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"b/zeros": bytes(100)})
    # The directory at the archive's end claims another size.
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    assert content[place : place + 4] == (100).to_bytes(4, "little")
    content[place : place + 4] = (2**30 + 1).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UsageError, match="it would take more than 1 GiB"):
        unpack(path, tmp_path / "out")


@archive("A small archive that unpacks to more than it says")
def test_a_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"b/zeros": bytes(2**24)})
    assert path.stat().st_size < 20_000
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = content.index(mark) + offset
        content[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is damaged"):
        unpack(path, tmp_path / "out")


def test_damage_is_told(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"b/x.txt": b"some text" * 99})
    whole = path.read_bytes()
    for content in (whole[:-30], whole[:50], b"", b"<html>", whole.replace(b"PK\x03\x04", b"PK\x03\x05")):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"a\.zip is damaged"):
            unpack(path, tmp_path / "out")
    for entry in ("b/x.txt", "b/"):  # a file, a folder alone
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(entry, b"")
        with pytest.raises(UsageError, match="it has no SHA256SUMS"):
            unpack(path, tmp_path / "out")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b/x.txt", "changed")
        archive.writestr("b/SHA256SUMS", f"{hashlib.sha256(b'x').hexdigest()}  x.txt\n")
    with pytest.raises(UsageError, match="its files are not those of its SHA256SUMS"):
        unpack(path, tmp_path / "out")
    with pytest.raises(UsageError, match="is not there"):
        unpack(tmp_path / "no.zip", tmp_path / "out")
    with pytest.raises(UsageError, match="cannot be read"):
        unpack(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_wheel_and_source_archive(tmp_path: Path) -> None:
    pytest.importorskip("build")
    (tmp_path / "shared_nets-0.0.1-py3-none-any.whl").write_bytes(b"an earlier release's")
    (tmp_path / "scan.nii.gz").write_bytes(b"no package at all")
    made = write_release(tmp_path, [], packages=True)
    names = {path.name for path in made}
    assert names == {f"shared_nets-{VERSION}-py3-none-any.whl", f"shared_nets-{VERSION}.tar.gz", "SHA256SUMS"}
    with zipfile.ZipFile(tmp_path / f"shared_nets-{VERSION}-py3-none-any.whl") as wheel:
        packed_files = {name for name in wheel.namelist() if name.startswith("shared_nets/")}
    assert packed_files == {path.as_posix() for path in package_files()}

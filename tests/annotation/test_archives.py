"""
Released archives on a running server: unpacked into its app and served, or refused in a sentence.

``make test-monailabel`` installs a server and runs this.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import shared_nets
from shared_nets.annotation import prepare_app
from shared_nets.release.archive import unpack
from tests.annotation.demo import SCANS, demo_studies
from tests.annotation.masks import by_command
from tests.annotation.server import Server, running
from tests.commands import ROOT

pytest.importorskip("monailabel", reason="`make test-monailabel` installs MONAI Label")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_studies(tmp_path_factory.mktemp("demo") / "studies")


def unpacked(release: Path, name: str, folder: Path) -> Path:
    """A bundle's archive in a folder of bundles."""
    (archive,) = release.glob(f"{name}_bundle_v*.zip")
    return unpack(archive, folder)


def made_later(bundle: Path, version: str = "9.0.0") -> None:
    """Make an unpacked archive one of another release: its package, and the version it asks for."""
    package = bundle / "shared_nets" / "__init__.py"
    old = f'__version__ = "{shared_nets.__version__}"'
    assert old in package.read_text()
    package.write_text(package.read_text().replace(old, f'__version__ = "{version}"'))
    metadata = bundle / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    content["required_packages_version"]["shared_nets"] = version
    metadata.write_text(json.dumps(content))


def refusal(version: str = "9.0.0") -> str:
    return f"is made for shared_nets {version}, but {shared_nets.__version__} is in use"


def assert_as_by_command(server: Server, app: Path, name: str, scans: Path, folder: Path) -> None:
    """The mask of a demo scan is, voxel for voxel, that of ``monai.bundle run`` with its defaults."""
    made = nib.load(server.infer(f"{name}_bundle", SCANS[name], folder))
    scan = scans / f"{SCANS[name]}.nii.gz"
    np.testing.assert_allclose(made.affine, nib.load(scan).affine, atol=1e-4)
    source = scan if name == "xnet" else ROOT / "demo" / "acute"
    expected = by_command(app, f"{name}_bundle", source, folder / f"{name}-out")
    np.testing.assert_array_equal(made.get_fdata(), expected)
    assert expected.sum() > 100  # lesions, in voxels


def test_an_archive_joins_a_running_server(release: Path, scans: Path, tmp_path: Path) -> None:
    """In our app: after ``/reload`` it is served; one of another release is left out, and the reason told."""
    app = prepare_app(tmp_path / "app", [unpacked(release, "cnnres", tmp_path)])
    with running(app, scans, tmp_path) as server:
        assert set(server("GET", "/info/").json()["models"]) == {"cnnres_bundle"}
        unpacked(release, "xnet", app / "model")
        server("POST", "/reload")
        assert set(server("GET", "/info/").json()["models"]) == {"cnnres_bundle", "xnet_bundle"}
        assert_as_by_command(server, app, "xnet", scans, tmp_path)

        made_later(app / "model" / "xnet_bundle")
        server("POST", "/reload")
        info = server("GET", "/info/").json()
        assert set(info["models"]) == {"cnnres_bundle"}
        assert refusal() in info["description"]
        assert server.told(refusal())
        server.infer("cnnres_bundle", SCANS["cnnres"], tmp_path)


def test_archives_in_monai_labels_own_app(release: Path, scans: Path, tmp_path: Path) -> None:
    """There the first bundle's package serves all; one of another release is refused with an error."""
    app = tmp_path / "monaibundle"
    shutil.copytree(Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle", app)
    for name in SCANS:
        package = unpacked(release, name, app / "model") / "shared_nets" / "__init__.py"
        package.write_text(package.read_text() + "\nprint('package from', __file__, flush=True)\n")
    conf = ("models", "cnnres_bundle,xnet_bundle", "zoo_source", "ngc", "sam2", "false")
    with running(app, scans, tmp_path, *conf) as server:
        assert set(server("GET", "/info/").json()["models"]) == {"cnnres_bundle", "xnet_bundle"}
        vendored = app / "model" / "cnnres_bundle" / "shared_nets" / "__init__.py"
        told = [line for line in server.log.read_text().splitlines() if "package from" in line]
        assert told == [f"package from {vendored}"]
        assert_as_by_command(server, app, "cnnres", scans, tmp_path)

        made_later(app / "model" / "xnet_bundle")
        server("POST", "/reload")
        assert server.ask("GET", "/info/").status_code == 500
        assert server.told(refusal())

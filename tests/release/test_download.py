"""A released archive reaches others as MONAI's zoo does: downloaded over HTTP, loaded, made a workflow."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from monai.bundle import create_workflow, load

from shared_nets import CNNRes
from shared_nets.release.archive import write_archive
from shared_nets.release.exports import bundle_network
from shared_nets.weights import load_into
from tests.commands import ROOT, run
from tests.heads import SMALL, head, lesion_mask, write


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``monai.bundle download`` put an archive that a server on this machine offers."""
    offered, folder = tmp_path_factory.mktemp("offered"), tmp_path_factory.mktemp("bundles")
    archive = write_archive(ROOT / "cnnres_bundle", offered)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(offered)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done = run(
        "monai.bundle", "download", "--name", "cnnres_bundle", "--bundle_dir", folder,
        "--url", f"http://127.0.0.1:{server.server_port}/{archive.name}", "--progress", "False",
        no_proxy="127.0.0.1",
    )  # fmt: skip
    server.shutdown()
    assert done.code == 0, done.err
    return folder


def test_a_downloaded_bundle_is_whole(downloaded: Path) -> None:
    for name in ("model.pt", "model.safetensors"):
        made = downloaded / "cnnres_bundle" / "models" / name
        assert made.read_bytes() == (ROOT / "cnnres_bundle" / "models" / name).read_bytes()
    assert (downloaded / "cnnres_bundle" / "shared_nets" / "__init__.py").is_file()


@pytest.mark.parametrize("kind", ["train", "infer"])
def test_monai_loads_the_network_with_its_weights(downloaded: Path, kind: str) -> None:
    # MONAI looks for a config of the workflow's name; it has none for "infer", and returns the weights.
    made = load("cnnres_bundle", bundle_dir=str(downloaded), workflow_type=kind, device="cpu")
    network = made if kind == "train" else CNNRes()
    if kind == "infer":
        network.load_state_dict(made)
    folder = ROOT / "cnnres_bundle"
    expected = load_into(bundle_network(folder), folder / "models" / "model.pt")
    torch.manual_seed(0)
    x = torch.rand(1, 2, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), expected.eval()(x))


def test_monai_makes_a_workflow_of_it(downloaded: Path, tmp_path: Path) -> None:
    folder = downloaded / "cnnres_bundle"
    scan = write(tmp_path / "scan.nii.gz", head("DWI", lesion_mask(1), seed=1))
    flow = create_workflow(
        config_file=str(folder / "configs" / "inference.json"),
        workflow_type="infer",
        bundle_root=str(folder),
        dataset_dir=str(scan),
        output_dir=str(tmp_path / "out"),
        quiet=True,
        **SMALL,
    )
    flow.run()
    assert (tmp_path / "out" / "scan_label-lesion_mask.nii.gz").is_file()

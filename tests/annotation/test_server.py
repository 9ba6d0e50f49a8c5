"""
MONAI Label's own server with both bundles: all that Slicer and OHIF ask of it, over HTTP.

``make test-monailabel`` installs a server and runs this.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.annotation.conftest import CNNRES, XNET
from tests.annotation.masks import by_command
from tests.annotation.server import SECONDS, Server, running
from tests.commands import strokeseg
from tests.conftest import NETWORKS

pytest.importorskip("monailabel", reason="`make test-monailabel` installs MONAI Label")
nrrd = pytest.importorskip("nrrd")
slicer_client = pytest.importorskip("monailabel.client")

pytestmark = pytest.mark.long

CASES = [("xnet_bundle", scan) for scan in XNET] + [("cnnres_bundle", scan) for scan in CNNRES]


@pytest.fixture(scope="module")
def app(bundles: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server") / "app"
    done = strokeseg(
        "monailabel", "prepare", folder, "--bundle", bundles["xnet"], "--bundle", bundles["cnnres"]
    )
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def server(app: Path, studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with both bundles, until the tests are done."""
    with running(app, studies, tmp_path_factory.mktemp("home")) as made:
        yield made


def source(studies: Path, scan: str, tmp_path: Path) -> Path:
    """The scan as the command line takes it: its file, or a folder with DWI and FLAIR paired by name."""
    if scan != "pair":
        return studies / f"{scan}.nii.gz"
    folder = tmp_path / "pair"
    folder.mkdir()
    shutil.copy(studies / "pair.nii.gz", folder / "pair_0000.nii.gz")
    shutil.copy(studies / "flair" / "pair.nii.gz", folder / "pair_0001.nii.gz")
    return folder


# ---- the server's tests run in this order: the last ones train ----


def test_info_lists_both_models(server: Server) -> None:
    info = server("GET", "/info/").json()
    assert info["labels"] == ["lesion"]
    assert set(info["models"]) == set(info["trainers"]) == {"xnet_bundle", "cnnres_bundle"}
    for model in info["models"].values():
        assert model["type"] == "segmentation"
        assert model["labels"] == {"lesion": 1}
        assert model["config"]["model_filename"] == ["model.pt"]
        assert "not a medical device" in model["description"]
    uncertainty = {"xnet_bundle_uncertainty", "cnnres_bundle_uncertainty"}
    assert set(info["scoring"]) == uncertainty
    assert set(info["strategies"]) == {"random", "first", *uncertainty}
    assert info["datastore"]["total"] == len(CASES)  # the sibling FLAIR is no scan of its own


@pytest.mark.parametrize(("model", "scan"), CASES)
def test_a_mask_is_that_of_the_command_line_on_the_scans_grid(
    server: Server, app: Path, studies: Path, tmp_path: Path, model: str, scan: str
) -> None:
    made = nib.load(server.infer(model, scan, tmp_path))
    scan_file = nib.load(studies / f"{scan}.nii.gz")
    assert made.shape == scan_file.shape[:3]
    assert made.get_data_dtype() == np.uint8
    np.testing.assert_allclose(made.affine, scan_file.affine, atol=1e-4)
    expected = by_command(app, model, source(studies, scan, tmp_path), tmp_path / "out")
    np.testing.assert_array_equal(made.get_fdata(), expected)
    assert 0 < expected.mean() < 0.9  # something is marked, and not everything


def test_a_missing_sibling_makes_a_difference(server: Server, tmp_path: Path) -> None:
    """The same DWI with and without its FLAIR: the sibling is seen."""
    pair, alone = (
        nib.load(server.infer("cnnres_bundle", s, tmp_path)).get_fdata() for s in ("pair", "alone")
    )
    assert not np.array_equal(pair, alone)


def slicers(info: Mapping[str, Any], section: str, name: str) -> dict[str, Any]:
    """The settings that 3D Slicer sends: all that the server offers, the first of a list."""
    offered = info[section][name]["config"]
    return {key: value[0] if isinstance(value, list) else value for key, value in offered.items()}


def assert_nrrd_equals(path: Path, expected: nib.Nifti1Image, dtype: str) -> None:
    """An NRRD file holds a NIfTI's mask, in the same place."""
    array, header = nrrd.read(str(path))
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, expected.get_fdata())
    # NRRD's world is left–posterior–superior.
    assert header["space"] == "left-posterior-superior"
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = header["space directions"].T, header["space origin"]
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ matrix, expected.affine, atol=1e-4)


VIEWERS = [("xnet_bundle", "oblique"), ("cnnres_bundle", "stack")]


@pytest.mark.parametrize(("model", "scan"), VIEWERS)
def test_slicer_segments_by_its_own_client(
    server: Server, studies: Path, tmp_path: Path, model: str, scan: str
) -> None:
    """A scan of the server's, then one that Slicer brings along in a session."""
    client = slicer_client.MONAILabelClient(server.address, str(tmp_path), "slicer")
    expected = nib.load(server.infer(model, scan, tmp_path))
    settings = slicers(client.info(), "models", model)
    asked = settings | {"result_extension": ".nrrd", "result_dtype": "uint8"}
    file, told = client.infer(model, scan, dict(asked))
    assert told["label_names"] == {"lesion": 1}
    assert_nrrd_equals(Path(file), expected, "uint8")
    session = client.create_session(str(studies / f"{scan}.nii.gz"))["session_id"]
    file, _ = client.infer(model, "a scan of mine", dict(asked), session_id=session)
    assert_nrrd_equals(Path(file), expected, "uint8")
    client.remove_session(session)


def test_a_session_has_no_sibling(server: Server, studies: Path, tmp_path: Path) -> None:
    """DWI that Slicer brings along is segmented alone: its FLAIR stays on Slicer's disk."""
    client = slicer_client.MONAILabelClient(server.address, str(tmp_path), "slicer")
    session = client.create_session(str(studies / "pair.nii.gz"))["session_id"]
    asked = {"device": "cpu", "result_extension": ".nrrd", "result_dtype": "uint8"}
    file, _ = client.infer("cnnres_bundle", "pair", asked, session_id=session)
    assert_nrrd_equals(Path(file), nib.load(server.infer("cnnres_bundle", "alone", tmp_path)), "uint8")


def parts(answer: Any) -> dict[str, bytes]:
    """The fields of a multipart answer."""
    kind = answer.headers["content-type"]
    fields = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + answer.content).get_payload()
    return {
        field.get_param("name", header="content-disposition"): field.get_payload(decode=True)
        for field in fields
    }


@pytest.mark.parametrize(("model", "scan"), VIEWERS)
def test_ohif_gets_nrrd(server: Server, tmp_path: Path, model: str, scan: str) -> None:
    """The requests of its plugins, of version 3 and of version 2."""
    expected = nib.load(server.infer(model, scan, tmp_path))
    asked = {"result_extension": ".nrrd", "result_compress": False, "device": "cpu"}
    path = tmp_path / "mask.nrrd"
    answer = server(
        "POST", f"/infer/{model}", params={"image": scan, "output": "all"},
        data={"params": json.dumps(asked | {"result_dtype": "uint8", "restore_label_idx": False})},
    )  # fmt: skip
    fields = parts(answer)
    assert json.loads(fields["params"])["label_names"] == {"lesion": 1}
    path.write_bytes(fields["image"])
    assert_nrrd_equals(path, expected, "uint8")
    answer = server(
        "POST", f"/infer/{model}", params={"image": scan, "output": "image"},
        data={"params": json.dumps(asked | {"result_dtype": "uint16"})},
    )  # fmt: skip
    path.write_bytes(answer.content)
    assert_nrrd_equals(path, expected, "uint16")


def test_a_broken_scan_does_not_stop_the_server(server: Server, studies: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes((studies / "plain.nii.gz").read_bytes()[:2000])
    with broken.open("rb") as content:
        answer = server.ask(
            "POST", "/infer/xnet_bundle", params={"output": "image"},
            files={"file": ("broken.nii.gz", content)}, data={"params": json.dumps({"device": "cpu"})},
        )  # fmt: skip
    assert answer.status_code == 500
    server.infer("xnet_bundle", "plain", tmp_path)


def test_the_least_certain_scan_comes_next(server: Server) -> None:
    key = "xnet_bundle_uncertainty"
    told = server("POST", f"/scoring/{key}", params={"run_sync": True}, json={"device": "cpu"}).json()
    # X-Net reads one volume: the 4-D file is refused, the others are scored all the same.
    assert told == {"scored": 5, "skipped": 0, "failed": 1}
    again = server("POST", f"/scoring/{key}", params={"run_sync": True}, json={"device": "cpu"}).json()
    assert again["skipped"] == 5
    scores = {
        scan: server("GET", "/datastore/image/info", params={"image": scan}).json().get(key, {}).get("score")
        for scan in (*XNET, *CNNRES)
    }
    assert scores.pop("stack") is None
    assert all(0 <= score <= 1 for score in scores.values())
    chosen = server("POST", f"/activelearning/{key}", json={}).json()
    assert chosen["id"] == max(sorted(scores), key=lambda scan: scores[scan])
    assert chosen["path"].endswith(f"{chosen['id']}.nii.gz")
    assert server("POST", "/activelearning/random", json={}).json()["id"] in (*XNET, *CNNRES)


def test_corrections_are_saved_and_trained_on(
    server: Server, app: Path, studies: Path, tmp_path: Path
) -> None:
    """
    Labels saved, two epochs, the new weights used at once, and both models trained one after the other: X-Net
    from the weights it has, CNN-Res from new ones.
    """
    for number, scan in enumerate(("oblique", "plain", "permuted"), start=1):
        mask = nib.load(server.infer("xnet_bundle", scan, tmp_path))
        corrected = np.zeros(mask.shape, np.uint8)
        corrected[10:20, 10:20, 4:8] = 1
        path = tmp_path / f"{scan}.nii.gz"
        nib.save(nib.Nifti1Image(corrected, mask.affine), path)
        with path.open("rb") as content:
            server(
                "PUT", "/datastore/label", params={"image": scan, "tag": "final"},
                files={"label": (path.name, content)},
                data={"params": json.dumps({"label_info": [{"name": "lesion", "idx": 1}]})},
            )  # fmt: skip
        assert server("GET", "/info/").json()["datastore"]["completed"] == number
    for key in ("xnet_bundle_uncertainty", "random"):  # what has a final label is not asked for again
        assert server("POST", f"/activelearning/{key}", json={}).json()["id"] in CNNRES

    info = server("GET", "/info/").json()
    for model, pretrained in (("xnet_bundle", True), ("cnnres_bundle", False)):
        weights = app / "model" / model / "models" / "model.pt"
        # Other kernels than a training without them starts from: these were drawn with the same seed.
        drawn = torch.load(weights, weights_only=True)
        before = {key: 2 * value if value.ndim == 4 else value for key, value in drawn.items()}
        torch.save(before, weights)
        old = nib.load(server.infer(model, "plain", tmp_path)).get_fdata()
        asked = slicers(info, "trainers", model)
        asked |= {"max_epochs": 2, "val_split": 0.34, "pretrained": pretrained}
        runs = server.log.read_text().count("Trained for 2 epochs")
        server("POST", f"/train/{model}", json=asked)
        for _ in range(SECONDS):
            status = server("GET", "/train/").json()
            if status["status"] not in ("RUNNING", "SUBMITTED"):
                break
            time.sleep(1)
        assert status["status"] == "DONE", "\n".join(status["details"])
        assert server.log.read_text().count("Trained for 2 epochs") == runs + 1
        assert [p.name for p in weights.parent.glob("*.pt")] == ["model.pt"]
        made = torch.load(weights, weights_only=True)
        NETWORKS[model.removesuffix("_bundle")]().load_state_dict(made)
        change = max(float((made[key] - before[key]).abs().max()) for key in made if made[key].ndim == 4)
        assert (0 < change < 0.05) is pretrained
        new = nib.load(server.infer(model, "plain", tmp_path)).get_fdata()
        assert not np.array_equal(new, old)
        scan = studies / "plain.nii.gz"
        np.testing.assert_array_equal(new, by_command(app, model, scan, tmp_path / f"{model}-new"))


def test_many_at_once(server: Server, app: Path, studies: Path, tmp_path: Path) -> None:
    """Batch inference over what is not yet labelled, stored as original labels."""
    told = server(
        "POST", "/batch/infer/cnnres_bundle", params={"images": "unlabeled", "run_sync": True},
        json={"device": "cpu", "max_workers": 1, "multi_gpu": False},
    ).json()  # fmt: skip
    assert sorted(told) == sorted(CNNRES)
    for scan in CNNRES:
        stored = studies / "labels" / "original" / f"{scan}.nii.gz"
        expected = by_command(app, "cnnres_bundle", source(studies, scan, tmp_path), tmp_path / f"{scan}-out")
        np.testing.assert_array_equal(nib.load(stored).get_fdata(), expected)

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_nets.annotation import prepare_app
from shared_nets.annotation.disagreement import expected_disagreement
from shared_nets.annotation.prepare import bundles_to_serve
from shared_nets.errors import OutputError, UsageError
from tests.bundles.configs import of_version
from tests.commands import strokeseg
from tests.heads import dice


def test_an_app_holds_its_own_copies(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    app = tmp_path / "new" / "app"
    done = strokeseg("monailabel", "prepare", app, "--bundle", bundles["xnet"])
    assert done.code == 0, done.err
    assert f"monailabel start_server --app {app} --studies" in done.out
    model = app / "model" / "xnet_bundle"
    for path in ("configs/inference.json", "configs/train.json", "configs/metadata.json", "models/model.pt"):
        assert (model / path).read_bytes() == (bundles["xnet"] / path).read_bytes()
        assert not (model / path).samefile(bundles["xnet"] / path)
    compile((app / "main.py").read_text(), "main.py", "exec")
    # Another bundle can join; one that is there, with the weights trained in it, is left alone.
    prepare_app(app, [bundles["cnnres"]])
    (model / "models" / "model.pt").write_bytes(b"trained")
    with pytest.raises(UsageError, match=r"xnet_bundle is there already"):
        prepare_app(app, [bundles["xnet"]])
    assert (model / "models" / "model.pt").read_bytes() == b"trained"
    assert sorted(path.name for path in (app / "model").iterdir()) == ["cnnres_bundle", "xnet_bundle"]


def test_the_shipped_bundles_are_the_default(tmp_path: Path) -> None:
    assert strokeseg("monailabel", "prepare", tmp_path / "app").code == 0
    for name in ("xnet_bundle", "cnnres_bundle"):
        models = tmp_path / "app" / "model" / name / "models"
        assert {path.name for path in models.iterdir()} == {"model.pt", "model.safetensors", "ranges.json"}


def test_what_another_server_trained_on_stays_there(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    served = Path(shutil.copytree(bundles["xnet"], tmp_path / "xnet_bundle"))
    (served / "configs" / "monailabel_train.json").write_text("{}")
    (served / "models" / "last.ckpt").write_bytes(b"")
    app = prepare_app(tmp_path / "app", [served])
    for part in ("configs", "models"):
        assert {path.name for path in (app / "model" / "xnet_bundle" / part).iterdir()} == {
            path.name for path in (bundles["xnet"] / part).iterdir()
        }


def test_a_folder_of_something_else_is_left_alone(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    """Such as that one is in: ``prepare .``."""
    (tmp_path / "main.py").write_text("print('mine')")
    with pytest.raises(UsageError, match=r"main\.py is not of such an app, and would be overwritten"):
        prepare_app(tmp_path, [bundles["xnet"]])
    assert [path.name for path in tmp_path.iterdir()] == ["main.py"]
    assert (tmp_path / "main.py").read_text() == "print('mine')"


@pytest.mark.parametrize("failing", ["xnet_bundle", "cnnres_bundle"])
@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        shutil.Error([("model.pt", "app/model.pt", "[Errno 28] no space left on device")]),
    ],
)
def test_what_failed_halfway_can_be_repeated(
    bundles: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    failure: OSError,
) -> None:
    """The disk is full at one of the bundles, which is named."""
    copytree, app = shutil.copytree, tmp_path / "app"

    def full(source: Path, *more: Any, **options: Any) -> Any:
        if f"{failing}/models" in str(source):
            raise failure
        return copytree(source, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(OutputError, match=rf"{failing} cannot be .*no space left"):
            prepare_app(app, [bundles["xnet"], bundles["cnnres"]])
    assert not [path for path in app.rglob("*") if path.is_file()]
    prepare_app(app, [bundles["xnet"], bundles["cnnres"]])
    assert sorted(path.name for path in (app / "model").iterdir()) == ["cnnres_bundle", "xnet_bundle"]
    assert (app / "main.py").is_file()


def test_what_the_server_would_stumble_over_is_told(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    app = tmp_path / "app"
    with pytest.raises(UsageError, match=r"is no bundle to serve \(configs/inference.json is missing\)"):
        prepare_app(app, [tmp_path])
    with pytest.raises(UsageError, match="takes a bundle with 'detection' in its name for another task"):
        prepare_app(app, [of_version(bundles["xnet"], None, tmp_path / "lesion_Detection")])
    with pytest.raises(UsageError, match=r"made for shared_nets 9\.0\.0"):
        prepare_app(app, [bundles["xnet"], of_version(bundles["cnnres"], "9.0.0", tmp_path / "newer")])
    of_version(bundles["xnet"], None, tmp_path / "other" / "xnet_bundle")
    with pytest.raises(UsageError, match=r"xnet_bundle: two of these folders have one name"):
        prepare_app(app, [bundles["xnet"], tmp_path / "other" / "xnet_bundle"])
    more = of_version(bundles["xnet"], None, tmp_path / "more")
    (more / "models" / "other.pt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"other\.pt: MONAI Label would offer this file"):
        prepare_app(app, [more])
    assert not app.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        prepare_app(tmp_path / "file" / "app", [bundles["xnet"]])
    done = strokeseg("monailabel", "prepare", app, "--bundle", tmp_path)
    assert (done.code, done.out, len(done.told.splitlines())) == (1, "", 1)


def test_a_server_leaves_out_what_is_of_another_version(bundles: Mapping[str, Path], tmp_path: Path) -> None:
    app = prepare_app(tmp_path / "app", list(bundles.values()))
    served, refused = bundles_to_serve(app / "model", "")
    assert served == {f"{name}_bundle": str(app / "model" / f"{name}_bundle") for name in ("cnnres", "xnet")}
    assert refused == []
    assert list(bundles_to_serve(app / "model", "xnet_bundle, ")[0]) == ["xnet_bundle"]
    with pytest.raises(UsageError, match=r"xnet: there is no such bundle .* cnnres_bundle, xnet_bundle\."):
        bundles_to_serve(app / "model", "xnet")
    shutil.rmtree(app / "model" / "xnet_bundle")
    of_version(bundles["xnet"], "9.0.0", app / "model" / "xnet_bundle")
    served, (told,) = bundles_to_serve(app / "model", "")
    assert list(served) == ["cnnres_bundle"]
    assert "xnet_bundle is made for shared_nets 9.0.0" in told
    metadata = app / "model" / "xnet_bundle" / "configs" / "metadata.json"
    written = metadata.read_text()
    metadata.write_text(written.rstrip()[:-1] + ",}")
    served, (told,) = bundles_to_serve(app / "model", "")
    assert list(served) == ["cnnres_bundle"]
    assert f"{metadata} is not readable JSON" in told
    metadata.write_text(written)
    (app / "model" / "xnet_bundle" / "models" / "model.pt").unlink()
    served, (told,) = bundles_to_serve(app / "model", "")
    assert list(served) == ["cnnres_bundle"]
    assert "xnet_bundle is no bundle to serve (models/model.pt is missing)" in told
    of_version(bundles["xnet"], "9.0.0", tmp_path / "again")
    shutil.rmtree(app / "model" / "xnet_bundle")
    shutil.copytree(tmp_path / "again", app / "model" / "xnet_bundle")
    with pytest.raises(UsageError, match=r"holds no bundle that can be served\. Not served: .* 9\.0\.0"):
        bundles_to_serve(app / "model", "xnet_bundle")


def test_disagreement_of_masks_drawn_at_random() -> None:
    """Against masks drawn: their mean overlap over their mean size, where there is much more than 1 mL."""
    torch.manual_seed(0)
    probability = torch.rand(40, 40, 40) ** 3
    first, second = (torch.rand(20, 40, 40, 40) < probability for _ in range(2))
    expected = 1 - dice(first, second.expand_as(first))
    assert expected_disagreement(probability, 1.0) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (torch.zeros(9, 9), 0),  # sure that there is nothing
        (torch.ones(9, 9), 0),
        (torch.full((1000,), 1e-7), 0),  # what was not computed
        (torch.full((100, 1000), 0.5), 0.5),
    ],
)
def test_disagreement_at_its_ends(probability: torch.Tensor, expected: float) -> None:
    assert expected_disagreement(probability, 0.008) == pytest.approx(expected, abs=0.002)


def test_disagreement_does_not_depend_on_the_voxels_size() -> None:
    coarse = torch.from_numpy(np.random.default_rng(0).random((6, 6, 6)))
    fine = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert expected_disagreement(fine, 0.1) == pytest.approx(expected_disagreement(coarse, 0.8))


def test_the_metadata_names_the_server(bundles: Mapping[str, Path]) -> None:
    for folder in bundles.values():
        assert json.loads((folder / "configs" / "metadata.json").read_text())["supported_apps"]["monai-label"]

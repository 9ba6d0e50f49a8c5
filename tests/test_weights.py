"""Weights: what is saved comes back, and no bad file is loaded, run, or left half written."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from shared_nets import CNNRes, XNet
from shared_nets.errors import OutputError, UsageError, WeightsError
from shared_nets.weights import (
    check_architecture,
    load_into,
    load_weights,
    released_sha256,
    restore_shipped,
    save_weights,
    sha256,
)
from tests.traps import Trap, full_disk

ENDINGS = pytest.mark.parametrize("ending", [".pt", ".safetensors"])


def refused(done: str) -> pytest.MarkDecorator:
    return pytest.mark.reliability(
        "Weights and configs", done, "Refused in one sentence that names the file; nothing in it is run."
    )


def small(seed: int = 0) -> nn.Sequential:
    """A network with kernels, batch-norm statistics and an integer buffer."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))


def safetensors_file(header: object, data: bytes = bytes(4)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one
    )


@ENDINGS
def test_what_is_saved_comes_back(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"model{ending}"
    save_weights(small().state_dict(), path)
    assert equal(load_weights(path), dict(small().state_dict()))
    assert os.listdir(path.parent) == [path.name]


@ENDINGS
def test_half_precision_is_half_on_disk_and_float32_in_memory(tmp_path: Path, ending: str) -> None:
    torch.manual_seed(0)
    state = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128)).state_dict()
    save_weights(state, tmp_path / f"full{ending}")
    save_weights(state, tmp_path / f"half{ending}", half=True)
    ratio = (tmp_path / f"half{ending}").stat().st_size / (tmp_path / f"full{ending}").stat().st_size
    assert ratio == pytest.approx(0.5, abs=0.02)
    for key, tensor in load_weights(tmp_path / f"half{ending}").items():
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, state[key], rtol=2**-11, atol=2**-24)
        else:
            assert torch.equal(tensor, state[key])


def test_the_shipped_form_loads_with_torch_alone(tmp_path: Path) -> None:
    save_weights(small(1).state_dict(), tmp_path / "model.pt", half=True)
    network = small(2)
    network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert network[0].weight.dtype == torch.float32
    torch.testing.assert_close(network[0].weight, small(1)[0].weight, rtol=1e-3, atol=1e-6)


def test_the_other_readers_own_files_load(tmp_path: Path) -> None:
    state = small().state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, tmp_path / "c.safetensors")
    for name in ("a.pt", "b.pt", "c.safetensors"):
        assert equal(load_weights(tmp_path / name), dict(state))


@ENDINGS
def test_the_same_weights_give_the_same_file(tmp_path: Path, ending: str) -> None:
    state = small().state_dict()
    one, other, third = (tmp_path / f"{name}{ending}" for name in ("one", "another-name", "third"))
    save_weights(state, one)
    save_weights(dict(reversed(state.items())), other)
    save_weights(small(1).state_dict(), third)
    assert sha256(one) == sha256(other) == hashlib.sha256(one.read_bytes()).hexdigest()
    assert sha256(one) != sha256(third)


def test_views_of_one_tensor_can_be_saved(tmp_path: Path) -> None:
    shared = torch.arange(12.0).reshape(3, 4)
    for ending in (".pt", ".safetensors"):
        save_weights({"a": shared[:2].T, "b": shared}, tmp_path / f"m{ending}")
        loaded = load_weights(tmp_path / f"m{ending}")
        assert torch.equal(loaded["a"], shared[:2].T)
        assert torch.equal(loaded["b"], shared)


@ENDINGS
def test_loading_into_a_network_gives_its_output(tmp_path: Path, ending: str) -> None:
    source, target = small(1).eval(), small(2).eval()
    save_weights(source.state_dict(), tmp_path / f"m{ending}")
    x = torch.rand(1, 1, 8, 8)
    assert not torch.equal(source(x), target(x))
    assert load_into(target, tmp_path / f"m{ending}") is target
    assert torch.equal(source(x), target(x))


@refused("A file of another SHA-256")
def test_the_right_checksum_is_accepted_and_a_wrong_one_refused(
    tmp_path: Path, happened: Callable[[object], None]
) -> None:
    path = tmp_path / "model.pt"
    save_weights(small().state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_weights(path, digest).keys() == load_weights(path, f" {digest.upper()}\n").keys()
    with pytest.raises(WeightsError, match=r"model\.pt is not the file that was released") as caught:
        load_weights(path, "0" * 64)
    for number in (0, 123):  # as MONAI's command line takes one that is cut off
        with pytest.raises(WeightsError, match="is not the file that was released"):
            load_weights(path, number)  # type: ignore[arg-type]
    network = small(3)
    with pytest.raises(WeightsError, match="is not the file that was released") as caught:
        load_into(network, path, "0" * 64)
    assert equal(dict(network.state_dict()), dict(small(3).state_dict()))
    happened(caught.value)


def save_as_torch(content: object, path: Path) -> None:
    torch.save(content, path)


def save_as_torch_before_1_6(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_as_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@refused("A pickle that would create a file")
@pytest.mark.parametrize("save", [save_as_torch, save_as_torch_before_1_6, save_as_pickle])
def test_code_in_a_file_is_not_run(
    tmp_path: Path, save: Callable[[object, Path], None], happened: Callable[[object], None]
) -> None:
    target, path = tmp_path / "made-by-payload", tmp_path / "model.pt"
    save({"weight": Trap(target)}, path)
    with pytest.raises(WeightsError, match=r"model\.pt") as caught:
        load_weights(path)
    assert not target.exists()
    if save is not save_as_pickle:  # which torch does not read far enough to know
        assert "holds more than tensors" in str(caught.value)
        assert "open" in str(caught.value)
    # The payload is live: without the protection it does create the file.
    pickle.loads(pickle.dumps(Trap(target))).close()
    assert target.exists()
    happened(caught.value)


@refused("A truncated weight file")
@ENDINGS
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_told(
    tmp_path: Path, ending: str, share: float, happened: Callable[[object], None]
) -> None:
    path = tmp_path / f"model{ending}"
    save_weights(small().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        WeightsError, match=rf"model{ending} is damaged, incomplete or not a weight file"
    ) as caught:
        load_weights(path)
    happened(caught.value)


@refused("One changed byte among the values")
def test_one_changed_byte_in_the_values_is_told(tmp_path: Path, happened: Callable[[object], None]) -> None:
    path = tmp_path / "model.pt"
    save_weights({"a": torch.ones(1000)}, path)
    content = path.read_bytes()
    middle = content.index(torch.ones(1000).numpy().tobytes()) + 2002
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert not torch.equal(
        torch.load(path, weights_only=True)["a"], torch.ones(1000)
    )  # torch does not see it
    with pytest.raises(WeightsError, match="is damaged") as caught:
        load_weights(path)
    happened(caught.value)


@refused("A weight file packed anew, then damaged or encrypted")
@pytest.mark.parametrize("fault", ["no such block", "encrypted"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_compressed_file_is_told(
    tmp_path: Path, compression: int, fault: str, happened: Callable[[object], None]
) -> None:
    """PyTorch's own files are not compressed; a zip program may have done it."""
    path = tmp_path / "model.pt"
    name = "model/data.pkl"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, bytes(range(256)) * 8)
    content = bytearray(path.read_bytes())
    if fault == "encrypted":
        for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
            content[content.index(mark) + offset] |= 1
    else:
        start = content.index(name.encode()) + len(name)
        content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"model\.pt is damaged, incomplete or not a weight file"
    ) as caught:
        load_weights(path)
    happened(caught.value)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model.bin"])
@pytest.mark.parametrize("content", [b"<html>404 Not Found</html>", b"PK\x03\x04junk", bytes(range(256)) * 4])
def test_a_file_that_is_no_weight_file_is_told(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged, incomplete or not a weight file"):
        load_weights(tmp_path / name)


@refused("A safetensors header of absurd length or content")
@pytest.mark.parametrize(
    "content",
    [
        (2**63 - 1).to_bytes(8, "little") + b"{}",
        (10**9).to_bytes(8, "little") + b"{}" * 100,
        safetensors_file({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
        safetensors_file({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}),
        safetensors_file({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
        safetensors_file({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}),
        safetensors_file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
        safetensors_file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}),
        safetensors_file(["a"]),
    ],
)
def test_an_absurd_safetensors_header_is_told(
    tmp_path: Path, content: bytes, happened: Callable[[object], None]
) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged, incomplete or not a weight file") as caught:
        load_weights(tmp_path / "model.safetensors")
    happened(caught.value)


def test_a_safetensors_file_named_pt_and_the_reverse_are_told(tmp_path: Path) -> None:
    save_weights(small().state_dict(), tmp_path / "a.pt")
    save_weights(small().state_dict(), tmp_path / "b.safetensors")
    (tmp_path / "a.pt").rename(tmp_path / "c.safetensors")
    (tmp_path / "b.safetensors").rename(tmp_path / "d.pt")
    for name in ("c.safetensors", "d.pt"):
        with pytest.raises(WeightsError, match="not a weight file"):
            load_weights(tmp_path / name)


def test_a_missing_file_or_a_folder_is_told(tmp_path: Path) -> None:
    for action in (load_weights, sha256):
        with pytest.raises(WeightsError, match=r"model\.pt is missing"):
            action(tmp_path / "model.pt")
        with pytest.raises(WeightsError, match="cannot be read"):
            action(tmp_path)


@pytest.mark.parametrize("key", ["model", "state_dict", "network"])
def test_a_wrapped_checkpoint_is_told_with_its_key(tmp_path: Path, key: str) -> None:
    torch.save({"epoch": 3, key: small().state_dict()}, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match=rf"checkpoint\.pt is a training checkpoint .* key '{key}'"):
        load_weights(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(1)], "holds a list, not a state dict"),
        (torch.zeros(1), "holds a Tensor, not a state dict"),
        ({}, "holds no weights at all"),
        ({"a": torch.zeros(1), "epoch": 3}, r"not a plain state dict \('epoch' is a int\)"),
        ({1: torch.zeros(1)}, "not a plain state dict"),
    ],
)
def test_anything_but_a_state_dict_is_told(tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=said):
        load_weights(tmp_path / "model.pt")


@refused("A whole pickled module, a TorchScript program")
def test_a_whole_module_and_a_torchscript_program_are_told(
    tmp_path: Path, happened: Callable[[object], None]
) -> None:
    torch.save(small(), tmp_path / "module.pt")
    with pytest.raises(WeightsError, match="holds more than tensors") as caught:
        load_weights(tmp_path / "module.pt")
    torch.jit.trace(small().eval(), torch.rand(1, 1, 8, 8)).save(tmp_path / "program.pt")
    with pytest.raises(WeightsError, match="is a TorchScript program, not weights") as caught:
        load_weights(tmp_path / "program.pt")
    happened(caught.value)


@refused("NaN or infinite weights")
@ENDINGS
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_weights_are_neither_loaded_nor_saved(
    tmp_path: Path, ending: str, value: float, happened: Callable[[object], None]
) -> None:
    bad = {"a": torch.zeros(3), "b": torch.tensor([1, value])}
    path = tmp_path / f"model{ending}"
    if ending == ".pt":
        torch.save(bad, path)
    else:
        safetensors.torch.save_file(bad, path)
    with pytest.raises(WeightsError, match=f"model{ending} has NaN or infinite values in b") as caught:
        load_weights(path)
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="was not written: the state dict has NaN") as caught:
        save_weights(bad, path)
    assert path.read_bytes() == before
    happened(caught.value)


@ENDINGS
@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.complex64])
def test_kernels_of_another_kind_are_not_loaded(tmp_path: Path, ending: str, kind: torch.dtype) -> None:
    state = dict(small().state_dict())
    save_weights(state | {"0.weight": state["0.weight"].to(kind)}, tmp_path / f"model{ending}")
    said = rf"model{ending} do not fit Sequential \(0\.weight holds \w+ instead of float32\); save them with"
    with pytest.raises(WeightsError, match=said):
        load_into(small(), tmp_path / f"model{ending}")


@ENDINGS
def test_averaged_weights_are_loaded(tmp_path: Path, ending: str) -> None:
    """The mean of two state dicts counts batches in fractions."""
    one, other = (small(seed).state_dict() for seed in (1, 2))
    mean = {key: (one[key].float() + other[key].float()) / 2 for key in one}
    save_weights(mean, tmp_path / f"model{ending}")
    loaded = load_into(small(), tmp_path / f"model{ending}").state_dict()
    assert torch.equal(loaded["0.weight"], mean["0.weight"])
    assert loaded["1.num_batches_tracked"].dtype == torch.int64


def test_a_variance_below_zero_is_neither_loaded_nor_saved(tmp_path: Path) -> None:
    state = small().state_dict()
    state["1.running_var"][1] = -0.5
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"model\.pt has variances below zero in 1\.running_var; train"):
        load_into(small(), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"has variances below zero in 1\.running_var"):
        save_weights(state, tmp_path / "other.pt")


def test_values_too_large_for_half_precision_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"the state dict in float16 has .* in variance; leave out --half \(half=False\)"
    ):
        save_weights({"variance": torch.tensor([[70_000.0]])}, tmp_path / "model.pt", half=True)
    assert os.listdir(tmp_path) == []


def test_batch_norm_keeps_its_range_in_half_precision(tmp_path: Path) -> None:
    state = {"kernel": torch.ones(2, 2), "running_var": torch.tensor([3e7, 1e-9])}
    save_weights(state, tmp_path / "model.pt", half=True)
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert stored["kernel"].dtype == torch.float16
    assert torch.equal(stored["running_var"], state["running_var"])


def other_ending(path: Path) -> Path:
    return path / "model.onnx"


def file_as_folder(path: Path) -> Path:
    (path / "file").write_text("")
    return path / "file" / "model.pt"


def folder_as_file(path: Path) -> Path:
    (path / "model.pt").mkdir()
    return path / "model.pt"


@pytest.mark.parametrize(
    ("place", "error"),
    [(other_ending, WeightsError), (file_as_folder, OutputError), (folder_as_file, OutputError)],
)
def test_a_place_that_cannot_be_written_to_is_told(
    tmp_path: Path, place: Callable[[Path], Path], error: type[Exception]
) -> None:
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=path.name):
        save_weights(small().state_dict(), path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_reader_of_the_old_file_keeps_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_weights(small(1).state_dict(), path)
    before = path.read_bytes()
    with path.open("rb") as reader:
        save_weights(small(2).state_dict(), path)
        assert reader.read() == before
    assert path.read_bytes() != before


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_weights(small(1).state_dict(), path)
    before = path.read_bytes()
    with full_disk(), pytest.raises(OutputError, match=r"model\.pt cannot be written"):
        save_weights(small(2).state_dict(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pt"]


@refused("Weights of another architecture")
def test_the_weights_of_the_other_network_are_named(happened: Callable[[object], None]) -> None:
    with torch.device("meta"):
        xnet, softmax, no_fsm, cnnres, cnnres1 = (
            XNet(),
            XNet(fsm="softmax"),
            XNet(fsm=None),
            CNNRes(),
            CNNRes(1),
        )
    for network, state, said in (
        (cnnres, xnet, r"CNNRes \(translation1.conv.weight is missing\); .* weights of X-Net:"),
        (xnet, cnnres, r"XNet \(encoder1\.\S+ is missing\); .* weights of CNN-Res:"),
        (xnet, softmax, r"XNet \(fsm.project.weight is missing\); .* weights of X-Net with the softmax FSM:"),
        (xnet, no_fsm, r"XNet \(fsm\.\S+ is missing\); .* weights of X-Net without FSM:"),
        (softmax, xnet, r"fsm.alpha.weight has shape \(64, 128, 1, 1\) instead of \(128, 128, 1, 1\)"),
        (cnnres, cnnres1, r"translation1.conv.weight has shape \(32, 1, 3, 3\) .* of CNN-Res: .* channels"),
    ):
        with pytest.raises(WeightsError, match=said) as caught:
            check_architecture(network, state.state_dict(), "model.pt")
        check_architecture(network, network.state_dict(), "model.pt")
    happened(caught.value)


def test_the_first_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    state = dict(small().state_dict())
    for wrong, said in (
        ({key: value for key, value in state.items() if key != "1.running_var"}, "1.running_var is missing"),
        (
            state | {"0.weight": torch.zeros(3, 2, 3, 3)},
            r"0.weight has shape \(3, 2, 3, 3\) instead of \(3, 1, 3, 3\)",
        ),
        (state | {"9.weight": torch.zeros(1)}, "9.weight is unexpected"),
        ({f"module.{key}": value for key, value in state.items()}, "saved from a parallel wrapper"),
    ):
        save_weights(wrong, tmp_path / "model.pt")
        network = small(5)
        with pytest.raises(WeightsError, match=rf"model\.pt do not fit Sequential \(.*{said}"):
            load_into(network, tmp_path / "model.pt")
        assert equal(dict(network.state_dict()), dict(small(5).state_dict()))


def test_the_shipped_weights_come_back_to_the_byte(tmp_path: Path) -> None:
    models = tmp_path / "bundle" / "models"
    save_weights(small(1).state_dict(), models / "model.pt", half=True)
    save_weights(small(1).state_dict(), models / "model.safetensors", half=True)
    shipped = sha256(models / "model.pt")
    with pytest.raises(
        WeightsError, match=r"model\.safetensors cannot be checked: .* names no SHA-256 of it"
    ):
        restore_shipped(tmp_path / "bundle")
    (tmp_path / "bundle" / "configs").mkdir()
    hashes = {"weights_sha256": {"model.safetensors": sha256(models / "model.safetensors")}}
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text(json.dumps(hashes))
    save_weights(small(2).state_dict(), models / "model.pt")  # fine-tuned
    assert restore_shipped(tmp_path / "bundle") == models / "model.pt"
    assert sha256(models / "model.pt") == shipped


def test_restoring_without_shipped_weights_leaves_what_is_there(tmp_path: Path) -> None:
    save_weights(small().state_dict(), tmp_path / "models" / "model.pt")
    before = sha256(tmp_path / "models" / "model.pt")
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        restore_shipped(tmp_path)
    (tmp_path / "models" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged"):
        restore_shipped(tmp_path)
    assert sha256(tmp_path / "models" / "model.pt") == before


def test_restoring_checks_the_sha256_of_the_metadata(tmp_path: Path) -> None:
    save_weights(small().state_dict(), tmp_path / "models" / "model.safetensors")
    (tmp_path / "configs").mkdir()
    metadata = tmp_path / "configs" / "metadata.json"
    metadata.write_text(json.dumps({"weights_sha256": {"model.safetensors": "0" * 64}}))
    with pytest.raises(WeightsError, match="SHA-256"):
        restore_shipped(tmp_path)
    assert not (tmp_path / "models" / "model.pt").exists()
    released = sha256(tmp_path / "models" / "model.safetensors")
    metadata.write_text(json.dumps({"weights_sha256": {"model.safetensors": released}}))
    assert restore_shipped(tmp_path).is_file()


@pytest.mark.parametrize("hashes", ["0" * 64, ["0" * 64], None, {"model.pt": 0}])
def test_a_metadata_without_readable_sha256_is_told(tmp_path: Path, hashes: object) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps({"weights_sha256": hashes}))
    save_weights(small().state_dict(), tmp_path / "models" / "model.safetensors")
    for action in (released_sha256, restore_shipped):
        with pytest.raises(UsageError, match=r"metadata\.json: weights_sha256 does .*: correct it\."):
            action(tmp_path)


def test_a_sha256_in_capitals_is_the_same(tmp_path: Path) -> None:
    save_weights(small().state_dict(), tmp_path / "models" / "model.pt")
    digest = sha256(tmp_path / "models" / "model.pt")
    (tmp_path / "configs").mkdir()
    content = {"weights_sha256": {"model.pt": f" {digest.upper()} "}}
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(content))
    assert released_sha256(tmp_path) == {"model.pt": digest}


@pytest.mark.parametrize("bundle", ["xnet_bundle", "cnnres_bundle"])
def test_the_bundles_weights_are_those_their_metadata_names(bundle: str) -> None:
    root = Path(__file__).parents[1] / bundle
    released = released_sha256(root)
    assert set(released) == {"model.pt", "model.safetensors"}
    for name, expected in released.items():
        assert hashlib.sha256((root / "models" / name).read_bytes()).hexdigest() == expected
    # The same weights in both files; kernels in half precision.
    one, other = (load_weights(root / "models" / name) for name in released)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_messages_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"junk")
    torch.save({"model": small().state_dict()}, tmp_path / "wrapped.pt")
    torch.save(small(), tmp_path / "unsafe.pt")
    for name in ("missing.pt", "broken.pt", "wrapped.pt", "unsafe.pt"):
        with pytest.raises(WeightsError) as caught:
            load_weights(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(str(tmp_path / name))
        assert message.endswith(".")
        assert "\n" not in message
        assert message.count(". ") == 0

from __future__ import annotations

import copy
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from shared_nets import XNet, load_keras_weights
from shared_nets.errors import OutputError, WeightsError
from shared_nets.networks.keras_import import read_keras_h5
from shared_nets.release.provenance import import_keras
from shared_nets.weights import load_weights
from tests.networks.keras_files import write_h5
from tests.networks.oracle import weights as oracle


@pytest.fixture(scope="module")
def weights() -> list[oracle.Weight]:
    return oracle.keras_weights()


@pytest.fixture(scope="module")
def arrays(weights: list[oracle.Weight]) -> list[np.ndarray]:
    return [weight.values for weight in weights]


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return oracle.outputs()


@pytest.fixture(scope="module")
def net(arrays: list[np.ndarray]) -> XNet:
    """Loaded with the oracle's weights: no test may change it."""
    net = XNet().eval()
    load_keras_weights(net, arrays)
    return net


@pytest.fixture(scope="module")
def blank() -> XNet:
    """For arrays that do not fit: no test changes it."""
    return XNet()


@pytest.fixture(scope="module")
def double(net: XNet) -> XNet:
    return copy.deepcopy(net).double()


def channels_first(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def slices(name: str) -> Tensor:
    return channels_first(oracle.slices(224, 192)[:1] if name == "full" else oracle.slices(64, 64))


class TestEqualsTheOriginal:
    @pytest.mark.parametrize("size", ["full", "small"])
    def test_logits_in_float64(self, double: XNet, expected: dict[str, np.ndarray], size: str) -> None:
        with torch.inference_mode():
            logits = double(slices(size).double())
        difference = logits - channels_first(expected[f"{size}_logit"])
        assert difference.abs().max() < 1e-6

    @pytest.mark.parametrize("size", ["full", "small"])
    def test_probabilities_in_float32(self, net: XNet, expected: dict[str, np.ndarray], size: str) -> None:
        with torch.inference_mode():
            probabilities = net(slices(size)).sigmoid()
        difference = probabilities - channels_first(expected[f"{size}_prob"])
        assert difference.abs().max() < 1e-5

    def test_fsm_alone(self, double: XNet, expected: dict[str, np.ndarray]) -> None:
        maps = channels_first(oracle.fsm_maps())
        with torch.inference_mode():
            output = double.fsm(maps.double())[:, ::4]
        difference = output - channels_first(expected["fsm_out"])
        assert difference.abs().max() < 1e-6


class TestLoadKerasWeights:
    def test_loads_float32_whatever_comes(self, net: XNet, blank: XNet, arrays: list[np.ndarray]) -> None:
        other = copy.deepcopy(blank)
        load_keras_weights(other, [array.astype(np.float64) for array in arrays])
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
        assert {p.dtype for p in other.parameters()} == {torch.float32}

    def test_does_not_share_memory_with_the_arrays(self, blank: XNet, arrays: list[np.ndarray]) -> None:
        copies = [array.copy() for array in arrays]
        other = copy.deepcopy(blank)
        load_keras_weights(other, copies)
        copies[-1][:] = 7
        assert other.head.bias.item() == arrays[-1].item()

    @pytest.mark.parametrize("count", [0, 392, 394])
    def test_wrong_count(self, blank: XNet, arrays: list[np.ndarray], count: int) -> None:
        wrong = (arrays + arrays[:1])[:count]
        with pytest.raises(WeightsError, match=f"393 arrays, not {count}"):
            load_keras_weights(blank, wrong)

    @pytest.mark.parametrize(
        ("index", "array", "message"),
        [
            (
                5,
                np.zeros((64, 1, 1, 1)),
                r"array 5 .* \(64, 1, 1, 1\), does not fit encoder1.main.0.pointwise",
            ),
            (392, np.zeros(2), r"array 392 .* \(2,\), does not fit head.bias, of shape \(1,\)"),
            (
                0,
                np.array("kernel"),
                r"array 0 .*, not numbers, does not fit encoder1.main.0.depthwise.weight",
            ),
            (0, [[1.0], [2.0, 3.0]], r"array 0 .*, not numbers, does not fit"),
        ],
    )
    def test_names_the_array_that_does_not_fit(
        self, blank: XNet, arrays: list[np.ndarray], index: int, array: ArrayLike, message: str
    ) -> None:
        before = {key: value.clone() for key, value in blank.state_dict().items()}
        with pytest.raises(WeightsError, match=message):
            load_keras_weights(blank, [*arrays[:index], array, *arrays[index + 1 :]])
        assert all(torch.equal(before[key], value) for key, value in blank.state_dict().items())

    def test_names_the_first_of_two_swapped_arrays(self, blank: XNet, arrays: list[np.ndarray]) -> None:
        swapped = arrays.copy()
        swapped[27], swapped[22] = swapped[22], swapped[27]
        with pytest.raises(WeightsError, match=r"array 22 .* encoder1\.main\.2\.depthwise"):
            load_keras_weights(blank, swapped)

    def test_values_that_are_not_finite(self, blank: XNet, arrays: list[np.ndarray]) -> None:
        diverged = [*arrays[:-1], np.array([np.nan], dtype=np.float32)]
        with pytest.raises(WeightsError, match=r"array 392 .* head.bias, has values that are not finite"):
            load_keras_weights(blank, diverged)

    @pytest.mark.parametrize("fsm", ["softmax", None])
    def test_another_fsm(self, arrays: list[np.ndarray], fsm: str | None) -> None:
        with torch.device("meta"):
            other = XNet(fsm=fsm)
        with pytest.raises(WeightsError, match=r'load it into XNet\(fsm="dot"\)'):
            load_keras_weights(other, arrays)

    def test_another_number_of_channels(self, arrays: list[np.ndarray]) -> None:
        with torch.device("meta"):
            other = XNet(in_channels=2)
        with pytest.raises(WeightsError, match=r"array 0 .* does not fit encoder1\.main\.0\.depthwise"):
            load_keras_weights(other, arrays)


@pytest.fixture(scope="module")
def h5(weights: list[oracle.Weight], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h5(tmp_path_factory.mktemp("keras") / "xnet.h5", weights)


class TestReadKerasH5:
    @pytest.mark.parametrize(("group", "names"), [("/", bytes), ("model_weights", bytes), ("/", str)])
    def test_order_is_that_of_get_weights(
        self, weights: list[oracle.Weight], tmp_path: Path, group: str, names: type
    ) -> None:
        read = read_keras_h5(write_h5(tmp_path / "xnet.h5", weights, group, names))
        assert len(read) == 393
        for array, weight in zip(read, weights, strict=True):
            np.testing.assert_array_equal(array, weight.values, err_msg=weight.role)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"none\.h5 is not a file that can be read"):
            read_keras_h5(tmp_path / "none.h5")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="is not a file"):
            read_keras_h5(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a torch file"])
    def test_not_hdf5(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "model.h5"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"model\.h5 is not an HDF5 file"):
            read_keras_h5(path)

    def test_cut_short(self, h5: Path, tmp_path: Path) -> None:
        path = tmp_path / "cut.h5"
        path.write_bytes(h5.read_bytes()[:1_000_000])
        with pytest.raises(WeightsError, match=r"cut\.h5 is damaged or was cut short"):
            read_keras_h5(path)

    def test_not_keras(self, tmp_path: Path) -> None:
        path = tmp_path / "other.h5"
        with h5py.File(path, "w") as file:
            file["volume"] = np.zeros(3)
        with pytest.raises(WeightsError, match=r"other\.h5 is HDF5 but does not list a Keras model's layers"):
            read_keras_h5(path)

    @pytest.mark.parametrize("gone", ["conv2d_3", "conv2d_3/conv2d_3/kernel:0"])
    def test_array_or_layer_gone(self, weights: list[oracle.Weight], tmp_path: Path, gone: str) -> None:
        path = write_h5(tmp_path / "gone.h5", weights)
        with h5py.File(path, "a") as file:
            del file[gone]
        with pytest.raises(WeightsError, match="is damaged"):
            read_keras_h5(path)

    def test_array_replaced_by_a_group(self, tmp_path: Path) -> None:
        path = tmp_path / "group.h5"
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = ["conv"]
            file.create_group("conv").attrs["weight_names"] = ["kernel:0"]
            file["conv"].create_group("kernel:0")
        with pytest.raises(WeightsError, match="is damaged"):
            read_keras_h5(path)


class TestImportKeras:
    @pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
    def test_file_loads_into_xnet(self, h5: Path, net: XNet, blank: XNet, tmp_path: Path, name: str) -> None:
        output = tmp_path / "models" / name
        import_keras(h5, output)
        other = copy.deepcopy(blank).eval()
        other.load_state_dict(load_weights(output))
        x = torch.rand(1, 1, 32, 48)
        with torch.inference_mode():
            assert torch.equal(net(x), other(x))
        assert os.listdir(output.parent) == [name]

    def test_another_network(self, weights: list[oracle.Weight], tmp_path: Path) -> None:
        path = write_h5(tmp_path / "unet.h5", weights[:50])
        with pytest.raises(WeightsError, match=r"unet\.h5 cannot be imported: .* 393 arrays, not 50"):
            import_keras(path, tmp_path / "model.pt")
        assert not (tmp_path / "model.pt").exists()

    def test_does_not_overwrite_its_input(self, h5: Path) -> None:
        before = h5.stat().st_size
        with pytest.raises(WeightsError, match=r"name it \.pt or \.safetensors"):
            import_keras(h5, h5)
        assert h5.stat().st_size == before

    @pytest.mark.parametrize("output", ["a_folder.pt", "a_file/model.pt"])
    def test_output_that_cannot_be_written(self, h5: Path, tmp_path: Path, output: str) -> None:
        (tmp_path / "a_folder.pt").mkdir()
        (tmp_path / "a_file").write_text("kept")
        with pytest.raises(OutputError, match="cannot be written"):
            import_keras(h5, tmp_path / output)
        assert sorted(os.listdir(tmp_path)) == ["a_file", "a_folder.pt"]
        assert (tmp_path / "a_file").read_text() == "kept"

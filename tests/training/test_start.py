"""Where a training starts, what it refuses, what is frozen and what is decayed."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shared_nets import CNNRes, XNet
from shared_nets.errors import UsageError, WeightsError
from shared_nets.training import (
    check_training,
    decay_kernels_only,
    leaves_one_slice,
    only_training,
    run_and_release,
    seed_draws,
    start_from,
)


class TestCheck:
    @pytest.mark.parametrize(
        ("setting", "told"),
        [
            ({"max_epochs": 0}, "max_epochs is a whole number, at least 1, not 0"),
            ({"val_interval": 0.5}, "val_interval"),
            ({"slices_per_scan": True}, "slices_per_scan"),
            ({"scans_per_batch": "many"}, "scans_per_batch is a whole number, at least 1, not 'many'"),
            ({"early_stop_patience": 0}, "early_stop_patience"),
            ({"workers": -1}, "workers is a whole number, at least 0, not -1"),
            ({"learning_rate": -0.1}, "learning_rate is a number, at least 0, not -0.1"),
            ({"learning_rate": float("nan")}, "learning_rate"),
            ({"learning_rate": None}, "learning_rate"),
            ({"weight_decay": -1}, "weight_decay is a number, at least 0, not -1"),
            ({"cache_gb": "abc"}, "cache_gb is a number, at least 0, not 'abc'"),
            ({"window": 32}, "window is two multiples of 16, as"),
            ({"window": [100, 96]}, "window"),
            ({"window": [16, 16, 16]}, "window"),
            ({"window_batch": 0}, "window_batch"),
        ],
    )
    def test_impossible_settings(self, tmp_path: Path, setting: dict[str, Any], told: str) -> None:
        with pytest.raises(UsageError, match=told):
            check_training(tmp_path, False, **{"learning_rate": 0.001} | setting)

    def test_a_training_is_not_overwritten_unasked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check_training(tmp_path, False, 0.001, max_epochs=1, workers=0)
        (tmp_path / "last.ckpt").touch()
        with pytest.raises(UsageError, match=r"last\.ckpt: there is a training already; .*--resume True"):
            check_training(tmp_path, False, 0.001)
        check_training(tmp_path, True, 0.001)
        with pytest.raises(WeightsError, match=r"none/last\.ckpt: there is no run to resume"):
            check_training(tmp_path / "none", True, 0.001)
        # MONAI Label trains into the bundle again and again.
        monkeypatch.setenv("MONAI_LABEL_APP_DIR", str(tmp_path))
        check_training(tmp_path, False, 0.001)


class TestSeed:
    def test_equal_seeds_draw_alike(self) -> None:
        draws = []
        for seed in (3, 3, 4):
            seed_draws(seed)
            draws.append(torch.rand(1).item())
        assert draws[0] == draws[1] != draws[2]

    @pytest.mark.parametrize("seed", ["abc", -1, 1.5, True, None])
    def test_no_seed(self, seed: Any) -> None:
        with pytest.raises(UsageError, match="seed is a whole number, at least 0, not"):
            seed_draws(seed)


class TestStart:
    def test_from_scratch(self) -> None:
        network = nn.Linear(2, 2)
        before = network.weight.clone()
        assert start_from(None, network) is network
        assert torch.equal(network.weight, before)

    def test_from_weights(self, tmp_path: Path) -> None:
        torch.save(CNNRes().state_dict(), tmp_path / "model.pt")
        network = start_from(tmp_path / "model.pt", CNNRes())
        saved = torch.load(tmp_path / "model.pt", weights_only=True)
        assert all(torch.equal(value, saved[key]) for key, value in network.state_dict().items())

    def test_from_nothing_or_another_network(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"absent\.pt"):
            start_from(tmp_path / "absent.pt", CNNRes())
        torch.save(nn.Conv2d(2, 2, 3).state_dict(), tmp_path / "model.pt")
        with pytest.raises(WeightsError, match="do not fit CNNRes"):
            start_from(tmp_path / "model.pt", CNNRes(in_channels=2))

    @pytest.mark.parametrize(("make", "old", "new"), [(XNet, 1, 2), (CNNRes, 2, 1), (CNNRes, 2, 3)])
    def test_other_channels_see_what_the_old_ones_saw(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, make: type[XNet | CNNRes], old: int, new: int
    ) -> None:
        """Equal channels give the same logits, however many there are."""
        torch.manual_seed(0)
        first = make(in_channels=old).eval()
        torch.save(first.state_dict(), tmp_path / "model.pt")
        second = start_from(tmp_path / "model.pt", make(in_channels=new)).eval()
        x = torch.rand(1, 1, 16, 32)
        with torch.inference_mode():
            torch.testing.assert_close(
                second(x.expand(-1, new, -1, -1)), first(x.expand(-1, old, -1, -1)), rtol=1e-4, atol=1e-5
            )
        assert f"spread evenly over {new}" in caplog.text
        assert str(tmp_path / "model.pt") in caplog.text

    @pytest.mark.parametrize("old", [(2, 1), (1, 1)])
    def test_other_outputs_are_another_network(self, tmp_path: Path, old: tuple[int, int]) -> None:
        """Though as many as the network has input channels."""
        torch.save(CNNRes(*old).state_dict(), tmp_path / "model.pt")
        with pytest.raises(WeightsError, match=r"do not fit CNNRes \(head\.weight has shape"):
            start_from(tmp_path / "model.pt", CNNRes(2, 2))


class TestFreezing:
    def test_frozen_parts_do_not_move(self) -> None:
        torch.manual_seed(0)
        network = start_from(None, CNNRes(), frozen=["translation", "residual1"])
        before = {key: value.clone() for key, value in network.state_dict().items()}
        optimizer = torch.optim.AdamW(decay_kernels_only(network, 0.1), lr=0.01)
        for _ in range(2):
            network.train()  # as the trainer does at every step
            network(torch.rand(2, 2, 32, 32)).square().mean().backward()
            optimizer.step()
        moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
        assert not any(key.startswith(("translation", "residual1")) for key in moved)
        assert {"residual2.unit.conv1.weight", "decoder1.conv.weight", "head.weight"} <= moved

    def test_batch_norms_keep_their_statistics_and_learn(self) -> None:
        network = start_from(None, CNNRes(), frozen=["batch_norm"]).train()
        x = torch.rand(2, 2, 16, 16)
        network.dropout.p = 0.0
        # Slices do not meet in a batch.
        torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-5)
        assert all(not value.any() for key, value in network.named_buffers() if "running_mean" in key)
        assert all(parameter.requires_grad for parameter in network.parameters())

    @pytest.mark.parametrize("part", ["batch_norm", "residual1"])
    def test_batch_norms_that_several_gpus_share_stay_frozen(self, part: str) -> None:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(start_from(None, CNNRes(), frozen=[part]))
        norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.SyncBatchNorm)}
        for wrapper in (network, copy.deepcopy(network), nn.Sequential(network)):
            wrapper.eval().train()
            training = {name.removeprefix("0.") for name, m in wrapper.named_modules() if m.training}
            frozen = {name for name in norms if part == "batch_norm" or name.startswith(part)}
            assert frozen
            assert training & norms.keys() == norms.keys() - frozen
            assert "dropout" in training

    @pytest.mark.parametrize("part", ["d", "pool", "", 5])
    def test_what_is_no_part_with_weights(self, part: Any) -> None:
        with pytest.raises(UsageError, match=f"no part {part!r} to freeze"):
            start_from(None, CNNRes(), frozen=[part])

    def test_nothing_left_to_train(self) -> None:
        with pytest.raises(UsageError, match="encoder, decoder, up, fsm, head: nothing is left to train"):
            start_from(None, XNet(), frozen=["encoder", "decoder", "up", "fsm", "head"])

    def test_a_part_that_is_not_there(self) -> None:
        with pytest.raises(UsageError, match="no part 'encodr' to freeze: it has translation1"):
            start_from(None, CNNRes(), frozen=["encodr"])


class TestRunAndRelease:
    def test_a_run_that_broke_off_lets_go_of_its_folder(self, tmp_path: Path) -> None:
        """A notebook keeps the failed run, with all that it holds, until another error comes."""

        class Interrupted:
            def run(self) -> None:
                raise KeyboardInterrupt

        lock = ExitStack()
        lock.enter_context(only_training(str(tmp_path)))
        with pytest.raises(KeyboardInterrupt):
            run_and_release(Interrupted(), lock)  # type: ignore[arg-type]
        with only_training(str(tmp_path)):
            pass


class TestDecay:
    @pytest.mark.parametrize("network", [XNet(), CNNRes()], ids=["xnet", "cnnres"])
    def test_every_kernel_and_nothing_else(self, network: nn.Module) -> None:
        kernels, others = decay_kernels_only(network, 2e-5)
        assert (kernels["weight_decay"], others["weight_decay"]) == (2e-5, 0)
        convolutions = {id(m.weight) for m in network.modules() if isinstance(m, nn.Conv2d)}
        assert {id(p) for p in kernels["params"]} == convolutions
        assert len(kernels["params"]) + len(others["params"]) == len(list(network.parameters()))

    def test_the_gradient_is_that_of_keras(self) -> None:
        """Keras adds c·w² to the loss; a plain step from w with no other loss is then w - lr·2c·w."""
        network = nn.Conv2d(1, 1, 1)
        nn.init.constant_(network.weight, 3.0)
        nn.init.constant_(network.bias, 3.0)
        optimizer = torch.optim.SGD(decay_kernels_only(network, 2 * 0.01), lr=0.1)
        (0 * network(torch.zeros(1, 1, 1, 1))).sum().backward()
        optimizer.step()
        assert network.weight.item() == pytest.approx(3 - 0.1 * 2 * 0.01 * 3)
        assert network.bias.item() == 3


@pytest.mark.parametrize("scans", range(1, 18))
@pytest.mark.parametrize("scans_per_batch", [1, 2, 8])
@pytest.mark.parametrize("slices", [1, 2])
def test_only_a_last_batch_of_one_slice_is_left_out(scans: int, scans_per_batch: int, slices: int) -> None:
    """Against the batches themselves; a training must not lose all that it has."""
    data = [[0] * slices] * scans
    sizes = [sum(map(len, data[i : i + scans_per_batch])) for i in range(0, scans, scans_per_batch)]
    lone = sizes[-1] == 1 and len(sizes) > 1 and scans_per_batch > 1
    assert leaves_one_slice(scans, scans_per_batch, slices) is lone

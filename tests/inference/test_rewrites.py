"""Rewritten networks against the originals: the same function, from fewer products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_nets import CNNRes, XNet
from shared_nets.inference import rewrite
from tests.networks.base import as_trained
from tests.networks.oracle import weights as oracle


@pytest.fixture(scope="module")
def cnnres() -> CNNRes:
    """With batch-norm statistics as after training: no test may change it."""
    torch.manual_seed(0)
    return as_trained(CNNRes())


def test_xnet_rewritten_is_the_original_keras_model(oracle_xnet: XNet) -> None:
    x = torch.from_numpy(oracle.slices(64, 64)).permute(0, 3, 1, 2)
    published = torch.from_numpy(oracle.outputs()["small_prob"]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        fast, plain = rewrite(oracle_xnet)(x).sigmoid(), oracle_xnet(x).sigmoid()
    assert published.std() > 0.05  # probabilities of all sizes
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(fast, published, rtol=0, atol=1e-5)


def test_cnnres_rewritten_is_the_same_function(cnnres: CNNRes) -> None:
    x = torch.rand(2, 2, 32, 48, dtype=torch.float64)
    net = cnnres.double()
    with torch.inference_mode():
        torch.testing.assert_close(rewrite(net)(x), net(x), rtol=1e-9, atol=1e-9)
    cnnres.float()


def test_the_network_stays_as_it_is(cnnres: CNNRes) -> None:
    before = {key: value.clone() for key, value in cnnres.state_dict().items()}
    net = cnnres.train()
    fast = rewrite(net)
    assert net.training
    assert not fast.training
    after = net.eval().state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    left = [name for name, module in fast.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == [f"residual{level}.unit.norm1" for level in range(1, 6)]  # those before an activation


def test_another_network_is_left_alone_where_it_is_unknown() -> None:
    torch.manual_seed(0)
    norm_first = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
    norm_first[0].running_var.fill_(4.0)
    norm_first[3].running_mean.fill_(0.5)
    x = torch.rand(2, 3, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(rewrite(norm_first)(x), norm_first.eval()(x))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in rewrite(norm_first).modules()) == 2

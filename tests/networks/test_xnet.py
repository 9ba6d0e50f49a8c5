from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from shared_nets import XNet
from tests.networks.base import NetworkTests


class TestXNet(NetworkTests):
    make = XNet
    trainable = 15_072_332
    statistics = 45_314


class TestXNetSoftmax(NetworkTests):
    make = partial(XNet, fsm="softmax")
    # α, β and Y of 128 channels for 64, and no projection: 3·128² - 4·64·128 more than the code's form.
    trainable = 15_072_332 + 16_384
    statistics = 45_314


class TestXNetWithoutFSM(NetworkTests):
    make = partial(XNet, fsm=None)
    # Without two 3×3 convolutions 1024 <-> 128 with bias and batch norm, and four 1×1 of 64·128.
    trainable = 15_072_332 - (2 * 9 * 1024 * 128 + 3 * (128 + 1024) + 4 * 64 * 128)
    statistics = 45_314 - 2 * (128 + 1024)


def test_batch_norm_has_keras_constants() -> None:
    with torch.device("meta"):
        norms = [module for module in XNet().modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert len(norms) == 69  # batch_normalization to batch_normalization_68 of the Keras model


def test_unknown_fsm() -> None:
    with pytest.raises(ValueError, match="one of dot, softmax, not 'gaussian'"):
        XNet(fsm="gaussian")

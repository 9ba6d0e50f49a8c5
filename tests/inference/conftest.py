from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_nets import XNet, load_keras_weights
from tests.networks.oracle import weights as oracle


@pytest.fixture(scope="session")
def oracle_xnet() -> XNet:
    """X-Net with the oracle's weights: no test may change it."""
    net = XNet().eval()
    load_keras_weights(net, [weight.values for weight in oracle.keras_weights()])
    return net


@pytest.fixture
def tiny() -> nn.Module:
    """Two convolutions, the first with a batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1)
    ).eval()

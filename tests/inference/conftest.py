from __future__ import annotations

import pytest

from shared_nets import XNet, load_keras_weights
from tests.networks.oracle import weights as oracle


@pytest.fixture(scope="session")
def oracle_xnet() -> XNet:
    """X-Net with the oracle's weights: no test may change it."""
    net = XNet().eval()
    load_keras_weights(net, [weight.values for weight in oracle.keras_weights()])
    return net

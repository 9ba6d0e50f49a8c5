"""The networks: X-Net, CNN-Res and their blocks."""

from shared_nets.networks.cnnres import CNNRes
from shared_nets.networks.fsm import FeatureSimilarityModule
from shared_nets.networks.xblock import XBlock
from shared_nets.networks.xnet import XNet

__all__ = ["CNNRes", "FeatureSimilarityModule", "XBlock", "XNet"]

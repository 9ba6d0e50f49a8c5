"""The networks: X-Net, CNN-Res, their blocks, and the networks they are compared with."""

from shared_nets.networks.baselines import DeepLabV3Plus, DenseUNet2D, PSPNet, SegNet
from shared_nets.networks.cnnres import CNNRes
from shared_nets.networks.comparators import ResUNet, UNet
from shared_nets.networks.fsm import FeatureSimilarityModule
from shared_nets.networks.keras_import import load_keras_weights
from shared_nets.networks.xblock import XBlock
from shared_nets.networks.xnet import XNet

__all__ = [
    "CNNRes",
    "DeepLabV3Plus",
    "DenseUNet2D",
    "FeatureSimilarityModule",
    "PSPNet",
    "ResUNet",
    "SegNet",
    "UNet",
    "XBlock",
    "XNet",
    "load_keras_weights",
]

"""Exact rewrites of a trained network for inference: the same function from fewer and cheaper operations."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from shared_nets.networks.upsampling import UpConv, UpJoin, summed_kernel
from shared_nets.networks.xblock import XBlock


def rewrite(network: nn.Module) -> nn.Module:
    """
    A copy of a network that computes the same function faster, for inference only.

    Batch norm is folded into the convolution before it. Upsampling and the 3×3 convolution after it become a
    transposed convolution whose kernel is summed once, beside a convolution of the skip where one is joined.
    An X-block's branches are added in place. Kernels are stored channels-last. Outputs differ by rounding
    alone. The copy has another state dict: weights are loaded before, not after.

    Args:
        network: any network of ours, or another; what is not known is left as it is.

    Returns:
        The copy, in evaluation mode and without gradients, on the network's device.
    """
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    with torch.no_grad():
        _rewrite_children(fast)
    return fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs


def _rewrite_children(module: nn.Module) -> None:
    if isinstance(module, nn.Sequential):
        _fold_batch_norm(module)
    for name, child in module.named_children():
        _rewrite_children(child)
        if isinstance(child, UpConv):
            setattr(module, name, _transposed(child.weight, child.bias))
        elif isinstance(child, UpJoin):
            setattr(module, name, _SplitUpJoin(child))
        elif isinstance(child, XBlock):
            setattr(module, name, _InPlaceXBlock(child))


def _fold_batch_norm(layers: nn.Sequential) -> None:
    """Fold each batch norm that directly follows a convolution into it."""
    for name, following in pairwise([name for name, _ in layers.named_children()]):
        conv, norm = layers.get_submodule(name), layers.get_submodule(following)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(layers, name, fuse_conv_bn_eval(conv, norm))
            setattr(layers, following, nn.Identity())


def _transposed(weight: Tensor, bias: Tensor | None) -> nn.ConvTranspose2d:
    """Upsampling ×2 and the 3×3 convolution of these values, as one layer."""
    kernel = summed_kernel(weight)
    channels, out = kernel.shape[:2]
    layer = nn.ConvTranspose2d(channels, out, kernel_size=4, stride=2, padding=1, device="meta")
    layer.weight = nn.Parameter(kernel, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return layer.eval()


class _InPlaceXBlock(nn.Module):
    """An X-block whose two branches are added in place, which training's gradients do not allow."""

    def __init__(self, block: XBlock) -> None:
        super().__init__()
        self.main = block.main
        self.shortcut = block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x).add_(self.shortcut(x))


class _SplitUpJoin(nn.Module):
    """The convolution of a joined map as the sum of two: what was upsampled needs 4/9 of the products."""

    def __init__(self, join: UpJoin) -> None:
        super().__init__()
        up, skip = join.conv.weight.split([join.in_channels, join.skip_channels], dim=1)
        self.up = _transposed(up, join.conv.bias)
        self.skip = nn.Conv2d(join.skip_channels, len(skip), 3, padding=1, bias=False, device="meta")
        self.skip.weight = nn.Parameter(skip.contiguous(), requires_grad=False)
        self.relu = join.relu

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.relu(self.up(x).add_(self.skip(skip)))

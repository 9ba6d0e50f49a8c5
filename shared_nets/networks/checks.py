"""Input checks that every network of this package shares."""

from __future__ import annotations

from torch import Tensor, nn

from shared_nets.errors import UsageError


def check_input(x: Tensor, channels: int, name: str) -> None:
    """
    Say in words why a network cannot take ``x``.

    Args:
        x: the network's input, expected ``(N, channels, H, W)``.
        channels: the channels the network was built for.
        name: the network's name, for the message.

    Raises:
        UsageError: if ``x`` has another dimension, other channels, or a size that is no multiple of 16,
            which four halvings need.
    """
    if x.dim() != 4:
        raise UsageError(
            f"{name} takes a batch of slices (N, {channels}, height, width), not a {x.dim()}-D tensor."
        )
    if x.shape[1] != channels:
        raise UsageError(f"{name} was built for {channels} input channel(s), the input has {x.shape[1]}.")
    if x.shape[2] % 16 != 0 or x.shape[3] % 16 != 0:
        raise UsageError(
            f"{name} needs height and width that are multiples of 16, not {x.shape[2]}×{x.shape[3]}: "
            f"pad the slice or choose another window."
        )


def he_normal_(module: nn.Module) -> None:
    """
    He-normal kernels (fan in) and zero biases for every convolution: the papers' initialisation.

    Truncated at two standard deviations and rescaled, as Keras' ``he_normal`` does. For depthwise kernels
    Keras counts all channels as inputs and draws them smaller by the root of their number; here each kernel
    has the one input that it has. Batch norm takes the difference back, to its small constant.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            # 0.8796 is the standard deviation of a unit normal cut at ±2.
            std = (2.0 / fan_in) ** 0.5 / 0.87962566103423978
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

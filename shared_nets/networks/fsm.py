"""The Feature Similarity Module: long-range dependencies between all positions of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_nets.errors import UsageError
from shared_nets.networks.convolutions import conv_norm_relu
from shared_nets.networks.xblock import batch_norm

SIMILARITIES = ("dot", "softmax")


class FeatureSimilarityModule(nn.Module):
    """
    Feature Similarity Module (FSM) of X-Net (Qi et al., MICCAI 2019, section 2.2), for any 2D network.

    A 3×3 convolution brings the map to ``channels / reduction``; every position then gathers the
    features of the positions it resembles; a second 3×3 convolution brings the map back, and the
    input is added. Two similarities are published under this name:

    - ``"dot"``: the authors' code, which gave the published figures. Affinity ``αᵢᵀβⱼ / N`` without a
      softmax, embeddings and values of half the reduced width, and a 1×1 convolution back. Without a
      softmax the product is associative, so ``α (βᵀ g) / N`` never holds the N×N affinities.
    - ``"softmax"``: the paper's equations 1–2. Softmax over j of ``αᵢᵀβⱼ`` without scaling, and values
      of the reduced width. Computed by ``scaled_dot_product_attention``, whose fused kernels do not
      hold the N×N affinities either.

    Both need memory that grows linearly with the number of positions.
    """

    def __init__(self, channels: int, reduction: int = 8, similarity: str = "dot") -> None:
        """
        Args:
            channels: channels of the map that goes in and comes out.
            reduction: how many times fewer channels the similarities are computed on; the paper uses 8.
            similarity: ``"dot"`` (the authors' code) or ``"softmax"`` (the paper's equations).

        Raises:
            UsageError: if ``similarity`` is unknown or ``channels`` does not divide.
        """
        super().__init__()
        if similarity not in SIMILARITIES:
            raise UsageError(f"similarity must be one of {', '.join(SIMILARITIES)}, not {similarity!r}.")
        inner = channels // reduction
        if inner * reduction != channels or inner % 2 or inner == 0:
            raise UsageError(
                f"the Feature Similarity Module needs channels divisible by 2 × reduction = {2 * reduction}, "
                f"not {channels}."
            )
        self.similarity = similarity
        embedding = inner // 2 if similarity == "dot" else inner

        self.reduce = conv_norm_relu(channels, inner, batch_norm)
        self.alpha = nn.Conv2d(inner, embedding, kernel_size=1, bias=False)
        self.beta = nn.Conv2d(inner, embedding, kernel_size=1, bias=False)
        self.value = nn.Conv2d(inner, embedding, kernel_size=1, bias=False)
        self.project = (
            nn.Conv2d(embedding, inner, kernel_size=1, bias=False) if similarity == "dot" else nn.Identity()
        )
        self.expand = conv_norm_relu(inner, channels, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: ``(N, channels, H, W)``.

        Returns:
            ``(N, channels, H, W)``.
        """
        reduced = self.reduce(x)
        alpha = self.alpha(reduced).flatten(2)
        beta = self.beta(reduced).flatten(2)
        value = self.value(reduced).flatten(2)
        gathered = (
            dot_gather(alpha, beta, value) if self.similarity == "dot" else softmax_gather(alpha, beta, value)
        )
        gathered = self.project(gathered.unflatten(2, reduced.shape[2:]))
        return self.expand(gathered + reduced) + x


def dot_gather(alpha: Tensor, beta: Tensor, value: Tensor) -> Tensor:
    """``Σⱼ (αᵢᵀβⱼ / N) gⱼ`` for every position i; all ``(batch, channels, positions)``."""
    context = torch.bmm(value, beta.transpose(1, 2)) / value.shape[2]
    return torch.bmm(context, alpha)


def softmax_gather(alpha: Tensor, beta: Tensor, value: Tensor) -> Tensor:
    """``Σⱼ softmaxⱼ(αᵢᵀβⱼ) Yⱼ`` for every position i; all ``(batch, channels, positions)``."""
    # A head axis, equal widths and contiguous positions: what the kernels with linear memory ask for.
    query, key, val = (t.transpose(1, 2).unsqueeze(1).contiguous() for t in (alpha, beta, value))
    return F.scaled_dot_product_attention(query, key, val, scale=1.0).squeeze(1).transpose(1, 2)

"""Many vectors to one: a Transformer encoder that is read at a learnable token (Weimann & Conrad 2021, figure 2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgray.errors import EcgrayError
from ecgray.models.base import dense

LogitScale = Literal["head", "model"]
"""The root of what attention logits are divided by: a head's width (Vaswani et al.) or the model's (published code)."""


class AttentionPooling(nn.Module):
    """(batch, ``length``, features) to (batch, features).

    A learnable token (truncated normal, deviation 1) is put in front at position 0, the inputs are multiplied by
    sqrt(features), fixed sinusoidal positions are added, and the output at the token is the result. Layers are
    post-norm without dropout; the feed-forward part is 2 * features wide.

    Raises EcgrayError where ``features`` is not a multiple of ``heads``.
    """

    positions: Tensor

    def __init__(
        self, features: int, length: int, *, layers: int = 3, heads: int = 8, logit_scale: LogitScale = "head"
    ) -> None:
        super().__init__()
        if features % heads or features % 2:
            raise EcgrayError(
                f"The encoder's width must be even and a multiple of the {heads} attention heads, got {features}; "
                "choose another model width."
            )
        self.scale = math.sqrt(features)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(features), std=1.0, a=-2.0, b=2.0))
        self.layers = nn.ModuleList(TransformerLayer(features, heads, logit_scale) for _ in range(layers))
        self.register_buffer("positions", sinusoidal_positions(length + 1, features), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([token, x], dim=1) * self.scale + self.positions
        for layer in self.layers:
            x = layer(x)
        return x[:, 0]


class TransformerLayer(nn.Module):
    """Self-attention and a ReLU network, each followed by the residual sum and a layer norm (epsilon 1e-3)."""

    def __init__(self, features: int, heads: int, logit_scale: LogitScale) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1 / math.sqrt(features // heads if logit_scale == "head" else features)
        self.query = dense(features, features)
        self.key = dense(features, features)
        self.value = dense(features, features)
        self.output = dense(features, features)
        self.attention_norm = nn.LayerNorm(features, eps=1e-3)
        self.feed_forward = nn.Sequential(dense(features, 2 * features), nn.ReLU(), dense(2 * features, features))
        self.feed_forward_norm = nn.LayerNorm(features, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        x = self.attention_norm(x + self.output(attended.transpose(1, 2).flatten(2)))
        return self.feed_forward_norm(x + self.feed_forward(x))

    def _split(self, x: Tensor) -> Tensor:
        """(batch, tokens, features) to (batch, heads, tokens, features / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def sinusoidal_positions(tokens: int, features: int) -> Tensor:
    """(tokens, features): sine in even channels, cosine in odd ones, wavelengths from 2 pi to 20,000 pi."""
    rate = torch.exp(torch.arange(0, features, 2) * (-math.log(10_000.0) / features))
    angle = torch.arange(tokens)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)

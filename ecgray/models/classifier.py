"""An encoder with a linear head."""

from __future__ import annotations

from torch import Tensor, nn

from ecgray.models.base import Encoder, dense


class Classifier(nn.Module):
    """(batch, leads, samples) to logits (batch, classes): the encoder's pooled features and one linear layer."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = dense(encoder.features, classes)

    def forward(self, signal: Tensor) -> Tensor:
        return self.head(self.encoder(signal))

"""Future prediction: which of several frames follows a context of frames (Weimann & Conrad 2021, figure 2)."""

from __future__ import annotations

from torch import Tensor, nn

from ecgray.models.attention_pooling import AttentionPooling, LogitScale
from ecgray.models.base import Encoder


class FuturePredictor(nn.Module):
    """(batch, leads, slots * frame_size) to logits (batch, slots - context).

    The first ``context`` slots are the context frames in order, the others the candidates. One encoder turns all of
    them into vectors in one call, attention pooling turns the context into one vector, and a candidate's logit is the
    plain dot product of the two.
    """

    def __init__(self, encoder: Encoder, context: int, frame_size: int, *, logit_scale: LogitScale = "head") -> None:
        super().__init__()
        self.encoder = encoder
        self.context = context
        self.frame_size = frame_size
        self.pooling = AttentionPooling(encoder.features, context, logit_scale=logit_scale)

    def forward(self, signal: Tensor) -> Tensor:
        frames = signal.unflatten(2, (-1, self.frame_size)).transpose(1, 2)
        encoded = self.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        context = self.pooling(encoded[:, : self.context])
        candidates = encoded[:, self.context :]
        # Unscaled sums of hundreds of products: in float32 also under bf16 autocast.
        return (context[:, None].float() * candidates.float()).sum(-1)

"""What a network is: a config that makes an encoder, and an encoder that turns a signal into one vector."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ecgray.config import Named


class Model(Named):
    """A frozen dataclass whose fields are the network's settings.

    A new network is one module with one subclass, and one line in ``ecgray.models.FAMILIES``.
    """

    def encoder(self, leads: int) -> Encoder:
        """A freshly initialised encoder for signals of ``leads`` leads."""
        raise NotImplementedError


class Encoder(nn.Module):
    """(batch, leads, samples) of standardised signal, any length, to (batch, ``features``).

    ``input_weight`` names the one tensor of the state whose axis 1 counts leads.
    """

    input_weight: ClassVar[str]
    leads: int
    features: int
    frozen_blocks: int = 0

    @property
    def blocks(self) -> list[nn.Module]:
        """All layers in order as the units that are frozen together; every parameter is in exactly one."""
        raise NotImplementedError

    def may_lack(self, state: dict[str, Tensor]) -> set[str]:
        """Names of own tensors that a checkpoint with the tensors ``state`` need not give."""
        return set()

    def train(self, mode: bool = True) -> Encoder:
        """As ``nn.Module.train``, except that frozen blocks stay in eval mode: their statistics are frozen too."""
        super().train(mode)
        for block in self.blocks[: self.frozen_blocks]:
            block.eval()
        return self


def dense(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with Glorot uniform weights and zero bias, as Keras' default is."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def parameter_count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def count_on_meta(model: Model, leads: int, head: int) -> int:
    """Parameters of ``model`` with ``head`` classes, without memory for any of them."""
    with torch.device("meta"):
        encoder = model.encoder(leads)
        return parameter_count(encoder) + parameter_count(dense(encoder.features, head))

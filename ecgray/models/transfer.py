"""From one network to the next: an encoder's weights in a new model, more leads, frozen blocks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ecgray.errors import EcgrayError
from ecgray.models.base import Encoder

PREFIX = "encoder."


def load_encoder(encoder: Encoder, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copy the encoder's tensors out of ``state`` and return the names of those that ``state`` does not have.

    ``state`` is that of an encoder or of a model around one (classifier, future predictor), whose head is left out.
    An encoder of several leads takes the weights of a single-lead one (``inflate_leads``); a resnet takes those of one
    with fewer stages, and its later stages stay as they are. ``encoder`` is changed only if everything fits.

    Raises EcgrayError for the state of another model.
    """
    given = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    given = given or dict(state)
    weight = given.get(encoder.input_weight)
    if weight is not None and weight.ndim > 1 and weight.shape[1] == 1 and encoder.leads > 1:
        given[encoder.input_weight] = inflate_leads(weight, encoder.leads)
    own, optional = encoder.state_dict(), encoder.may_lack(given)
    given = {name: tensor for name, tensor in given.items() if name not in optional}
    wrong = [f"'{name}' is missing" for name in own if name not in given and name not in optional]
    wrong += [f"'{name}' has no place" for name in given if name not in own]
    wrong += [
        f"'{name}' is {tuple(tensor.shape)} where {tuple(own[name].shape)} is needed"
        for name, tensor in given.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if wrong:
        raise EcgrayError(
            f"The checkpoint must be of the same model as the network it is loaded into, got {len(wrong)} tensors that "
            f"differ ({'; '.join(wrong[:2])}); set the model's fields to those in the checkpoint's model.json."
        )
    encoder.load_state_dict(given, strict=False)
    return tuple(name for name in own if name not in given)


def inflate_leads(weight: Tensor, leads: int) -> Tensor:
    """(filters, 1, kernel) to (filters, leads, kernel): copied to every lead and divided by their number.

    Equal signals on all leads thus give what one of them gave before.
    """
    return weight.repeat(1, leads, 1) / leads


def freeze_blocks(encoder: Encoder, count: int) -> None:
    """Freeze the first ``count`` of ``encoder.blocks``: no gradient, and batch-norm statistics that stay in training.

    Raises EcgrayError for a number of blocks that the encoder does not have.
    """
    blocks = encoder.blocks
    if not 0 <= count <= len(blocks):
        raise EcgrayError(
            f"The number of frozen blocks must lie between 0 and the model's {len(blocks)}, got {count}; choose fewer."
        )
    encoder.frozen_blocks = count
    for index, block in enumerate(blocks):
        block.requires_grad_(index >= count)
    encoder.train(encoder.training)

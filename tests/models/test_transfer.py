"""An encoder's weights in a new head, with more leads, with more stages; and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ecgray.errors import EcgrayError
from ecgray.models import Classifier, FuturePredictor, ResNet
from ecgray.models.transfer import inflate_leads, load_encoder


def trained(network: nn.Module, leads: int, samples: int) -> nn.Module:
    """With statistics that are no longer the initial ones."""
    network(torch.randn(4, leads, samples) + 0.5)
    return network.eval()


@pytest.mark.parametrize("kind", ["encoder", "classifier", "future"])
def test_encoder_into_a_new_head(kind: str) -> None:
    config = ResNet(width=4)
    encoder = config.encoder(1)
    source = {"encoder": encoder, "classifier": Classifier(encoder, 5), "future": FuturePredictor(encoder, 2, 100)}[
        kind
    ]
    trained(source, 1, 500)
    target = Classifier(config.encoder(1), 3)
    assert load_encoder(target.encoder, source.state_dict()) == ()
    x = torch.randn(2, 1, 333)
    assert torch.equal(target.eval().encoder(x), encoder(x))


@pytest.mark.parametrize("order", ["v2", "v1"])
def test_twelve_equal_leads_give_what_one_gave(order: str) -> None:
    config = ResNet(width=4, order=order)
    one = trained(config.encoder(1), 1, 400)
    twelve = config.encoder(12)
    load_encoder(twelve, Classifier(one, 2).state_dict())
    x = torch.randn(3, 1, 401)
    torch.testing.assert_close(twelve.eval()(x.expand(3, 12, 401)), one(x), rtol=1e-4, atol=1e-5)
    kernels = one.state_dict()[one.input_weight]
    assert torch.equal(inflate_leads(kernels, 12)[:, 7:8], kernels / 12)


@pytest.mark.parametrize("order", ["v2", "v1"])
def test_three_stages_into_four_leave_the_last_as_it_was(order: str) -> None:
    small, large = (ResNet(depth=50, width=4, order=order, stages=stages).encoder(1) for stages in (3, 4))
    before = copy.deepcopy(large.state_dict())
    left = load_encoder(large, trained(small, 1, 300).state_dict())
    assert left and all(name.startswith(("stages.3.", "norm.")) for name in left)
    assert (order == "v2") == any(name.startswith("norm.") for name in left)
    for name, tensor in large.state_dict().items():
        source = before if name in left else small.state_dict()
        assert torch.equal(tensor, source[name])


def refused(source: ResNet, target: ResNet, source_leads: int = 1, target_leads: int = 1) -> str:
    encoder = target.encoder(target_leads)
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(EcgrayError) as caught:
        load_encoder(encoder, Classifier(source.encoder(source_leads), 2).state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (ResNet(width=4), ResNet(width=8)),
        (ResNet(width=4), ResNet(width=4, order="v1")),
        (ResNet(width=4, order="v1"), ResNet(width=4)),
        (ResNet(width=4), ResNet(width=4, depth=34)),
        (ResNet(width=4, depth=34), ResNet(width=4)),
        (ResNet(width=4), ResNet(width=4, kernels=(7, 5, 5, 5))),
        (ResNet(width=4), ResNet(width=4, stages=3)),
        (ResNet(width=4, stages=3, order="v1"), ResNet(width=4)),
    ],
)
def test_another_models_checkpoint_is_refused_in_one_line(source: ResNet, target: ResNet) -> None:
    message = refused(source, target)
    assert "same model" in message and "\n" not in message and len(message) < 400


def test_leads_that_cannot_be_inflated_are_refused() -> None:
    assert "stem.conv.weight" in refused(ResNet(width=4), ResNet(width=4), source_leads=12, target_leads=1)
    assert "stem.conv.weight" in refused(ResNet(width=4), ResNet(width=4), source_leads=2, target_leads=12)


@pytest.mark.parametrize("state", [{}, {"weight": torch.zeros(3)}])
def test_a_state_that_is_no_network_is_refused(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(EcgrayError, match="same model"):
        load_encoder(ResNet(width=4).encoder(1), state)

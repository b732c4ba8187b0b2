"""Every registered model does what a model must; then what is particular to the residual networks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ecgray.config import from_dict, to_dict
from ecgray.errors import EcgrayError
from ecgray.models import FAMILIES, MODELS, Classifier, Model, ResNet
from ecgray.models.transfer import freeze_blocks

SMALL = {
    **{f"{depth}-{order}": ResNet(depth=depth, order=order, width=4) for depth in (18, 50) for order in ("v2", "v1")},
    "18-v2-stages3": ResNet(width=4, stages=3),
    "18-v2-lecun": ResNet(width=4, init="lecun", kernels=(3, 3, 3, 3)),
}
EVERY = {**MODELS, **SMALL}


@pytest.mark.parametrize("leads", [1, 12])
@pytest.mark.parametrize("name", EVERY)
def test_forward_for_any_length(name: str, leads: int) -> None:
    encoder = EVERY[name].encoder(leads).eval()
    with torch.no_grad():
        for samples in (257, 512):
            features = encoder(torch.randn(2, leads, samples))
            assert features.shape == (2, encoder.features)
            assert torch.isfinite(features).all()


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str) -> None:
    network = Classifier(SMALL[name].encoder(2), 3)
    loss = nn.functional.cross_entropy(network(torch.randn(4, 2, 301)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", EVERY)
def test_config_through_json_and_blocks_cover_the_network_once(name: str) -> None:
    model = EVERY[name]
    assert from_dict(Model, to_dict(model)) == model
    assert FAMILIES[model.name] is type(model)
    with torch.device("meta"):
        encoder = model.encoder(3)
    in_blocks = [id(p) for block in encoder.blocks for p in block.parameters()]
    assert sorted(in_blocks) == sorted(id(p) for p in encoder.parameters())
    assert encoder.state_dict()[encoder.input_weight].shape[1] == encoder.leads == 3


@pytest.mark.parametrize("name", SMALL)
def test_saved_and_loaded_is_the_same(name: str, tmp_path: Path) -> None:
    first, second = (Classifier(SMALL[name].encoder(1), 4) for _ in range(2))
    first(torch.randn(3, 1, 200))  # moves the running statistics
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    second.load_state_dict(load_file(tmp_path / "model.safetensors"))
    x = torch.randn(2, 1, 200)
    assert torch.equal(first.eval()(x), second.eval()(x))


@pytest.mark.parametrize("name", SMALL)
def test_frozen_blocks_do_not_move(name: str) -> None:
    network = Classifier(SMALL[name].encoder(1), 3)
    blocks = len(network.encoder.blocks)
    for count in (0, 1, 3, blocks):
        trained = copy.deepcopy(network)
        freeze_blocks(trained.encoder, count)
        before = copy.deepcopy(trained.state_dict())
        trained.train()
        optimiser = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.1)
        nn.functional.cross_entropy(trained(torch.randn(4, 1, 300)), torch.tensor([0, 1, 2, 0])).backward()
        optimiser.step()
        after = trained.state_dict()
        frozen = {id(t) for block in trained.encoder.blocks[:count] for t in block.state_dict(keep_vars=True).values()}
        for key, tensor in trained.state_dict(keep_vars=True).items():
            assert torch.equal(before[key], after[key]) == (id(tensor) in frozen), (count, key)
        for index, block in enumerate(trained.encoder.blocks):
            norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm1d)]
            assert all(norm.training == (index >= count) for norm in norms)


def test_all_blocks_can_be_thawed() -> None:
    encoder = ResNet(width=4).encoder(1)
    freeze_blocks(encoder, 8)
    freeze_blocks(encoder, 0)
    assert all(p.requires_grad for p in encoder.parameters())
    assert all(m.training for m in encoder.modules())
    for count in (-1, 9):
        with pytest.raises(EcgrayError, match="between 0 and the model's 8"):
            freeze_blocks(encoder, count)


def test_eighteen_layers_have_eight_blocks_with_the_stem_in_the_first() -> None:
    encoder = ResNet(width=4).encoder(1)
    assert len(encoder.blocks) == 8
    assert any(p is encoder.stem.conv.weight for p in encoder.blocks[0].parameters())


@pytest.mark.parametrize("order", ["v2", "v1"])
@pytest.mark.parametrize("samples", [2048, 2047, 1025, 63, 1])
def test_a_stride_leaves_the_length_rounded_up(order: str, samples: int) -> None:
    encoder = ResNet(width=2, order=order).encoder(1).eval()
    x = encoder.stem(torch.randn(1, 1, samples))
    expected = -(-samples // 2)
    expected = -(-expected // 2)
    assert x.shape[-1] == expected
    for index, stage in enumerate(encoder.stages):
        x = stage(x)
        expected = -(-expected // 2) if index else expected
        assert x.shape[-1] == expected


def slow_v2(encoder: nn.Module, x: Tensor) -> Tensor:
    """The pre-activation network written out from He et al. 2016, from the tensors of ``encoder`` alone."""
    state = encoder.state_dict()
    f = nn.functional

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        x = (x - mean[:, None]) / torch.sqrt(variance[:, None] + 1e-5)
        return f.relu(x * state[f"{name}.weight"][:, None] + state[f"{name}.bias"][:, None])

    def conv(x: Tensor, name: str, stride: int) -> Tensor:
        weight = state[f"{name}.weight"]
        return f.conv1d(f.pad(x, (weight.shape[2] // 2,) * 2), weight, stride=stride)

    x = f.max_pool1d(f.pad(conv(x, "stem.conv", 2), (1, 1), value=-torch.inf), 3, 2)
    for stage in range(4):
        for block in range(2):
            name, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
            y = norm(x, f"{name}.norms.0")
            if f"{name}.shortcut.weight" in state:
                x = conv(y, f"{name}.shortcut", stride)
            y = conv(norm(conv(y, f"{name}.convs.0", stride), f"{name}.norms.1"), f"{name}.convs.1", 1)
            x = x + y
    return norm(x, "norm").mean(-1)


def test_v2_is_the_pre_activation_form() -> None:
    encoder = ResNet(width=4).encoder(2)
    encoder(torch.randn(5, 2, 400) * 3 + 1)
    encoder.eval()
    x = torch.randn(2, 2, 301)
    torch.testing.assert_close(encoder(x), slow_v2(encoder, x), rtol=1e-4, atol=1e-5)


def test_features_and_downsampling() -> None:
    assert [MODELS[name].encoder(1).features for name in ("resnet18", "resnet50_stages3")] == [512, 1024]
    assert ResNet(depth=50, width=4).encoder(1).features == 128


@pytest.mark.parametrize(("init", "variance"), [("he", 2.0), ("lecun", 1.0)])
def test_initial_variance(init: str, variance: float) -> None:
    weight = ResNet(width=64, init=init).encoder(1).state_dict()["stages.1.1.convs.0.weight"]
    fan_in = weight.shape[1] * weight.shape[2]
    assert weight.var().item() * fan_in == pytest.approx(variance, rel=0.03)
    limit = weight.abs().max().item() * fan_in**0.5
    assert (limit < 2.28) == (init == "lecun")


def test_head_is_glorot_uniform_with_zero_bias() -> None:
    head = Classifier(ResNet().encoder(1), 5).head
    limit = (6 / (512 + 5)) ** 0.5
    assert torch.equal(head.bias, torch.zeros(5))
    assert 0.99 * limit < head.weight.abs().max().item() <= limit


@pytest.mark.parametrize("order", ["v2", "v1"])
def test_autocast_to_bfloat16(order: str) -> None:
    network = Classifier(ResNet(width=4, order=order).encoder(1), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(torch.randn(4, 1, 256))
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    exact = network.eval()(x := torch.randn(4, 1, 256))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(network(x).float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"depth": 19}, "depth of a resnet"),
        ({"order": "v3"}, "did you mean v"),
        ({"stages": 2}, "stages"),
        ({"init": "hee"}, "did you mean he"),
        ({"width": 0}, r"1 to 2\*\*24"),
        ({"width": 10**20}, r"1 to 2\*\*24"),
        ({"kernels": (7, 5, 5)}, "4 odd sizes"),
        ({"kernels": (7, 4, 5, 3)}, "4 odd sizes"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(EcgrayError, match=words) as caught:
        ResNet(**fields)
    assert "\n" not in str(caught.value)

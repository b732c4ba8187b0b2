"""Attention pooling against torch's own Transformer layers, and the future predictor against its parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ecgray.errors import EcgrayError
from ecgray.models import Classifier, FuturePredictor, ResNet
from ecgray.models.attention_pooling import AttentionPooling, sinusoidal_positions
from ecgray.models.transfer import freeze_blocks


def by_torch(pooling: AttentionPooling, x: Tensor, heads: int) -> Tensor:
    """The same pooling out of nn.TransformerEncoderLayer, which divides logits by the root of a head's width."""
    features = x.shape[2]
    position = [
        [
            math.sin(p / 10_000 ** (c / features)) if c % 2 == 0 else math.cos(p / 10_000 ** ((c - 1) / features))
            for c in range(features)
        ]
        for p in range(x.shape[1] + 1)
    ]
    x = torch.cat([pooling.token.expand(len(x), 1, features), x], dim=1) * math.sqrt(features) + torch.tensor(position)
    for ours in pooling.layers:
        layer = nn.TransformerEncoderLayer(
            features, heads, 2 * features, dropout=0.0, layer_norm_eps=1e-3, batch_first=True, norm_first=False
        )
        projections = (ours.query, ours.key, ours.value)
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": torch.cat([p.weight for p in projections]),
                "self_attn.in_proj_bias": torch.cat([p.bias for p in projections]),
                "self_attn.out_proj.weight": ours.output.weight,
                "self_attn.out_proj.bias": ours.output.bias,
                "linear1.weight": ours.feed_forward[0].weight,
                "linear1.bias": ours.feed_forward[0].bias,
                "linear2.weight": ours.feed_forward[2].weight,
                "linear2.bias": ours.feed_forward[2].bias,
                "norm1.weight": ours.attention_norm.weight,
                "norm1.bias": ours.attention_norm.bias,
                "norm2.weight": ours.feed_forward_norm.weight,
                "norm2.bias": ours.feed_forward_norm.bias,
            }
        )
        x = layer(x)
    return x[:, 0]


def randomised(pooling: AttentionPooling) -> AttentionPooling:
    """Biases and norms away from their initial zeros and ones, so that each of them counts."""
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return pooling


@pytest.mark.parametrize(("features", "heads", "length"), [(32, 4, 5), (64, 8, 16)])
def test_pooling_equals_torchs_transformer(features: int, heads: int, length: int) -> None:
    pooling = randomised(AttentionPooling(features, length, heads=heads))
    x = torch.randn(3, length, features)
    torch.testing.assert_close(pooling(x), by_torch(pooling, x, heads), rtol=1e-4, atol=1e-5)


def test_logit_scale_of_the_published_code() -> None:
    """Dividing by the root of the model's width is the standard with queries that much smaller."""
    code = randomised(AttentionPooling(32, 6, heads=4, logit_scale="model"))
    standard = AttentionPooling(32, 6, heads=4)
    standard.load_state_dict(code.state_dict())
    x = torch.randn(2, 6, 32)
    assert not torch.allclose(code(x), standard(x), atol=1e-4)
    with torch.no_grad():
        for layer in standard.layers:
            layer.query.weight.div_(2.0)  # sqrt(32) / sqrt(8)
            layer.query.bias.div_(2.0)
    torch.testing.assert_close(code(x), standard(x), rtol=1e-4, atol=1e-5)


def test_positions_interleave_sine_and_cosine() -> None:
    positions = sinusoidal_positions(4, 6)
    assert torch.equal(positions[0], torch.tensor([0.0, 1.0] * 3))
    assert positions[3, 2].item() == pytest.approx(math.sin(3 / 10_000 ** (2 / 6)))
    assert positions[3, 3].item() == pytest.approx(math.cos(3 / 10_000 ** (2 / 6)))


def test_the_order_of_the_context_matters() -> None:
    pooling = AttentionPooling(32, 4)
    x = torch.randn(1, 4, 32)
    assert not torch.allclose(pooling(x), pooling(x.flip(1)), atol=1e-4)


def test_token_is_a_truncated_normal() -> None:
    token = AttentionPooling(4096, 2, layers=0).token
    assert token.abs().max().item() <= 2.0
    assert token.std().item() == pytest.approx(0.88, abs=0.03)


@pytest.mark.parametrize("features", [36, 12])
def test_width_and_heads_must_agree(features: int) -> None:
    with pytest.raises(EcgrayError, match="multiple of the 8 attention heads"):
        AttentionPooling(features, 4)


@pytest.mark.parametrize("leads", [1, 2])
def test_predictor_equals_its_parts_frame_by_frame(leads: int) -> None:
    predictor = FuturePredictor(ResNet(width=4).encoder(leads), 3, 128).eval()
    signal = torch.randn(2, leads, 7 * 128)
    frames = [predictor.encoder(signal[:, :, slot * 128 : (slot + 1) * 128]) for slot in range(7)]
    context = predictor.pooling(torch.stack(frames[:3], dim=1))
    expected = torch.stack([(context * frame).sum(1) for frame in frames[3:]], dim=1)
    got = predictor(signal)
    assert got.shape == (2, 4)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_every_parameter_of_the_predictor_learns_also_under_bfloat16() -> None:
    predictor = FuturePredictor(ResNet(width=4).encoder(1), 3, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = predictor(torch.randn(4, 1, 6 * 128))
    assert logits.dtype == torch.float32
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    for key, parameter in predictor.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        # A bias of the keys moves all logits of a query alike, which the softmax does not see.
        if not key.endswith("key.bias"):
            assert parameter.grad.abs().sum() > 0, key


def test_networks_compile_without_a_break() -> None:
    x = torch.randn(2, 1, 5 * 64)
    predictor = FuturePredictor(ResNet(width=4).encoder(1), 3, 64)
    for network in (Classifier(ResNet(width=4, order="v1").encoder(1), 3), predictor):
        freeze_blocks(network.encoder, 2)
        compiled = torch.compile(network.eval(), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), network(x))
        compiled.train()
        assert not network.encoder.stages[0][0].norms[0].training and network.encoder.stages[3][1].norms[0].training

"""Parameter counts against those computed by hand from the paper and its code, to the last parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ecgray.models import MODELS, Classifier, FuturePredictor, ResNet, list_models
from ecgray.models.attention_pooling import AttentionPooling
from ecgray.models.base import parameter_count

# preset: trainable with 1 lead, with 12, and the same with the batch norms' running statistics; 4 classes
COUNTS = {
    "resnet18_v1": (4_484_932, 4_489_860, 4_494_532, 4_499_460),
    "resnet34_v1": (9_071_684, 9_076_612, 9_088_708, 9_093_636),
    "resnet50_v1": (16_929_092, 16_934_020, 16_982_212, 16_987_140),
    "resnet50_stages3_v1": (6_678_852, 6_683_780, 6_709_444, 6_714_372),
    "resnet18": (4_483_140, 4_488_068, 4_490_948, 4_495_876),
    "resnet34": (9_069_892, 9_074_820, 9_085_124, 9_090_052),
    "resnet50": (16_921_412, 16_926_340, 16_966_852, 16_971_780),
    "resnet50_stages3": (6_675_268, 6_680_196, 6_702_276, 6_707_204),
}


def with_statistics(module: nn.Module) -> int:
    return parameter_count(module) + sum(b.numel() for b in module.buffers() if b.dtype.is_floating_point)


@pytest.mark.parametrize("name", COUNTS)
def test_presets(name: str) -> None:
    with torch.device("meta"):
        one, twelve = (Classifier(MODELS[name].encoder(leads), 4) for leads in (1, 12))
    got = (parameter_count(one), parameter_count(twelve), with_statistics(one), with_statistics(twelve))
    assert got == COUNTS[name]


def test_every_preset_is_listed_for_one_and_twelve_leads() -> None:
    rows = list_models()
    assert [(row["name"], row["leads"]) for row in rows] == [(name, leads) for name in MODELS for leads in (1, 12)]
    assert all(set(row) == {"name", "leads", "classes", "parameters"} for row in rows)
    for row in rows:
        if row["name"] in COUNTS:
            assert row["parameters"] == COUNTS[str(row["name"])][row["leads"] == 12]


@pytest.mark.parametrize(("features", "count"), [(512, 6_308_864), (1024, 25_200_640), (2048, 100_732_928)])
def test_attention_pooling(features: int, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(AttentionPooling(features, 16)) == count


@pytest.mark.parametrize(("order", "count"), [("v1", 10_791_744), ("v2", 10_789_952)])
def test_future_predictor(order: str, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(FuturePredictor(ResNet(order=order).encoder(1), 16, 512)) == count

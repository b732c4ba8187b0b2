"""Networks: families of configs, and the presets that have a name of their own."""

from __future__ import annotations

from ecgray.models.base import Encoder, Model, count_on_meta
from ecgray.models.classifier import Classifier
from ecgray.models.future import FuturePredictor
from ecgray.models.resnet import ResNet

FAMILIES: dict[str, type[Model]] = {family.name: family for family in (ResNet,)}
Model.table = FAMILIES

MODELS: dict[str, Model] = {
    "resnet18": ResNet(depth=18),
    "resnet34": ResNet(depth=34),
    "resnet50": ResNet(depth=50),
    "resnet50_stages3": ResNet(depth=50, stages=3),
    "resnet18_v1": ResNet(depth=18, order="v1"),
    "resnet34_v1": ResNet(depth=34, order="v1"),
    "resnet50_v1": ResNet(depth=50, order="v1"),
    "resnet50_stages3_v1": ResNet(depth=50, stages=3, order="v1"),
}

__all__ = ["FAMILIES", "MODELS", "Classifier", "Encoder", "FuturePredictor", "Model", "ResNet", "list_models"]


def list_models(classes: int = 4) -> list[dict[str, str | int]]:
    """Every preset for one and for twelve leads: name, leads, classes, number of trainable parameters."""
    return [
        {"name": name, "leads": leads, "classes": classes, "parameters": count_on_meta(model, leads, classes)}
        for name, model in MODELS.items()
        for leads in (1, 12)
    ]

"""One-dimensional residual networks of 18, 34 and 50 layers in both block orders (Weimann & Conrad 2021).

Order v2 is what the paper names, the pre-activation form of He et al. 2016, in its bare-stem reading: stem convolution,
max pool, blocks that each start with batch norm and ReLU, and a last batch norm and ReLU. Order v1 is the
post-activation form that the paper's published code builds.

Padding is symmetric: a length L leaves a layer of stride s as ceil(L / s), as with Keras' "same" padding. On even
lengths the sampling points lie one sample apart from Keras', which matters to imported weights only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ecgray.errors import EcgrayError, unknown
from ecgray.models.base import Encoder, Model

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
BOTTLENECKS = frozenset({50})
EXPANSION = 4


@dataclass(frozen=True, kw_only=True)
class ResNet(Model):
    """Stages of width, 2, 4 and 8 times that many filters, with one kernel size per stage."""

    name: ClassVar[str] = "resnet"

    depth: Literal[18, 34, 50] = 18
    """Layers."""
    order: Literal["v2", "v1"] = "v2"
    """Pre-activation blocks as the paper names them (v2), or post-activation ones as its published code builds (v1)."""
    width: int = 64
    """Filters of the first stage."""
    kernels: tuple[int, int, int, int] = (7, 5, 5, 3)
    """Kernel size of each stage, in samples; odd."""
    stages: Literal[3, 4] = 4
    """Stages; 3 is the form in which the paper pretrains its ResNet-50 for future prediction."""
    init: Literal["he", "lecun"] = "he"
    """Normal of variance 2 / fan-in (he), or truncated normal of 1 / fan-in as the published code has it (lecun)."""

    def __post_init__(self) -> None:
        choices: tuple[tuple[str, object, tuple[object, ...]], ...] = (
            ("depth", self.depth, tuple(BLOCKS)),
            ("order", self.order, ("v2", "v1")),
            ("stages", self.stages, (3, 4)),
            ("init", self.init, ("he", "lecun")),
        )
        for field, got, known in choices:
            if got not in known:
                raise unknown(f"{field} of a resnet", str(got), map(str, known))
        if not 1 <= self.width <= 2**24:
            raise EcgrayError(f"The width of a resnet must be from 1 to 2**24, got {self.width}; the paper's is 64.")
        if len(self.kernels) != 4 or any(k < 1 or k % 2 == 0 for k in self.kernels):
            raise EcgrayError(
                f"The kernels of a resnet must be 4 odd sizes, got {self.kernels}; the paper's are (7, 5, 5, 3)."
            )

    def encoder(self, leads: int) -> ResNetEncoder:
        return ResNetEncoder(self, leads)


class ResNetEncoder(Encoder):
    """Stem, stages and global average pooling; downsamples by 32 (by 16 with three stages)."""

    input_weight: ClassVar[str] = "stem.conv.weight"

    def __init__(self, config: ResNet, leads: int) -> None:
        super().__init__()
        self.leads = leads
        preactivated = config.order == "v2"
        make = PreactivatedBlock if preactivated else PostactivatedBlock
        self.stem = Stem(leads, config.width, normalised=not preactivated)
        stages, inputs = [], config.width
        for stage in range(config.stages):
            filters, blocks = config.width << stage, []
            for index in range(BLOCKS[config.depth][stage]):
                stride = 2 if stage and not index else 1
                layers = _layers(config, inputs, filters, config.kernels[stage], stride)
                blocks.append(make(layers))
                inputs = layers[-1].out_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.BatchNorm1d(inputs) if preactivated else None
        self.features = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                _initialise(module, config.init)

    def forward(self, signal: Tensor) -> Tensor:
        x = self.stem(signal)
        for stage in self.stages:
            x = stage(x)
        if self.norm is not None:
            x = F.relu(self.norm(x), inplace=True)
        return x.mean(-1)

    @property
    def blocks(self) -> list[nn.Module]:
        """The residual blocks; the stem belongs to the first, the last batch norm (v2) to the last."""
        blocks = [block for stage in self.stages for block in cast(nn.Sequential, stage)]
        last = [blocks[-1]] if self.norm is None else [blocks[-1], self.norm]
        return [nn.Sequential(self.stem, blocks[0]), *blocks[1:-1], nn.Sequential(*last)]

    def may_lack(self, state: dict[str, Tensor]) -> set[str]:
        """The stages after the checkpoint's last one, and then the last batch norm: these start at random."""
        given = {name.split(".")[1] for name in state if name.startswith("stages.")}
        missing = tuple(f"stages.{stage}." for stage in range(len(self.stages)) if str(stage) not in given)
        if not given or not missing:
            return set()
        return {name for name in self.state_dict() if name.startswith((*missing, "norm."))}


class Stem(nn.Module):
    """Convolution of kernel 7 and stride 2, then max pooling of 3 and stride 2; v1 normalises between them."""

    def __init__(self, leads: int, width: int, *, normalised: bool) -> None:
        super().__init__()
        self.conv = _conv(leads, width, kernel=7, stride=2)
        self.norm = nn.BatchNorm1d(width) if normalised else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = F.relu(self.norm(x), inplace=True)
        return F.max_pool1d(x, kernel_size=3, stride=2, padding=1)


class PreactivatedBlock(nn.Module):
    """Batch norm, ReLU, convolution, two or three times, plus the input; a projection starts at the first ReLU."""

    def __init__(self, layers: list[nn.Conv1d]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.BatchNorm1d(conv.in_channels) for conv in layers)
        self.shortcut = _projection(layers)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        for index, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            x = F.relu(norm(x), inplace=True)
            if index == 0 and self.shortcut is not None:
                shortcut = self.shortcut(x)
            x = conv(x)
        return x + shortcut


class PostactivatedBlock(nn.Module):
    """Convolution, batch norm, ReLU, two or three times, with the input added before the last ReLU."""

    def __init__(self, layers: list[nn.Conv1d]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.BatchNorm1d(conv.out_channels) for conv in layers)
        projection = _projection(layers)
        self.shortcut = (
            None if projection is None else nn.Sequential(projection, nn.BatchNorm1d(projection.out_channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if index:
                x = F.relu(x, inplace=True)
            x = norm(conv(x))
        return F.relu(x + shortcut, inplace=True)


def _layers(config: ResNet, inputs: int, filters: int, kernel: int, stride: int) -> list[nn.Conv1d]:
    """Convolutions of one block: two of the stage's kernel, or 1, kernel, 1 where it is a bottleneck."""
    if config.depth not in BOTTLENECKS:
        return [_conv(inputs, filters, kernel, stride), _conv(filters, filters, kernel, 1)]
    return [
        _conv(inputs, filters, 1, 1),
        _conv(filters, filters, kernel, stride),
        _conv(filters, EXPANSION * filters, 1, 1),
    ]


def _projection(layers: list[nn.Conv1d]) -> nn.Conv1d | None:
    """The 1x1 convolution that fits a block's input to its output, where they differ in shape."""
    inputs, outputs = layers[0].in_channels, layers[-1].out_channels
    stride = math.prod(conv.stride[0] for conv in layers)
    return None if inputs == outputs and stride == 1 else _conv(inputs, outputs, 1, stride)


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def _initialise(conv: nn.Conv1d, init: str) -> None:
    if init == "he":
        nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
        return
    # A normal distribution cut at two deviations keeps .8796 of its deviation.
    deviation = math.sqrt(1 / (conv.in_channels * conv.kernel_size[0])) / 0.87962566103423978
    nn.init.trunc_normal_(conv.weight, std=deviation, a=-2 * deviation, b=2 * deviation)

"""Weimann & Conrad 2021: pretraining on Icentia11K, finetuning on CinC 2017. A row of Tables 1 to 4 and Figure 3 each.

    ecgray pretrain weimann2021_beat --data ICENTIA11K --out RUN
    ecgray finetune weimann2021_cinc2017 --data CINC2017 --pretrained RUN --out RUN2

The first is 42.8 million frames of 11,000 patients, the second ten seeds of up to 200 epochs over 6,396 records. All
finetuning uses one protocol (``finetuning``). Rows of Table 1 and Figure 3 differ only in the pretraining run that is
given, rows of Table 2 also in ``data.train_fraction``, of Table 3 in ``data.fs``, of Table 4 in ``model``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from ecgray.finetuning.config import FinetuneConfig
from ecgray.models import MODELS
from ecgray.recipes.published import BEST, COLUMNS, PAPER, TABLE_1, TABLE_2, TABLE_3, TABLE_4, Score
from ecgray.recipes.recipe import Recipe
from ecgray.sampling.plan import SamplingConfig
from ecgray.tasks import Beat, FuturePrediction, HeartRate, Rhythm
from ecgray.training.config import PretrainConfig

RESNETS = {"resnet18": "ResNet-18v2", "resnet34": "ResNet-34v2", "resnet50": "ResNet-50v2"}


def weimann2021_beat() -> PretrainConfig:
    """Beat classification, frames of 2,048 samples, ResNet-18v2: Table 1, macro F1 .779 +- .014 after finetuning."""
    return PretrainConfig(
        recipe="weimann2021_beat",
        sampling=SamplingConfig(frame_size=2048, frames_per_patient=4096, val_fraction=0.05),
        task=Beat(),
        model=MODELS["resnet18"],
    )


def weimann2021_rhythm() -> PretrainConfig:
    """Rhythm classification, frames of 2,048 samples: Table 1, macro F1 .767 +- .012 after finetuning."""
    return replace(weimann2021_beat(), recipe="weimann2021_rhythm", task=Rhythm())


def weimann2021_heart_rate() -> PretrainConfig:
    """Heart rate classification, frames of 512 samples: Table 1, macro F1 .766 +- .011 after finetuning."""
    return _framed(replace(weimann2021_beat(), recipe="weimann2021_heart_rate", task=HeartRate()), 512)


def weimann2021_future() -> PretrainConfig:
    """Future prediction, context 16, 8 negatives, offset 8, frames of 512 samples: Table 1, macro F1 .758 +- .013."""
    task = FuturePrediction(context=16, negatives=8, offset=8)
    return _framed(replace(weimann2021_beat(), recipe="weimann2021_future", task=task), 512)


BASES = {
    "beat": weimann2021_beat,
    "rhythm": weimann2021_rhythm,
    "heart_rate": weimann2021_heart_rate,
    "future": weimann2021_future,
}
"""Best row of each task in Table 1."""


def weimann2021_cinc2017() -> FinetuneConfig:
    """The protocol of all rows: 75 % train, 5 % validation, 20 % test, ten seeds, 60 s at 250 Hz, ResNet-18v2, nothing
    frozen. After ``weimann2021_beat`` it is the best row of Table 1, macro F1 .779 +- .014; without .731 +- .019.
    """
    return FinetuneConfig(recipe="weimann2021_cinc2017", model=MODELS["resnet18"])


def pretraining_variant(name: str, configuration: str) -> PretrainConfig:
    """A row of Table 1 that is not its task's best: only the frame size differs, or for future prediction
    ``configuration`` = future_<context>_<negatives>_<offset>_<frame>."""
    task, *numbers = _split(configuration)
    config = replace(BASES[task](), recipe=name)
    if task == "future":
        context, negatives, offset = map(int, numbers[:3])
        config = replace(config, task=replace(FuturePrediction(), context=context, negatives=negatives, offset=offset))
    return _framed(config, int(numbers[-1]))


def pretraining_network(name: str, task: str, network: str) -> PretrainConfig:
    """A column of Table 4: only the network differs. For future prediction the ResNet-50 is its first three stages."""
    preset = "resnet50_stages3" if (task, network) == ("future", "resnet50") else network
    return replace(BASES[task](), recipe=name, model=MODELS[preset])


def finetuning(
    name: str, *, train_fraction: float | None = None, fs: float | None = None, network: str | None = None
) -> FinetuneConfig:
    """The protocol with what a row changes: train_fraction (Table 2), fs in Hz (Table 3) or network (Table 4)."""
    config = replace(weimann2021_cinc2017(), recipe=name)
    if train_fraction is not None:
        config = replace(config, data=replace(config.data, train_fraction=train_fraction))
    if fs is not None:
        config = replace(config, data=replace(config.data, fs=fs))
    return config if network is None else replace(config, model=MODELS[network])


def recipes() -> Iterator[Recipe]:
    """Every recipe of this paper, the short names first."""
    for task, base in BASES.items():
        yield _pretraining(base, f"weimann2021_{task}", "Table 1", _words(BEST[task]), _table_1(BEST[task]))
    best = BEST["beat"]
    yield _finetuning(
        weimann2021_cinc2017, "weimann2021_cinc2017", "Table 1", _words(best), _table_1(best), "weimann2021_beat"
    )
    yield from _other_pretraining()
    for configuration in TABLE_1:
        name, task = f"weimann2021_table1_{configuration}", _split(configuration)[0]
        start = task if configuration in BEST.values() else configuration
        make = partial(finetuning, name)
        yield _finetuning(make, name, "Table 1", _words(configuration), _table_1(configuration), _start(start))
    for task, scores in TABLE_2.items():
        for share, score in scores.items():
            name, row = f"weimann2021_table2_{task}_{share}", f"{_words(task)}, {share} % of the records for training"
            make = partial(finetuning, name, train_fraction=int(share) / 100)
            yield _finetuning(make, name, "Table 2", row, {"macro_f1": score}, _start(task))
    for task, scores in TABLE_3.items():
        for rate, score in scores.items():
            name, hertz = f"weimann2021_table3_{task}_{rate}", int(rate.removesuffix("hz"))
            make = partial(finetuning, name, fs=float(hertz))
            yield _finetuning(make, name, "Table 3", f"{_words(task)}, {hertz} Hz", {"macro_f1": score}, _start(task))
    for task, scores in TABLE_4.items():
        for network, score in scores.items():
            name, row = f"weimann2021_table4_{task}_{network}", f"{_words(task)}, {RESNETS[network]}"
            start = task if network == "resnet18" else f"{task}_{network}"
            make = partial(finetuning, name, network=network)
            yield _finetuning(make, name, "Table 4", row, {"macro_f1": score}, _start(start))
    for task, configuration in BEST.items():
        name = f"weimann2021_figure3_{task}"
        row = f"{_words(configuration)}: validation macro F1 per epoch"
        yield _finetuning(partial(finetuning, name), name, "Figure 3", row, {}, _start(task))


def _other_pretraining() -> Iterator[Recipe]:
    for configuration in TABLE_1:
        if configuration not in BEST.values():
            name = f"weimann2021_{configuration}"
            make = partial(pretraining_variant, name, configuration)
            yield _pretraining(make, name, "Table 1", _words(configuration), _table_1(configuration))
    for task in BASES:
        for network in ("resnet34", "resnet50"):
            name, row = f"weimann2021_{task}_{network}", f"{_words(task)}, {RESNETS[network]}"
            make = partial(pretraining_network, name, task, network)
            yield _pretraining(make, name, "Table 4", row, {"macro_f1": TABLE_4[task][network]})


def _pretraining(
    make: Callable[[], PretrainConfig], name: str, table: str, row: str, scores: Mapping[str, Score]
) -> Recipe:
    return Recipe(name=name, stage="pretrain", paper=PAPER, table=table, row=row, published=scores, make=make)


def _finetuning(
    make: Callable[[], FinetuneConfig], name: str, table: str, row: str, scores: Mapping[str, Score], start: str | None
) -> Recipe:
    return Recipe(
        name=name,
        stage="finetune",
        paper=PAPER,
        table=table,
        row=row,
        published=scores,
        make=make,
        pretrained_by=start,
    )


def _start(short: str) -> str | None:
    """Name of the pretraining recipe, None for random weights."""
    return None if short.startswith("none") else f"weimann2021_{short}"


def _framed(config: PretrainConfig, frame_size: int) -> PretrainConfig:
    return replace(config, sampling=replace(config.sampling, frame_size=frame_size))


def _split(configuration: str) -> list[str]:
    """Task, then numbers: "heart_rate_512" -> ["heart_rate", "512"]."""
    task = next(task for task in BEST if configuration.startswith(task))
    return [task, *configuration[len(task) :].split("_")[1:]]


def _words(configuration: str) -> str:
    task, *numbers = _split(configuration)
    if len(numbers) == 4:
        context, negatives, offset, frame = numbers
        return f"future, context {context}, {negatives} negatives, offset {offset}, frame {frame}"
    return task.replace("_", " ") + "".join(f", frame {number}" for number in numbers)


def _table_1(configuration: str) -> dict[str, Score]:
    return dict(zip(COLUMNS, TABLE_1[configuration], strict=True))

"""The numbers that papers printed. They stand here and nowhere else in the project, each with its table and row.

Weimann & Conrad 2021, "Transfer learning for ECG classification", Scientific Reports 11:5251. Scores on the CinC 2017
test set as (mean, standard deviation) over ten finetuning runs. Their classes normal, AF, other and noisy are N, A, O
and ~ here; macro F1 is the mean over all four.
"""

from __future__ import annotations

from collections.abc import Mapping

Score = tuple[float, float]
"""(mean, standard deviation)."""

PAPER = "Weimann & Conrad 2021"
RUNS = 10
"""Finetuning runs behind every mean."""
RECORDS = 8528
"""Labelled records of the published CinC 2017 training set, 20 % of which are the paper's test set."""
PRETRAINING_FRAMES = 42_800_000
"""Frames that the paper pretrained on: about 4,096 of each of its 10,450 training patients (text, pretraining)."""

COLUMNS = ("macro_f1", "f1_N", "f1_A", "f1_O", "f1_~")
"""Columns of Table 1."""

TABLE_1: Mapping[str, tuple[Score, Score, Score, Score, Score]] = {
    "none": ((0.731, 0.019), (0.898, 0.005), (0.711, 0.027), (0.701, 0.017), (0.613, 0.062)),
    "beat_512": ((0.769, 0.011), (0.911, 0.010), (0.760, 0.018), (0.758, 0.016), (0.647, 0.022)),
    "beat_2048": ((0.779, 0.014), (0.915, 0.007), (0.777, 0.014), (0.763, 0.014), (0.661, 0.040)),
    "beat_4096": ((0.768, 0.010), (0.908, 0.009), (0.764, 0.021), (0.754, 0.015), (0.646, 0.025)),
    "rhythm_512": ((0.742, 0.017), (0.896, 0.007), (0.721, 0.026), (0.716, 0.032), (0.636, 0.045)),
    "rhythm_2048": ((0.767, 0.012), (0.908, 0.004), (0.753, 0.020), (0.745, 0.018), (0.660, 0.026)),
    "rhythm_4096": ((0.755, 0.005), (0.903, 0.008), (0.745, 0.022), (0.735, 0.012), (0.635, 0.017)),
    "heart_rate_512": ((0.766, 0.011), (0.915, 0.004), (0.759, 0.019), (0.756, 0.015), (0.635, 0.029)),
    "heart_rate_2048": ((0.753, 0.013), (0.910, 0.005), (0.743, 0.037), (0.738, 0.011), (0.619, 0.039)),
    "heart_rate_4096": ((0.751, 0.010), (0.909, 0.006), (0.744, 0.019), (0.739, 0.016), (0.611, 0.025)),
    # context, negatives, offset, frame: the order in which the table names them
    "future_8_4_2_512": ((0.756, 0.008), (0.903, 0.007), (0.742, 0.011), (0.730, 0.017), (0.649, 0.021)),
    "future_16_8_2_512": ((0.744, 0.016), (0.905, 0.005), (0.730, 0.027), (0.730, 0.009), (0.612, 0.041)),
    "future_16_8_8_512": ((0.758, 0.013), (0.908, 0.005), (0.753, 0.021), (0.745, 0.012), (0.627, 0.026)),
    "future_16_16_8_512": ((0.745, 0.013), (0.897, 0.006), (0.724, 0.024), (0.722, 0.009), (0.639, 0.034)),
}
"""Pretraining task and frame size: macro F1 and F1 per class (``COLUMNS``)."""

BEST = {
    "none": "none",
    "beat": "beat_2048",
    "rhythm": "rhythm_2048",
    "heart_rate": "heart_rate_512",
    "future": "future_16_8_8_512",
}
"""Table 1's best row of each task, which Tables 2 to 4 go on with."""

RELATIVE_IMPROVEMENT = {"beat": 0.0657, "rhythm": 0.0492, "heart_rate": 0.0479, "future": 0.0369}
"""Gain of the best rows over "none", as the paper's text states it (share of the score without pretraining)."""

TABLE_2: Mapping[str, Mapping[str, Score]] = {
    "none": {"25": (0.670, 0.013), "50": (0.712, 0.010), "75": (0.731, 0.019)},
    "beat": {"25": (0.739, 0.014), "50": (0.763, 0.011), "75": (0.779, 0.014)},
    "rhythm": {"25": (0.707, 0.018), "50": (0.727, 0.028), "75": (0.767, 0.012)},
    "heart_rate": {"25": (0.722, 0.010), "50": (0.749, 0.018), "75": (0.766, 0.011)},
    "future": {"25": (0.694, 0.014), "50": (0.734, 0.011), "75": (0.758, 0.013)},
}
"""Training records in percent of the entire data set: macro F1."""

TABLE_3: Mapping[str, Mapping[str, Score]] = {
    "none": {"128hz": (0.701, 0.017), "250hz": (0.731, 0.019), "300hz": (0.715, 0.023)},
    "beat": {"128hz": (0.779, 0.012), "250hz": (0.779, 0.014), "300hz": (0.770, 0.011)},
    "rhythm": {"128hz": (0.748, 0.012), "250hz": (0.767, 0.012), "300hz": (0.747, 0.017)},
    "heart_rate": {"128hz": (0.761, 0.011), "250hz": (0.766, 0.011), "300hz": (0.767, 0.010)},
    "future": {"128hz": (0.747, 0.008), "250hz": (0.758, 0.013), "300hz": (0.734, 0.016)},
}
"""Sampling rate of the labelled records: macro F1."""

TABLE_4: Mapping[str, Mapping[str, Score]] = {
    "none": {"resnet18": (0.731, 0.019), "resnet34": (0.764, 0.012), "resnet50": (0.708, 0.023)},
    "beat": {"resnet18": (0.779, 0.014), "resnet34": (0.794, 0.018), "resnet50": (0.775, 0.015)},
    "rhythm": {"resnet18": (0.767, 0.012), "resnet34": (0.775, 0.020), "resnet50": (0.760, 0.008)},
    "heart_rate": {"resnet18": (0.766, 0.011), "resnet34": (0.771, 0.008), "resnet50": (0.761, 0.019)},
    # ResNet-50: only its first three stages were pretrained (the table's asterisk)
    "future": {"resnet18": (0.758, 0.013), "resnet34": (0.761, 0.014), "resnet50": (0.743, 0.010)},
}
"""Network: macro F1."""

"""Pictures of an evaluation: accuracy by corruption and severity, and under attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clarep_ray.analysis.figures import blank_figure, literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SAME_IMAGES = "the same images, clean"


@dataclass(frozen=True)
class Bar:
    """Accuracy with the ends of its confidence interval, over `count` images, and theirs without an attack [0..1]."""

    accuracy: float
    low: float
    high: float
    count: int
    clean: float


def corruption_bars(accuracies: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Return accuracy of every corruption in groups of its severities, one row per model.

    `accuracies` are {model: {corruption/severity: accuracy [0..1]}}; a line shows the mean over all of them.
    """
    slices = list(next(iter(accuracies.values())))
    corruptions = list(dict.fromkeys(part.rpartition("/")[0] for part in slices))
    severities = sorted({part.rpartition("/")[2] for part in slices})
    figure, axes = blank_figure(len(accuracies), 1, width=0.75 * len(corruptions) + 1.5, height=2.6 * len(accuracies))
    width = 0.84 / len(severities)
    for axis, (model, values) in zip(axes[:, 0], accuracies.items(), strict=True):
        for number, severity in enumerate(severities):
            places = np.arange(len(corruptions)) + (number - (len(severities) - 1) / 2) * width
            heights = [values[f"{corruption}/{severity}"] for corruption in corruptions]
            shade = 0.9 - 0.65 * number / max(len(severities) - 1, 1)
            axis.bar(places, heights, width, color=(0.12, 0.3, shade), label=literal(f"severity {severity}"))
        axis.axhline(float(np.mean(list(values.values()))), color="C3", linewidth=0.9, linestyle="--", label="mean")
        axis.set(ylim=(0, 1), ylabel="accuracy")
        axis.set_title(literal(f"{title}: {model}"))
        names = [literal(corruption.replace("_", " ")) for corruption in corruptions]
        axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=7)
    axes[0, 0].legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def attack_bars(bars: Mapping[str, Mapping[str, Mapping[str, Bar]]], title: str) -> Figure:
    """Return accuracy of every slice without and under attacks, with 95 % intervals, one row per model.

    `bars` are {model: {slice: {attack: bar}}}; a slice that has none is left out. A dash over a bar is the accuracy of
    its images without the attack.
    """
    every = [under for values in bars.values() for under in values.values()]
    parts = list(dict.fromkeys(part for values in bars.values() for part in values))
    attacks = list(dict.fromkeys(attack for under in every for attack in under))
    width = 0.84 / len(attacks)
    figure, axes = blank_figure(len(bars), 1, width=1.9 * len(parts) + 2.6, height=2.8 * len(bars))
    for axis, (model, values) in zip(axes[:, 0], bars.items(), strict=True):
        marked = False
        for number, attack in enumerate(attacks):
            known = {at: values[part][attack] for at, part in enumerate(parts) if attack in values.get(part, {})}
            if not known:
                continue
            places = np.array(list(known)) + (number - (len(attacks) - 1) / 2) * width
            heights, low, high, clean = np.array([(b.accuracy, b.low, b.high, b.clean) for b in known.values()]).T
            ends = np.clip([heights - low, high - heights], 0, None)
            label = f"{literal(attack)} (n = {_counts([bar.count for bar in known.values()])})"
            axis.bar(places, heights, width, yerr=ends, label=label, color=f"C{number}", error_kw={"linewidth": 0.8})
            if attack != "clean":
                ends_of_dash = places - 0.45 * width, places + 0.45 * width
                axis.hlines(clean, *ends_of_dash, color="black", linewidth=0.9, label=None if marked else SAME_IMAGES)
                marked = True
        axis.set(ylim=(0, 1.02), ylabel="accuracy")
        axis.set_title(literal(f"{title}: {model}"))
        axis.set_xticks(range(len(parts)), [literal(part.replace("_", " ")) for part in parts], fontsize=8)
    axes[0, 0].legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def _counts(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"

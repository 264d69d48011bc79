"""How sure a robust accuracy is, whether two models differ, and tables in the paper's shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from clarep_ray.data.text_tables import csv_text, markdown_table

MISSING = "-"


@dataclass(frozen=True)
class Interval:
    """An accuracy with its confidence interval [0..1]."""

    accuracy: float
    low: float
    high: float
    count: int


def wilson_interval(num_correct: int, count: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval (1927) of a share; it stays within 0 to 1 and holds near its ends.

    Raises ValueError for no pictures, more right ones than pictures, or a confidence outside 0 to 1.
    """
    if count < 1 or not 0 <= num_correct <= count:
        raise ValueError(f"num_correct: {num_correct} of {count} is not valid; valid: 0 to count, and 1 or more in all")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is not valid; valid: between 0 and 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = num_correct / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), count)


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same pictures: how many only one gets right, and McNemar's exact two-sided p."""

    count: int
    only_first: int
    only_second: int
    difference: float
    """Accuracy of the first less that of the second [-1..1]."""
    p_value: float


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedTest:
    """Return McNemar's exact test (1947) of two models' verdicts (n,) on the same pictures.

    Raises ValueError for different numbers of verdicts, or none.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"verdicts: {first.shape} and {second.shape} are not valid; valid: two of one length (n,)")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    p = _two_sided(min(only_first, only_second), only_first + only_second)
    return PairedTest(len(first), only_first, only_second, (only_first - only_second) / len(first), p)


def _two_sided(fewer: int, count: int) -> float:
    """Return twice the probability of so few heads or fewer in `count` throws of a fair coin, at most 1."""
    heads = np.arange(fewer + 1)
    logs = np.array([math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in heads])
    largest = float(logs.max())
    return min(1.0, 2 * math.exp(largest + math.log(float(np.exp(logs - largest).sum())) - count * math.log(2)))


@dataclass(frozen=True)
class ClassReport:
    """One class: its clean and its robust accuracy with 95 % intervals."""

    label: int
    clean: Interval
    robust: Interval


def class_report(labels: NDArray[np.integer], clean: NDArray[np.bool_], robust: NDArray[np.bool_]) -> list[ClassReport]:
    """Return clean and robust accuracy of every class there is, from verdicts (n,) of each picture.

    Raises ValueError for different numbers of labels and verdicts.
    """
    if not len(labels) == len(clean) == len(robust):
        raise ValueError(
            f"labels: {len(labels)}, {len(clean)} and {len(robust)} entries are not valid; valid: equally many"
        )
    return [
        ClassReport(int(label), _of(clean[labels == label]), _of(robust[labels == label]))
        for label in np.unique(labels)
    ]


def _of(verdicts: NDArray[np.bool_]) -> Interval:
    return wilson_interval(int(verdicts.sum()), len(verdicts))


@dataclass(frozen=True)
class Figure:
    """Accuracies [0..1], one per seed, and the images they are over; NaN where no image could be read."""

    values: Sequence[float]
    images: int
    """Of one seed; of all slices together where the figure is their mean."""
    clean: float | None = None
    """Accuracy of the same images without the attack; None of a figure that is without one."""

    @property
    def without_attack(self) -> Figure:
        """The figure of the same images without the attack."""
        return self if self.clean is None else Figure((self.clean,), self.images)


@dataclass(frozen=True)
class ResultTable:
    """One line per model; a cell holds a figure, shown in percent, or nothing."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Figure]]

    def markdown(self) -> str:
        """Return the table with mean, +- standard deviation where there are several seeds, and (images)."""
        rows = [(model, *(_cell(cells.get(column)) for column in self.columns)) for model, cells in self.rows.items()]
        return markdown_table((self.title, *self.columns), rows)

    def csv(self) -> str:
        """Return one line per model, column and seed; an empty cell where no image could be read."""
        rows: list[tuple[object, ...]] = []
        for model, cells in self.rows.items():
            for column in self.columns:
                figure = cells.get(column, NOTHING)
                shown = ("" if math.isnan(value) else f"{100 * value:.6g}" for value in figure.values)
                rows += ((model, column, seed, text, figure.images) for seed, text in enumerate(shown))
        return csv_text(("model", "column", "seed", "percent", "images"), rows)

    def over_the_same_images(self, clean: str) -> ResultTable:
        """Return the table with a column of clean accuracies before those attacks that saw other images than `clean`.

        Two attacks on equally many images of a slice saw the same ones: both are drawn by key and seed.
        """
        groups = self._attacks_by_images()
        own = tuple(cells[clean].images if clean in cells else 0 for cells in self.rows.values())
        columns, rows = list[str](), {model: dict(cells) for model, cells in self.rows.items()}
        for column in self.columns:
            for images, attacks in groups.items():
                if column == attacks[0] and images != own:
                    columns.append(f"{clean} for {', '.join(attacks)}")
                    for cells in rows.values():
                        cells |= {columns[-1]: cells[column].without_attack} if column in cells else {}
            columns.append(column)
        return ResultTable(self.title, tuple(columns), rows)

    def with_clean_of_the_attacks(self, clean: str) -> ResultTable:
        """Return the table with `clean` over the attacks' images; as `over_the_same_images` where these differ."""
        groups = self._attacks_by_images()
        if len(groups) != 1:
            return self.over_the_same_images(clean)
        ((attack, *_),) = groups.values()
        rows = {
            model: {**cells, clean: cells[attack].without_attack} if {attack, clean} <= cells.keys() else cells
            for model, cells in self.rows.items()
        }
        return ResultTable(self.title, self.columns, rows)

    def _attacks_by_images(self) -> dict[tuple[int, ...], list[str]]:
        """Return the attacks' columns by how many images they saw in each row."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for column in self.columns:
            figures = [cells.get(column, NOTHING) for cells in self.rows.values()]
            if any(figure.clean is not None for figure in figures):
                groups.setdefault(tuple(figure.images for figure in figures), []).append(column)
        return groups


NOTHING = Figure((), 0)


TABLE_1 = {
    "Clean": "imagenet/clean",
    "PGD": "imagenet/pgd",
    "CW": "imagenet/cw",
    "APGD-DLR": "imagenet/apgd_dlr",
    "APGD-CE": "imagenet/apgd_ce",
    "IM-C": "imagenet_c/top1",
    "IM-A": "imagenet_a/top1",
    "IM-ReaL": "imagenet_real/top1",
}
TABLE_1_CIFAR10 = {
    "Clean": "cifar10/clean",
    "PGD": "cifar10/pgd",
    "CW": "cifar10/cw",
    "APGD-DLR": "cifar10/apgd_dlr",
    "APGD-CE": "cifar10/apgd_ce",
    "CIFAR10-C": "cifar10_c/top1",
}
TABLE_2 = {
    "Original": "backgrounds/original",
    "BG-Same": "backgrounds/bg_same",
    "BG-Rand": "backgrounds/bg_rand",
    "Only-FG": "backgrounds/only_fg",
}
TABLE_10 = {"Clean": "imagenet/clean", "Square": "imagenet/square"}
TABLE_13 = {"Clean": "image_folder/clean", "Ensemble of four": "image_folder/ensemble4"}
TABLE_1_DIGITS = {
    "Clean": "spurious_digits/test",
    "PGD": "spurious_digits/test/pgd",
    "CW": "spurious_digits/test/cw",
    "APGD-DLR": "spurious_digits/test/apgd_dlr",
    "APGD-CE": "spurious_digits/test/apgd_ce",
    "Ensemble of four": "spurious_digits/test/ensemble4",
}
TABLE_2_DIGITS = {
    "Original": "spurious_digits/test",
    "BG-Same": "spurious_digits/same_background",
    "BG-Rand": "spurious_digits/random_background",
    "Only-FG": "spurious_digits/foreground_only",
    "Conflict": "spurious_digits/conflict",
}
TABLE_10_DIGITS = {"Clean": "spurious_digits/test", "Square": "spurious_digits/test/square"}
TABLES: dict[str, dict[str, str]] = {
    "table_1_imagenet": TABLE_1,
    "table_1_cifar10": TABLE_1_CIFAR10,
    "table_1_digits": TABLE_1_DIGITS,
    "table_2": TABLE_2,
    "table_2_digits": TABLE_2_DIGITS,
    "table_10": TABLE_10,
    "table_10_digits": TABLE_10_DIGITS,
    "table_13": TABLE_13,
}
"""The paper's tables, and their shapes on the embedded data: {column: key of a figure}."""


def paper_table(name: str, figures: Mapping[str, Mapping[str, Figure]]) -> ResultTable:
    """Return one of the paper's tables from {model: {key: figure}}; clean accuracies are of the attacks' images.

    Keys are those of `results.figures`; a missing one leaves its cell empty. Raises
    ValueError for an unknown table.
    """
    if name not in TABLES:
        raise ValueError(f"table: {name!r} is unknown; valid: {', '.join(TABLES)}")
    columns = TABLES[name]
    rows = {
        model: {column: known[key] for column, key in columns.items() if key in known}
        for model, known in figures.items()
    }
    return ResultTable(name, tuple(columns), rows).with_clean_of_the_attacks(next(iter(columns)))


def _cell(figure: Figure | None) -> str:
    if figure is None or not len(figure.values) or math.isnan(figure.values[0]):
        return MISSING
    percent = [100 * value for value in figure.values]
    spread = f" +- {np.std(percent, ddof=1):.2f}" if len(percent) > 1 else ""
    return f"{np.mean(percent):.1f}{spread} ({figure.images})"

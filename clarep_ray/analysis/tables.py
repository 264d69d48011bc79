"""Tables of mean and standard deviation over seeds, as markdown and CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from clarep_ray.data.text_tables import csv_text, markdown_table


@dataclass(frozen=True)
class SeedTable:
    """`values[row][column]` is one number per seed."""

    title: str
    columns: tuple[str, ...]
    values: Mapping[str, Mapping[str, Sequence[float]]]

    def markdown(self, confidence: float | None = None) -> str:
        """Return the table with mean +- standard deviation in every cell, and a confidence interval where asked for."""
        rows = [
            (row, *(_cell(cells[column], confidence) for column in self.columns)) for row, cells in self.values.items()
        ]
        return markdown_table((self.title, *self.columns), rows)

    def csv(self) -> str:
        """Return one line per row, column and seed."""
        rows = (
            (row, column, seed, f"{value:.6g}")
            for row, cells in self.values.items()
            for column in self.columns
            for seed, value in enumerate(cells[column])
        )
        return csv_text(("row", "column", "seed", "value"), rows)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (0 for a single value); NaN where a value is missing."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's confidence interval of the mean over seeds; NaN for fewer than two of them.

    Raises ValueError for a confidence outside 0 to 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is not valid; valid: between 0 and 1")
    if len(values) < 2:
        return float("nan"), float("nan")
    mean, std = mean_std(values)
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * std / math.sqrt(len(values))
    return mean - half, mean + half


def _cell(values: Sequence[float], confidence: float | None) -> str:
    mean, std = mean_std(values) if len(values) else (math.nan, math.nan)
    if math.isnan(mean):
        return "-"
    if len(values) == 1:
        return f"{mean:.3f}"
    interval = "" if confidence is None else " [{:.3f}, {:.3f}]".format(*t_interval(values, confidence))
    return f"{mean:.3f} +- {std:.3f}{interval}"

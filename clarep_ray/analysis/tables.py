"""Tables of mean and standard deviation over seeds, as markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SeedTable:
    """`values[row][column]` is one number per seed."""

    title: str
    columns: tuple[str, ...]
    values: Mapping[str, Mapping[str, Sequence[float]]]

    def markdown(self) -> str:
        """Return the table with mean +- standard deviation in every cell."""
        lines = [f"| {self.title} | {' | '.join(self.columns)} |", "|---" * (len(self.columns) + 1) + "|"]
        for row, cells in self.values.items():
            lines.append(f"| {row} | {' | '.join(_cell(cells[column]) for column in self.columns)} |")
        return "\n".join(lines)

    def csv(self) -> str:
        """Return one line per row, column and seed."""
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow(("row", "column", "seed", "value"))
        for row, cells in self.values.items():
            for column in self.columns:
                writer.writerows((row, column, seed, f"{value:.6g}") for seed, value in enumerate(cells[column]))
        return buffer.getvalue()


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (0 for a single value); NaN where a value is missing."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _cell(values: Sequence[float]) -> str:
    mean, std = mean_std(values)
    if math.isnan(mean):
        return "-"
    return f"{mean:.3f} +- {std:.3f}" if len(values) > 1 else f"{mean:.3f}"

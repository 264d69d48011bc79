"""Differences between methods that were run with the same seeds, and what a paired test says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from clarep_ray.analysis.tables import SeedTable
from clarep_ray.data.text_tables import markdown_table

ROUNDING = 1e-12
"""Differences that spread less than this, relative to their size, are equal."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Mean difference over seeds, its standard error, and p of the two-sided paired t-test.

    Where all differences are equal no test is possible: p is 1 for none, and 0 for one.
    """

    mean: float
    error: float
    p: float

    def __str__(self) -> str:
        if math.isnan(self.mean):  # a value is missing: no difference, and no p
            return "-"
        return f"{self.mean:+.3f} +- {self.error:.3f} (p {self.p:.3f})"


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> PairedDifference:
    """Return what values have over the reference, seed by seed; ValueError for fewer than two or unequal seeds."""
    differences = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    if len(values) != len(reference) or len(values) < 2:
        raise ValueError(f"seeds: {len(values)} and {len(reference)} make no pairs; valid: as many each, 2 or more")
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    if error <= ROUNDING * np.abs(differences).max(initial=0.0):
        return PairedDifference(mean=float(differences.mean()), error=0.0, p=float(differences[0] == 0))
    return PairedDifference(
        mean=float(differences.mean()), error=error, p=float(stats.ttest_rel(values, reference).pvalue)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for how many there are (Holm 1979), in their order; a NaN is no test and stays one."""
    order = [place for place in np.argsort(p_values) if not math.isnan(p_values[place])]
    corrected, largest = np.full(len(p_values), np.nan), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected.tolist()


def difference_table(table: SeedTable, reference: str) -> str:
    """Return markdown: what each row has over the reference row; p values are Holm's over the rows of a column."""
    rows = [row for row in table.values if row != reference]
    found: Mapping[str, list[PairedDifference]] = {
        column: [paired_difference(table.values[row][column], table.values[reference][column]) for row in rows]
        for column in table.columns
    }
    corrected = {column: holm([each.p for each in cells]) for column, cells in found.items()}
    lines: list[list[str]] = []
    for place, row in enumerate(rows):
        cells = [
            str(PairedDifference(mean=each.mean, error=each.error, p=corrected[column][place]))
            for column in table.columns
            for each in [found[column][place]]
        ]
        lines.append([row, *cells])
    return markdown_table((f"minus {reference}", *table.columns), lines)

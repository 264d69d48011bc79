"""Picture of a sweep: every metric over the varied field, or over the trials, with 95 % intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clarep_ray.analysis.figures import blank_figure, literal
from clarep_ray.analysis.tables import mean_std, t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clarep_ray.analysis.tables import SeedTable

PER_ROW = 3
MAX_LOG_RATIO = 8.0
"""Positive values that spread further are drawn on a logarithmic axis."""


def sweep_figure(table: SeedTable, points: Mapping[str, Mapping[str, Any]], best: str | None) -> Figure:
    """Return one panel per column of a table whose rows are the trials `points`, {row: {field: value}}.

    Where one field of numbers is varied in every trial, it is the axis and the other fields make the lines; otherwise
    the trials stand below each other. The best trial is red.
    """
    axis_field = _number_axis(points)
    if axis_field is None:
        return _titled(_dots(table, best))
    rows = -(-len(table.columns) // PER_ROW)
    figure, axes = blank_figure(rows, min(PER_ROW, len(table.columns)), width=11.0, height=2.9 * rows)
    for axis, column in zip(axes.flat, table.columns, strict=False):
        _curves(axis, table, column, points, axis_field, best)
    for axis in axes.flat[len(table.columns) :]:
        axis.set_axis_off()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=min(4, len(labels)))
    return _titled(figure)


def _titled(figure: Figure) -> Figure:
    figure.suptitle("mean over seeds, 95 % interval (cut at the frame); red: best", fontsize=8)
    return figure


def _number_axis(points: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the field with the most different numbers among those every trial has; None without two of them."""
    common = set[str].intersection(*(set(point) for point in points.values()))
    first = next(iter(points.values()))
    numbers = {
        name: len({point[name] for point in points.values()})
        for name in first
        if name in common and all(_is_number(point[name]) for point in points.values())
    }
    found = max(numbers, key=lambda name: numbers[name], default=None)
    return found if found is not None and numbers[found] > 1 else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _curves(
    axis: Axes,
    table: SeedTable,
    column: str,
    points: Mapping[str, Mapping[str, Any]],
    field: str,
    best: str | None,
) -> None:
    groups: dict[str, list[str]] = {}
    for row, point in points.items():
        others = {
            name: value for name, value in point.items() if name != field and not _moves_with(name, field, points)
        }
        label = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in others.items())
        groups.setdefault(label or "as configured", []).append(row)
    for number, (label, rows) in enumerate(groups.items()):
        chosen = sorted((row for row in rows if table.values[row][column]), key=lambda row: points[row][field])
        if not chosen:
            continue
        places = [points[row][field] for row in chosen]
        means, low, high = _means([table.values[row][column] for row in chosen])
        style = {
            "fmt": "o-",
            "color": f"C{number % 10}",
            "markersize": 3.5,
            "linewidth": 1.1,
            "capsize": 2,
            "elinewidth": 0.7,
        }
        axis.errorbar(places, means, yerr=[low, high], label=literal(label), **style)  # type: ignore[arg-type]
        if best in chosen:
            place = chosen.index(best)
            axis.plot(places[place], means[place], "o", color="C3", markersize=9, fillstyle="none", markeredgewidth=1.6)
    from matplotlib.ticker import MaxNLocator, NullLocator

    values = [point[field] for point in points.values()]
    if min(values) > 0 and max(values) / min(values) > MAX_LOG_RATIO:
        axis.set_xscale("log")
        axis.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))], minor=False)
        axis.xaxis.set_minor_locator(NullLocator())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.set(title=literal(column.replace("_", " ")), xlabel=literal(field))
    axis.set_ylim(*_limits(table, column))
    axis.tick_params(labelsize=8)


def _moves_with(name: str, field: str, points: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a field has one value for every value of another: it is then no line of its own."""
    if not all(name in point for point in points.values()):
        return False
    pairs = {(point[field], str(point[name])) for point in points.values()}
    return len(pairs) == len({point[field] for point in points.values()}) and len({pair[1] for pair in pairs}) > 1


def _means(cells: Sequence[Sequence[float]]) -> tuple[list[float], list[float], list[float]]:
    """Return means, and how far the 95 % intervals reach below and above; 0 for one seed."""
    means = [mean_std(values)[0] for values in cells]
    ends = [t_interval(values) for values in cells]
    reach = [0.0 if math.isnan(low) else mean - low for mean, (low, _) in zip(means, ends, strict=True)]
    return means, reach, reach


def _limits(table: SeedTable, column: str) -> tuple[float, float]:
    """Return an axis for what was measured: an interval of few seeds may reach beyond it, and is then cut."""
    values = [value for cells in table.values.values() for value in cells[column] if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.25 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _dots(table: SeedTable, best: str | None) -> Figure:
    rows = list(table.values)[::-1]
    figure, axes = blank_figure(
        1, len(table.columns), width=2.1 * len(table.columns) + 2.6, height=0.26 * len(rows) + 1.0
    )
    for axis, column in zip(axes[0], table.columns, strict=True):
        for place, row in enumerate(rows):
            values = table.values[row][column]
            if not values:
                continue
            colour = "C3" if row == best else "C0"
            (mean,), (low,), (high,) = _means([values])
            axis.errorbar(mean, place, xerr=[[low], [high]], fmt="o", color=colour, markersize=4.5, capsize=2)
            axis.plot(values, np.full(len(values), place), "|", color=colour, alpha=0.5, markersize=7)
        axis.set(title=literal(column.replace("_", " ")), yticks=[], ylim=(-0.6, len(rows) - 0.4))
        axis.set_xlim(*_limits(table, column))
        axis.grid(axis="x", alpha=0.25)
        axis.tick_params(labelsize=7)
    axes[0, 0].set_yticks(range(len(rows)), [literal(row) for row in rows], fontsize=7)
    return figure

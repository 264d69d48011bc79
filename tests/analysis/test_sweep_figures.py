"""What a sweep's picture shows: curves over a varied number, else the trials below each other."""

from typing import Any

import numpy as np
import pytest

from clarep_ray.analysis.sweep_figures import sweep_figure
from clarep_ray.analysis.tables import SeedTable, t_interval


def table(points: dict[str, dict[str, Any]]) -> SeedTable:
    cells = {row: {"nmi": [0.1 * i, 0.1 * i + 0.02], "kept": [1.0, 1.0]} for i, row in enumerate(points)}
    return SeedTable("trial", ("nmi", "kept"), cells)


def test_one_varied_number_is_the_axis_and_the_rest_are_lines() -> None:
    points = {f"{w} {mode}": {"w": w, "mode": mode} for mode in ("clarid", "none") for w in (1.0, 2.0, 6.0)}
    axes = sweep_figure(table(points), points, "2.0 none").axes
    assert [axis.get_title() for axis in axes] == ["nmi", "kept"]
    labels = axes[0].get_legend_handles_labels()[1]
    assert labels == ["mode clarid", "mode none"]
    lines = [line for line in axes[0].get_lines() if len(line.get_xdata()) == 3]
    assert np.allclose(lines[0].get_ydata(), [0.01, 0.11, 0.21])


def test_numbers_that_move_together_are_one_axis() -> None:
    points = {str(a): {"align": a, "separate": 0.2 - a} for a in (0.0, 0.1, 0.2)}
    axis = sweep_figure(table(points), points, None).axes[0]
    assert axis.get_xlabel() == "align"
    assert next(len(line.get_xdata()) for line in axis.get_lines()) == 3


def test_a_field_that_only_some_trials_have_makes_a_line_of_its_own() -> None:
    points = {"a": {"w": 1.0, "k": 1}, "b": {"w": 2.0, "k": 1}, "c": {"w": 3.0}}
    axis = sweep_figure(table(points), points, "c").axes[0]
    assert axis.get_xlabel() == "w"
    assert axis.get_legend_handles_labels()[1] == ["k 1", "as configured"]


def test_trials_without_a_common_number_stand_below_each_other() -> None:
    points = {"a": {"rule": "kneed", "m": 5}, "b": {"rule": "fixed", "k": 1}, "c": {"rule": "chord", "m": 5}}
    found = table(points)
    found.values["b"]["nmi"].clear()  # type: ignore[attr-defined]  # it failed
    axes = sweep_figure(found, points, "c").axes
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["c", "b", "a"]
    assert len(axes) == 2


def test_intervals_are_students() -> None:
    low, high = t_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert np.isnan(t_interval([1.0])).all()
    with pytest.raises(ValueError, match="confidence: 1"):
        t_interval([1.0, 2.0], 1)
    text = SeedTable("t", ("a",), {"x": {"a": [1.0, 2.0, 3.0]}, "y": {"a": []}, "z": {"a": [1.0]}}).markdown(0.95)
    assert "2.000 +- 1.000 [-0.484, 4.484]" in text
    assert "| y | - |" in text
    assert "| z | 1.000 |" in text

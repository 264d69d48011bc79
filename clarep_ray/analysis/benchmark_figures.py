"""Pictures of what benchmarks recorded: solvers against M, the limit of every stage, products in forward passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarep_ray.analysis.figures import blank_figure, save_figure
from clarep_ray.analysis.recorded_rows import read_rows
from clarep_ray.config import SOLVER_NAMES, PlotBenchmarkConfig
from clarep_ray.config.checks import require
from clarep_ray.measured import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
COLOURS = {"arithmetic": "C0", "memory": "C2", "dispatch": "C1", "zlib": "C7", "disk": "C7"}
STYLES = {name: {"color": f"C{number}", "marker": "osv^D<>P"[number]} for number, name in enumerate(SOLVER_NAMES)}
SMALL = 8


def run(config: PlotBenchmarkConfig) -> list[Table]:
    """Draw the last run of each kind in a file of rows, and return the pictures' names."""
    require(Path(config.rows).is_file(), "rows", config.rows, "a file that --record appended to")
    require(Path(config.output).is_dir(), "output", config.output, "a folder")
    recorded = read_rows(Path(config.rows))
    drawn: list[tuple[str, int, str]] = []
    for kind, (name, draw) in FIGURES.items():
        last = _last_runs([row for row in recorded if row["kind"] == kind])
        if last:
            target = save_figure(draw(last), Path(config.output), name)
            drawn.append((str(target), len(last), last[-1]["date"]))
    if not drawn:
        raise ValueError(f"rows: {config.rows!r} has no rows to draw; valid: of {', '.join(FIGURES)}")
    return [Table({"picture": "", "rows": "d", "measured": ""}, drawn)]


def _last_runs(rows: Rows) -> Rows:
    """Return the rows of the last run of each configuration."""
    last = {row["fingerprint"]: row["date"] for row in rows}
    return [row for row in rows if row["date"] == last[row["fingerprint"]]]


def _by_model(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows of each model, the shipped one first, each oldest first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["config"].get("model", "digits") != "digits", row["date"])):
        found.setdefault(_named(row["config"]), []).append(row["row"])
    return found


def _named(config: Mapping[str, Any]) -> str:
    """Return the model of a run; older runs say none, for there was the shipped one alone."""
    depth = config.get("depth")
    return config.get("model", "digits") + ("" if depth is None else f", depth {depth}")


def _solvers(rows: Rows) -> Figure:
    """Return products and wall time of one sample against M, for every model and every solver's last run."""
    models = _by_model(rows)
    figure, axes = blank_figure(len(models), 2, width=9.6, height=3.7 * len(models) + 0.9)
    panels = (("products", "products with $J^TJ$ per sample"), ("wall s", "wall time per sample [s]"))
    for line, (model, found) in zip(axes, models.items(), strict=True):
        windows = sorted({row["M"] for row in found})
        for axis, (column, label) in zip(line, panels, strict=True):
            for name in SOLVER_NAMES:
                points = {row["M"]: row[column] for row in found if row["solver"] == name}
                if points:
                    width = 2.4 if name == SOLVER_NAMES[0] else 1.2
                    drawn = sorted(points.items())
                    axis.plot(*zip(*drawn, strict=True), label=name, **STYLES[name], linewidth=width, markersize=5)
            axis.set(yscale="log", xlabel="window M [singular triplets]", ylabel=label, xticks=windows)
            axis.set_title(model, fontsize=10)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.grid(axis="y", which="both", alpha=0.25)
    handles, labels = max((line[0].get_legend_handles_labels() for line in axes), key=lambda both: len(both[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    return figure


def _stages(rows: Rows) -> Figure:
    """Return a panel for each configuration: how near to its limit every stage is, and its share of the batch."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault(row["fingerprint"], []).append(row)
    figure, axes = blank_figure(1, len(runs), width=5.6 * len(runs) + 0.8, height=4.4)
    for axis, found in zip(axes[0], runs.values(), strict=True):
        _draw_stages(axis, [row["row"] for row in found][:-1], found[0]["config"])
    return figure


def _draw_stages(axis: Axes, stages: Rows, config: Mapping[str, Any]) -> None:
    places = range(len(stages))[::-1]
    for place, stage in zip(places, stages, strict=True):
        share = 100 * stage["reached"]
        axis.barh(place, min(share, 100), color=COLOURS[stage["limit"]], height=0.7)
        text = f"{share:.0f} % of {stage['limit']}, {100 * stage['share of the batch']:.1f} % of the time"
        axis.text(min(share, 100) + 1.5, place, text, va="center", fontsize=SMALL)
    axis.set_yticks(list(places), [stage["stage"].replace("J^T", "$J^T$") for stage in stages], fontsize=SMALL)
    axis.set(xlim=(0, 205), xlabel="share of the limit reached [%]", xticks=range(0, 101, 20))
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"{_named(config)}, batch of {config['micro_batch']}", fontsize=10)


def _products(rows: Rows) -> Figure:
    """Return what one vector costs in forward passes, against the vectors of a call, for every model and batch size."""
    columns = ("JVP", "VJP", "J^T J", "J^T J, autograd")
    models = _by_model([row for row in rows if row["row"].keys() >= set(columns)])  # older rows have fewer
    figure, axes = blank_figure(len(models), len(columns), width=11.0, height=2.9 * len(models) + 0.3)
    for line, (model, found) in zip(axes, models.items(), strict=True):
        top = 1.08 * max(row[column] for row in found for column in columns)
        for axis, column in zip(line, columns, strict=True):
            for number, samples in enumerate(dict.fromkeys(row["samples"] for row in found)):
                points = {row["vectors"]: row[column] for row in found if row["samples"] == samples}
                drawn = sorted(points.items())
                axis.plot(*zip(*drawn, strict=True), marker="o", color=f"C{number}", label=f"batch of {samples}")
            axis.set(xlabel="vectors per call", ylim=(0, top), xticks=sorted({row["vectors"] for row in found}))
            axis.set_title(column.replace("J^T J", "$J^TJ$"), fontsize=10)
            axis.grid(axis="y", alpha=0.25)
        line[0].set_ylabel(f"{model}\ncost of a vector [forward passes]")
        line[0].legend(fontsize=SMALL, loc="upper right")
    return figure


FIGURES: dict[str, tuple[str, Callable[[Rows], Figure]]] = {
    "peers": ("peers.png", _solvers),
    "limits": ("limits.png", _stages),
    "products": ("products.png", _products),
}
"""Kind of benchmark: its picture."""

"""The toy's table over seeds and its scatter plot (Sec. 3.3, Fig. 5)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch

from clarep_ray.analysis.figures import save_figure
from clarep_ray.analysis.tables import SeedTable
from clarep_ray.clarid.toy import SEGMENTS, ToyModel, ToyOutcome, ToyPoints, draw_points, run_method, train_toy
from clarep_ray.config import ToyConfig
from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import write_inside
from clarep_ray.seeding import torch_generator

METHODS: tuple[tuple[str, str, float], ...] = (
    ("original", "-", 200.0),
    ("reconstruction", "-", 200.0),
    ("guidance", "-", 200.0),
    ("guidance", "-", 600.0),
    ("random", "-", 200.0),
    ("random_centred", "-", 200.0),
    ("clarid", "eps", 100.0),
    ("clarid", "eps", 200.0),
    ("clarid", "eps", 600.0),
    ("clarid", "first", 200.0),
    ("clarid", "first", 600.0),
    ("clarid", "second", 200.0),
    ("clarid", "second", 600.0),
    ("clarid_centred", "eps", 100.0),
    ("clarid_centred", "eps", 200.0),
    ("clarid_centred", "first", 200.0),
)
"""(method, Jacobian layer, projection time): the ones that work, their controls, and the ones that fail."""

SHOWN: tuple[tuple[str, str, float], ...] = (
    ("original", "-", 200.0),
    ("guidance", "-", 600.0),
    ("random_centred", "-", 200.0),
    ("clarid_centred", "eps", 100.0),
    ("clarid", "first", 600.0),
    ("clarid", "second", 600.0),
)


def run_toy(config: ToyConfig) -> SeedTable:
    """Train the models, run every method, write `toy.md`, `toy.csv` and `toy.png`; return the table."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    first: tuple[ToyModel, ToyPoints] | None = None
    for seed in range(config.seed, config.seed + config.num_models):
        model = train_toy(config, seed)
        labels = torch.ones(config.num_points, dtype=torch.long)
        points = draw_points(labels, config.height, torch_generator(seed, "toy", "points"))
        first = first or (model, points)
        start = run_method(model, points, *METHODS[0], config).distance
        for method, layer, t in METHODS:
            found = run_method(model, points, method, layer, t, config)
            cells = values[_name(method, layer, t)]
            cells["distance to core"].append(found.distance)
            cells["of original"].append(found.distance / start)
            cells["correlation with core"].append(found.correlation)
    table = SeedTable("method", ("distance to core", "of original", "correlation with core"), values)
    output = Path(config.output)
    make_folder(output)
    write_inside(output, "toy.md", f"{table.markdown()}\n".encode())
    write_inside(output, "toy.csv", table.csv().encode())
    if first is not None:
        _scatter(*first, config, output)
    return table


def _name(method: str, layer: str, t: float) -> str:
    if method == "original":
        return method
    return f"{method} t={t:g}" if layer == "-" else f"{method} {layer} t={t:g}"


def _scatter(model: ToyModel, points: ToyPoints, config: ToyConfig, output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), sharex=True, sharey=True, layout="constrained")
    for axis, (method, layer, t) in zip(axes.flat, SHOWN, strict=True):
        found: ToyOutcome = run_method(model, points, method, layer, t, config)
        axis.plot(SEGMENTS[1], [config.height] * 2, color="0.2", linewidth=4, alpha=0.35, solid_capstyle="butt")
        axis.scatter(*found.points.T, s=8, c=points.core[:, 0], cmap="viridis", linewidths=0)
        axis.set_title(
            f"{_name(method, layer, t)}\ndistance {found.distance:.3f}, corr {found.correlation:.2f}", size=9
        )
        axis.set_aspect("equal")
        axis.set_xlim(-0.5, 3.5)
        axis.set_ylim(config.height - 1.1, config.height + 1.1)
    figure.suptitle("Class 1 of the toy process; grey: its core segment; colour: true place on the core", size=10)
    save_figure(figure, output, "toy.png")
    pyplot.close(figure)

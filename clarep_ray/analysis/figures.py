"""Pictures of an extraction: contact sheet, explained variance with the elbow, histogram of k, controls."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.analysis.tables import SeedTable, mean_std
from clarep_ray.data.class_list import MAX_SHOWN, display_name
from clarep_ray.data.derived import FIGURES
from clarep_ray.data.inside import write_inside
from clarep_ray.data.records import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN_TITLES = {
    "": "canonical",
    "input": "input",
    "original": "original",
    "reconstruction": "reconstr.",
    "guidance": "guidance",
}
SHEET_COLUMNS = ("input", "original", "reconstruction", "guidance", "")
MAX_CLASSES, SAMPLES_PER_CLASS, CURVES = 20, 4, 40


def write_figures(output: ExtractionOutput) -> list[Path]:
    """Write the figures into the output folder and return their paths; without pictures or spectra, fewer of them."""
    sheet, curves, histogram = FIGURES
    made = {sheet: contact_sheet} if output.picture_names else {}
    made |= {curves: evr_curves, histogram: k_histogram} if output.has_spectrum else {}
    paths: list[Path] = []
    for name, figure in made.items():
        paths.append(save_figure(figure(output), output.folder, name))
    return paths


def save_figure(figure: Figure, root: Path, name: str) -> Path:
    """Write a figure as PNG into a folder, whole or not at all and through no link; return its path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_inside(root, name, buffer.getvalue())
    return root / name


def contact_sheet(output: ExtractionOutput) -> Figure:
    """Return input | original | reconstruction | guidance only | canonical, those that were kept, by class."""
    columns = [name for name in SHEET_COLUMNS if name in output.picture_names]
    titles = COLUMN_TITLES | ({} if output.what == "canonical" else {"": output.what})
    pictures = {name: output.pictures(name) for name in columns}
    classes = np.unique(output.labels)[:MAX_CLASSES]
    names = {int(s.members["cls"]): s.record["class_name"] for s in output.samples}
    shown = [literal(display_name(names[int(label)])) for label in classes]
    groups = [_first_of(output.labels, label) for label in classes]
    most = int(
        np.median([len(chosen) for chosen in groups])
    )  # most rows are full; where a class has fewer, it is white
    width = 1.05 * len(columns) * most + 0.2 + text_width(shown, 9)
    figure, axes = blank_figure(len(classes), most, width=width, height=1.12 * len(classes))
    for row, chosen in zip(axes, groups, strict=True):
        for axis, index in zip(row, chosen, strict=False):
            axis.imshow(_strip([pictures[name][index] for name in columns]), interpolation="nearest")
            if output.has_spectrum:
                axis.set_xlabel(f"k = {output.samples[index].record['num_removed']}", size=6, labelpad=1)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for row, name in zip(axes, shown, strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", size=9)
    for axis in axes[0]:
        axis.set_title("  |  ".join(titles[name] for name in columns), size=7)
    return figure


def evr_curves(output: ExtractionOutput) -> Figure:
    """Return explained-variance ratios of a spread of samples, each with its elbow."""
    figure, axes = blank_figure(1, 1, width=7.0, height=4.2)
    axis = axes[0, 0]
    stride = max(1, len(output.samples) // CURVES)
    for sample in output.samples[::stride][:CURVES]:
        squares = np.square(sample.record["singular_values"])
        ratios = squares / squares.sum()
        k = sample.record["num_removed"]
        axis.plot(np.arange(1, len(ratios) + 1), ratios, color="C0", alpha=0.3, linewidth=0.9)
        hollow = {"markerfacecolor": "white"} if sample.record["ambiguous"] else {}
        axis.plot(k, ratios[k - 1], "o", color="C3", markersize=4, **hollow)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="rank i", ylabel="explained-variance ratio", title="Spectra and elbows (hollow: ambiguous)")
    axis.set_ylim(bottom=0)
    return figure


def k_histogram(output: ExtractionOutput) -> Figure:
    """Return how many samples have which k."""
    removed = output.index["num_removed"].to_numpy()
    figure, axes = blank_figure(1, 1, width=7.0, height=3.6)
    axis = axes[0, 0]
    axis.hist(removed, bins=np.arange(0.5, removed.max() + 1.5), color="C0", edgecolor="white", linewidth=0.5)
    axis.axvline(float(np.median(removed)), color="C3", linestyle="--", label=f"median {np.median(removed):.0f}")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="k, number of removed directions", ylabel="samples", title=f"k of {len(removed)} samples")
    axis.legend()
    return figure


def control_bars(table: SeedTable) -> Figure:
    """Return one panel per column of a controls table: mean and standard deviation of every row."""
    rows = list(table.values)[::-1]
    figure, axes = blank_figure(
        1, len(table.columns), width=2.2 * len(table.columns) + 1.4, height=0.24 * len(rows) + 0.9
    )
    for axis, column in zip(axes[0], table.columns, strict=True):
        pairs = [mean_std(cells) if (cells := table.values[row][column]) else (np.nan, 0.0) for row in rows]
        colours = ["C3" if row.startswith("clarid") else "C7" if row == "original" else "C0" for row in rows]
        means, deviations = zip(*pairs, strict=True)
        axis.barh(range(len(rows)), means, xerr=deviations, color=colours, height=0.7, error_kw={"linewidth": 0.8})
        # The same limits everywhere: a panel that lacks its first rows would move the others up.
        axis.set(xlim=(0, 1), ylim=(-0.6, len(rows) - 0.4), title=column.replace("_", " "), yticks=[])
        axis.tick_params(labelsize=7)
    axes[0, 0].set_yticks(range(len(rows)), [literal(row) for row in rows], fontsize=7)
    return figure


def blank_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, NDArray[Any]]:
    """Return a figure of the given size in inches and its axes, always as (rows, columns)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes: NDArray[Any] = figure.subplots(rows, columns, squeeze=False)
    return figure, axes


def literal(name: str) -> str:
    """Return a name as matplotlib is to write it: on one line, short, and as it is.

    What stands between two `$` would be a formula, and what begins with `_` would be missing from a legend.
    """
    text = printable(name)
    short = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}\u2026"
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")


def text_width(names: Sequence[str], size: float) -> float:
    """Return about how wide the longest of some names is [inch] at a font size [pt]."""
    return max(map(len, names), default=0) * 0.65 * size / 72


def _first_of(labels: NDArray[np.int64], label: int) -> list[int]:
    return [int(index) for index in np.flatnonzero(labels == label)[:SAMPLES_PER_CLASS]]


def _strip(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return pictures side by side with a white line between them."""
    line = np.full((pictures[0].shape[0], max(1, pictures[0].shape[1] // 16), 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, line)][:-1]
    return np.concatenate(parts, axis=1)

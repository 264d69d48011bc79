"""Pictures of a calibration: accuracy against t_e, NMI heat maps, window sweep, and sheets to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clarep_ray.analysis.calibration import Saturation
from clarep_ray.analysis.calibration_findings import FeatureMap, Score
from clarep_ray.analysis.figures import blank_figure, literal, text_width
from clarep_ray.data.class_list import display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHEET_ROWS = 10


def saturation_curve(found: Saturation, names: Sequence[str], originals: float) -> Figure:
    """Return accuracy of two-stage samples against t_e, the level that counts as saturated, and t_e (App. H.1).

    `originals` is what the classifiers read in real images: more cannot be expected of samples.
    """
    figure, axes = blank_figure(1, 1, width=7.0, height=4.2)
    axis = axes[0, 0]
    if len(names) > 1:
        for name, row in zip(names, found.accuracy.T, strict=True):
            axis.plot(found.times, row, color="C7", linewidth=0.8, alpha=0.8, label=literal(name))
    axis.errorbar(found.times, found.mean, found.error, fmt="o-", color="C0", markersize=4, capsize=2, label="mean")
    axis.plot(found.times, found.fitted, color="C1", linewidth=1.0, linestyle=":", label="monotone fit")
    axis.axhline(originals, color="C2", linewidth=0.8, linestyle="-.", label="in the originals")
    axis.axhline(found.target, color="C3", linewidth=0.8, linestyle="--", label="saturated")
    if found.risen:
        axis.axvspan(*found.interval, color="C3", alpha=0.12, label="90 % when drawn again")
        axis.axvline(found.project_t, color="C3", label=f"t_e = {found.project_t:g}")
    axis.set(xlabel="t_e: the class is unknown above, known below", ylabel="class read by the classifiers")
    axis.set(ylim=(0, 1.02), title="Two-stage sampling")
    axis.legend(fontsize=8, loc="lower right")
    return figure


def feature_heat_maps(scores: FeatureMap, chosen: tuple[str, float], pictures: str) -> Figure:
    """Return NMI for every feature layer and timestep, one map per reading (App. G.1)."""
    layers = list(dict.fromkeys(layer for layer, _, _ in scores))
    times = sorted({t for _, t, _ in scores})
    readings = list(dict.fromkeys(reading for _, _, reading in scores))
    figure, axes = blank_figure(
        1, len(readings), width=(0.62 * len(times) + 1.6) * len(readings) + 0.6, height=0.42 * len(layers) + 1.4
    )
    for axis, reading in zip(axes[0], readings, strict=True):
        at = {(layer, t): scores[layer, t, reading] for layer in layers for t in times}
        cells = np.array([[(at[layer, t].mean, at[layer, t].std) for t in times] for layer in layers])
        _heat_map(axis, cells, layers, times, chosen)
        chance = np.mean([nmi.mean_chance for nmi in at.values() if np.isfinite(nmi.mean_chance)] or [np.nan])
        how = {"label": "with the label, which may explain it", "null": "without the label"}[reading]
        axis.set(xlabel="feature timestep t_f", title=f"NMI of {pictures}\n{how}; chance {chance:.2f}")
        axis.title.set_size(8)
    return figure


def interaction_maps(scores: Sequence[Score], here: tuple[str, float], reading: str) -> Figure:
    """Return NMI of Canonical Features over Jacobian layer and t_e, one map per way to choose k, on one scale."""
    layers = list(dict.fromkeys(score.layer for score in scores))
    times = sorted({score.t for score in scores})
    at = {(score.layer, score.t, score.variant): score.nmi[reading] for score in scores}
    everywhere = [{name for layer, t, name in at if (layer, t) == cell} for cell in {key[:2] for key in at}]
    shared = set[str].intersection(*everywhere) - {"original"}
    variants = [variant for variant in dict.fromkeys(score.variant for score in scores) if variant in shared]
    figure, axes = blank_figure(
        1, len(variants), width=(0.75 * len(times) + 1.5) * len(variants) + 0.8, height=0.55 * len(layers) + 1.5
    )
    means = [at[layer, t, name].mean for layer, t, name in at if name in shared]
    nothing = (np.nan, np.nan)
    for axis, variant in zip(axes[0], variants, strict=True):
        found = {cell[:2]: (nmi.mean, nmi.std) for cell, nmi in at.items() if cell[2] == variant}
        cells = np.array([[found.get((layer, t), nothing) for t in times] for layer in layers])
        _heat_map(axis, cells, layers, times, here, limits=_limits(means))
        axis.set(xlabel="projection timestep t_e", title=_title(variant))
        axis.title.set_size(9)
    before = next(score.nmi[reading] for score in scores if score.variant == "original")
    figure.suptitle(f"NMI of Canonical Features (originals {before.mean:.2f}, chance {before.mean_chance:.2f})", size=9)
    return figure


def window_curves(scores: Mapping[str, Score], window: int, *, chosen: bool) -> Figure:
    """Return NMI and class accuracy of Canonical Samples against the window M, and against a fixed k (App. H.2).

    `window` is the M that was chosen or, where the rule chose none, kept.
    """
    figure, axes = blank_figure(1, 2, width=11.0, height=4.0)
    before = scores["original"]
    for axis, letter in zip(axes[0], "Mk", strict=True):
        shown = sorted((int(name[2:]), score) for name, score in scores.items() if name.startswith(f"{letter}="))
        numbers = [number for number, _ in shown]
        for colour, reading in zip(("C0", "C2"), before.nmi, strict=False):
            drawn = [score.nmi[reading] for _, score in shown]
            label = {"label": "NMI, read with the label (which may explain it)", "null": "NMI, read without the label"}[
                reading
            ]
            bars = [nmi.std for nmi in drawn]
            axis.errorbar(
                numbers, [nmi.mean for nmi in drawn], bars, fmt="o-", color=colour, capsize=2, markersize=4, label=label
            )
            axis.axhline(before.nmi[reading].mean, color=colour, linestyle=":", linewidth=0.9)
        chance = next(iter(before.nmi.values())).mean_chance
        axis.axhline(chance, color="C7", linewidth=0.8, label="NMI by chance")
        if not np.isnan(before.accuracy):
            read = [score.accuracy for _, score in shown]
            axis.plot(numbers, read, "s--", color="C1", markersize=4, label="class read")
            axis.axhline(before.accuracy, color="C1", linestyle=":", linewidth=0.9)
        axis.set(ylim=(0, 1.02), xscale="log", xticks=numbers, xticklabels=[str(number) for number in numbers])
        axis.minorticks_off()
        for number, score in shown if letter == "M" else []:
            axis.annotate(f"k {score.mean_k:.1f}", (number, 0.02), ha="center", fontsize=7, color="C7")
    axes[0, 0].axvline(window, color="C3", linewidth=0.9)
    outcome = "is chosen" if chosen else "stays, for the rule chose none"
    axes[0, 0].set(xlabel=f"window M, its mean k below; M = {window} {outcome}", title="Adaptive k")
    axes[0, 1].set(xlabel="k (dotted: originals)", title="The same k for every sample")
    axes[0, 1].legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def picture_sheet(
    arrays: Mapping[str, NDArray[Any]], columns: Mapping[str, str], class_names: Sequence[str]
) -> Figure | None:
    """Return pictures side by side: one row per sample, one column per title of `columns` (title -> array).

    None where there are no such arrays.
    """
    if not {"labels", *columns.values()} <= arrays.keys():
        return None
    labels = arrays["labels"][:SHEET_ROWS]
    names = [literal(display_name(class_names[int(label)])) for label in labels]
    width = 0.95 * len(columns) + 0.3 + text_width(names, 8)
    figure, axes = blank_figure(len(labels), len(columns), width=width, height=0.95 * len(labels) + 0.4)
    for column, (title, name) in enumerate(columns.items()):
        axes[0, column].set_title(title, size=8)
        for row in range(len(labels)):
            axes[row, column].imshow(arrays[name][row], interpolation="nearest")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", size=8)
    return figure


def _heat_map(
    axis: Axes,
    cells: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[float],
    chosen: tuple[str, float],
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw means (rows, columns, 0) as colours and write mean and deviation (.., 1) into every cell that has them."""
    means = cells[..., 0]
    low, high = limits or _limits(means.ravel().tolist())
    axis.imshow(means, aspect="auto", cmap="viridis", vmin=low, vmax=high)
    for (i, j), mean in np.ndenumerate(means):
        if not np.isnan(mean):
            colour = "black" if mean > (low + high) / 2 else "white"
            axis.text(j, i, f"{mean:.2f}\n±{cells[i, j, 1]:.2f}", ha="center", va="center", size=6, color=colour)
    if chosen[0] in rows and chosen[1] in columns:
        from matplotlib.patches import Rectangle

        corner = (list(columns).index(chosen[1]) - 0.5, list(rows).index(chosen[0]) - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="C3", linewidth=2))
    axis.set_xticks(range(len(columns)), [f"{column:.4g}" for column in columns], fontsize=7)
    axis.set_yticks(range(len(rows)), [literal(row) for row in rows], fontsize=7)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a colour scale: of the values that are numbers, 0 and 1 where none is."""
    known = [value for value in values if np.isfinite(value)]
    return min(known, default=0.0), max(known, default=1.0)


def _title(variant: str) -> str:
    kind, _, number = variant.partition("=")
    return {"M": f"adaptive k, M = {number}", "k": f"k = {number}"}.get(kind, variant)

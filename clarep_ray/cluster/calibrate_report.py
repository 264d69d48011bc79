"""Run a calibration in its order, choose by the rules, and write what was found."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clarep_ray import dotted, tracking
from clarep_ray.analysis import calibration_figures as figures
from clarep_ray.analysis.calibration import Saturation, best_feature, best_window, compare, find_saturation
from clarep_ray.analysis.tables import mean_std
from clarep_ray.clarid.calibration import nearest_time, neighbour_times, spread_times
from clarep_ray.cluster import calibrate as work
from clarep_ray.cluster.calibrate import FEATURES, TWO_STAGE, Session
from clarep_ray.config import CalibrateConfig
from clarep_ray.data.calibration_file import CALIBRATION, write_calibration
from clarep_ray.data.parts import LABELS
from clarep_ray.data.store import OutputStore
from clarep_ray.models.classifiers import classifier_name

SPAN = 0.2
"""How far below and above t_e the interaction looks, as a share of the sampling grid: 200 of 1000 timesteps."""


@dataclass(frozen=True)
class Score:
    """One variant of one cell of the interaction, or of the window sweep."""

    layer: str
    t: float
    variant: str
    """`original`, `M=20` (adaptive k in that window) or `k=5`."""
    nmi: dict[str, list[float]]
    """reading (label, null) -> NMI of every class draw."""
    accuracy: float
    """The classifiers' mean accuracy on its pictures."""
    mean_k: float


@dataclass
class Findings:
    """Everything a calibration found, and the settings that follow."""

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    saturation: Saturation | None = None
    feature_map: dict[tuple[str, float, str], list[float]] = field(default_factory=dict)
    scores: list[Score] = field(default_factory=list)


def run_calibration(config: CalibrateConfig, preset: str, say: Callable[[str], None] = print) -> Findings:
    """Calibrate, or continue an interrupted calibration; write and return what was found.

    The output folder receives `calibration.json` (what `extract.py --calibration` takes), a CSV and a picture of
    every curve, and `calibration.md`.
    """
    session = work.open_session(config)
    config = session.config
    kept = ("inversion.num_steps", "inversion.project_t", "spectrum.layer", "spectrum.num_directions")
    names = (*kept, "features.layer", "features.feature_t")
    flat = dotted.flatten(config)
    findings = Findings({name: flat[name] for name in names})
    _first_phase(session, findings, say)
    if {"window", "interaction"} & set(config.parts):
        _second_phase(session, findings, say)
    made = _write(session, findings)
    uri = tracking.log_run(
        config.tracking,
        f"calibrate {preset}",
        Path(config.output),
        params=flat,
        metrics=_metrics(findings),
        tags={"job": "calibrate", "preset": preset, "fingerprint": session.plan.fingerprint},
        artifacts=made,
    )
    say(_epilogue(session, findings, preset, uri))
    return findings


def _first_phase(session: Session, findings: Findings, say: Callable[[str], None]) -> None:
    """Find t_e on samples from noise, layer l_f and timestep t_f on the original images."""
    config, items = session.config, list[work.Item]()
    grid = session.sampling_grid
    switches = tuple(sorted(config.saturation.times)) or spread_times(grid, config.saturation.num_times)
    times = work.feature_times(session)
    if "saturation" in config.parts:
        items += work.two_stage_items(session, switches)
    if "features" in config.parts:
        items += work.feature_items(session, times)
    work.run_items(session, items, say)
    if "saturation" in config.parts:
        _choose_time(session, findings, switches)
    if "features" in config.parts:
        columns = [
            (FEATURES, f"{layer}/{t:g}/{reading}")
            for layer in session.layers
            for t in times
            for reading in session.readings
        ]
        scores = work.score_columns(session, columns)
        for _, name in columns:
            layer, t, reading = name.rsplit("/", 2)
            findings.feature_map[layer, float(t), reading] = scores[FEATURES, name]
        reading = session.readings[-1]
        layer, t = best_feature({cell[:2]: nmi for cell, nmi in findings.feature_map.items() if cell[2] == reading})
        findings.settings |= {"features.layer": layer, "features.feature_t": t}


def _choose_time(session: Session, findings: Findings, switches: tuple[float, ...]) -> None:
    config, parts = session.config, session.context.parts
    labels = parts.column(TWO_STAGE, LABELS)
    hits = np.stack([parts.column(TWO_STAGE, f"{t:g}/read") == labels[:, None] for t in switches], 1)
    found = find_saturation(switches, hits, config.saturation.level, config.seed)
    findings.saturation = found
    if not found.risen:
        findings.notes.append(
            "the accuracy of two-stage samples does not rise with t_e: the model's samples do not show their class; "
            f"t_e stays at {config.inversion.project_t:g}"
        )
        return
    findings.settings["inversion.project_t"] = nearest_time(session.grid, found.project_t)


def _second_phase(session: Session, findings: Findings, say: Callable[[str], None]) -> None:
    """Sweep windows and fixed k at t_e, and layers, times and k around it."""
    config, settings = session.config, findings.settings
    here = (settings["spectrum.layer"], settings["inversion.project_t"])
    cells = [here]
    if "interaction" in config.parts:
        times = config.interaction.times or neighbour_times(session.grid, here[1], SPAN)
        layers = config.interaction.layers or (here[0],)
        cells += [(layer, t) for layer in layers for t in times if (layer, t) != here]
    usual, fixed = config.spectrum.num_directions, config.interaction.fixed
    plans: dict[str, tuple[str, float, list[int], list[int]]] = {}
    for layer, t in cells:
        windows, ranks = {usual}, {fixed}
        if (layer, t) == here and "window" in config.parts:
            windows, ranks = windows | set(config.window.windows), ranks | set(config.window.fixed)
        plans[f"cell-{layer}-{t:g}"] = (layer, t, sorted(windows), sorted(ranks))
    feature = {"feature_layer": settings["features.layer"], "feature_t": settings["features.feature_t"]}
    items: list[work.Item] = []
    for group, (layer, t, windows, ranks) in plans.items():
        cell = {"layer": layer, "t": t, "windows": windows, "fixed": ranks} | feature
        items += work.cell_items(session, group, cell)
    work.run_items(session, items, say)
    findings.scores += _score_cells(session, plans)
    if "window" in config.parts:
        _choose_window(session, findings, here)


def _score_cells(session: Session, plans: dict[str, tuple[str, float, list[int], list[int]]]) -> list[Score]:
    variants = {
        group: ["original", *(f"M={m}" for m in windows), *(f"k={k}" for k in ranks)]
        for group, (_, _, windows, ranks) in plans.items()
    }
    columns = [
        (group, f"{variant}/{reading}")
        for group, names in variants.items()
        for variant in names
        for reading in session.readings
    ]
    nmi = work.score_columns(session, columns)
    parts = session.context.parts
    scores: list[Score] = []
    for group, names in variants.items():
        good = parts.column(group, "ok")
        labels = parts.column(group, LABELS)[good]
        for variant in names:
            read = parts.column(group, f"{variant}/read")[good]
            removed = np.zeros(1) if variant == "original" else parts.column(group, f"{variant}/k")[good]
            scores.append(
                Score(
                    layer=plans[group][0],
                    t=plans[group][1],
                    variant=variant,
                    nmi={reading: nmi[group, f"{variant}/{reading}"] for reading in session.readings},
                    accuracy=float((read == labels[:, None]).mean()) if read.size else float("nan"),
                    mean_k=float(removed.mean()),
                )
            )
    return scores


def _choose_window(session: Session, findings: Findings, here: tuple[str, float]) -> None:
    config, reading = session.config, session.readings[-1]
    at = {score.variant: score for score in findings.scores if (score.layer, score.t) == here}
    windows = {m: at[f"M={m}"] for m in {*config.window.windows, config.spectrum.num_directions}}
    accuracy = {m: score.accuracy if config.classifiers else 1.0 for m, score in windows.items()}
    least = at["original"].accuracy - config.window.max_class_loss if config.classifiers else 0.0
    chosen = best_window({m: score.nmi[reading] for m, score in windows.items()}, accuracy, least)
    if chosen is None:
        findings.notes.append(
            f"every window costs more than {config.window.max_class_loss:g} of the classifiers' accuracy; M stays at "
            f"{config.spectrum.num_directions}"
        )
        return
    findings.settings["spectrum.num_directions"] = chosen


def _write(session: Session, findings: Findings) -> list[Path]:
    """Write JSON, CSV, pictures and the page of text; return their paths."""
    store, root = OutputStore(Path(session.config.output)), Path(session.config.output)
    tables = _tables(session, findings)
    made: list[Path] = []
    for name, rows in tables.items():
        store.write_root(f"{name}.csv", _csv(rows))
        made.append(root / f"{name}.csv")
    for name, figure in _figures(session, findings).items():
        figure.savefig(root / f"{name}.png", dpi=130)
        made.append(root / f"{name}.png")
    store.write_root("calibration.md", (_text(session, findings) + "\n").encode())
    write_calibration(
        store,
        settings=findings.settings,
        model=session.config.model.name,
        weights_sha256=session.plan.fields["weights_sha256"],
        fingerprint=session.plan.fingerprint,
        notes=findings.notes,
        tables=tables,
    )
    return [*made, root / "calibration.md", root / CALIBRATION]


def _figures(session: Session, findings: Findings) -> dict[str, Any]:
    parts, made = session.context.parts, dict[str, Any]()
    names = [classifier_name(name) for name in session.config.classifiers]
    chosen = findings.settings
    if findings.saturation is not None:
        made["saturation"] = figures.saturation_curve(findings.saturation, names)
        shown = {f"t_e = {t:g}": f"{t:g}/pictures" for t in findings.saturation.times}
        made["saturation_pictures"] = figures.picture_sheet(parts.first(TWO_STAGE), shown, session.class_names)
    if findings.feature_map:
        cell = (chosen["features.layer"], chosen["features.feature_t"])
        made["feature_map"] = figures.feature_heat_maps(findings.feature_map, cell)
    here = (chosen["spectrum.layer"], chosen["inversion.project_t"])
    scores = {score.variant: score for score in findings.scores if (score.layer, score.t) == here}
    if "window" in session.config.parts:
        made["window"] = figures.window_curves(scores, chosen["spectrum.num_directions"])
        shown = {variant: f"{variant}/pictures" for variant in scores}
        first = parts.first(f"cell-{here[0]}-{here[1]:g}")
        made["window_pictures"] = figures.picture_sheet(first, shown, session.class_names)
    if "interaction" in session.config.parts:
        made["interaction"] = figures.interaction_maps(findings.scores, here, session.readings[-1])
        made["interaction_pictures"] = _time_pictures(session, findings, here[0])
    return made


def _time_pictures(session: Session, findings: Findings, layer: str) -> Any:
    """Return original and Canonical Samples of the same images for every t_e of one layer."""
    variant, arrays, shown = f"M={session.config.spectrum.num_directions}", dict[str, Any](), dict[str, str]()
    for t in sorted({score.t for score in findings.scores if score.layer == layer}):
        first = session.context.parts.first(f"cell-{layer}-{t:g}")
        arrays |= {LABELS: first[LABELS], "original/pictures": first["original/pictures"]}
        arrays[f"{t:g}/pictures"] = first[f"{variant}/pictures"]
        shown |= {"original": "original/pictures", f"t_e = {t:g}": f"{t:g}/pictures"}
    return figures.picture_sheet(arrays, shown, session.class_names)


def _tables(session: Session, findings: Findings) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every curve, as the CSV files and calibration.json have them."""
    tables: dict[str, list[dict[str, Any]]] = {}
    found = findings.saturation
    if found is not None:
        names = [classifier_name(name) for name in session.config.classifiers]
        tables["saturation"] = [
            {"project_t": t}
            | {f"accuracy {name}": round(float(value), 6) for name, value in zip(names, row, strict=True)}
            | {"accuracy": round(float(found.mean[i]), 6), "standard_error": round(float(found.error[i]), 6)}
            | {"isotonic": round(float(found.fitted[i]), 6)}
            for i, (t, row) in enumerate(zip(found.times, found.accuracy, strict=True))
        ]
    if findings.feature_map:
        tables["feature_map"] = [
            {"layer": layer, "feature_t": t, "reading": reading, **_spread("nmi", nmi)}
            for (layer, t, reading), nmi in findings.feature_map.items()
        ]
    if findings.scores:
        tables["projection"] = [
            {"layer": score.layer, "project_t": score.t, "variant": score.variant}
            | {
                name: value
                for reading, nmi in score.nmi.items()
                for name, value in _spread(f"nmi_{reading}", nmi).items()
            }
            | {"accuracy": round(score.accuracy, 6), "mean_k": round(score.mean_k, 4)}
            for score in findings.scores
        ]
    return tables


def _spread(name: str, values: list[float]) -> dict[str, float]:
    mean, deviation = mean_std(values)
    return {f"{name}_mean": round(mean, 6), f"{name}_std": round(deviation, 6)}


def _csv(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _metrics(findings: Findings) -> dict[str, float]:
    found: dict[str, float] = {
        name: float(value) for name, value in findings.settings.items() if isinstance(value, int | float)
    }
    for (layer, t, reading), nmi in findings.feature_map.items():
        found[f"feature_nmi/{reading}/{layer}/{t:g}"] = mean_std(nmi)[0]
    for score in findings.scores:
        for reading, nmi in score.nmi.items():
            found[f"projection_nmi/{reading}/{score.layer}/{score.t:g}/{score.variant}"] = mean_std(nmi)[0]
    return found


def time_verdict(findings: Findings, window: int, reading: str) -> str:
    """Say how the NMI at t_e compares with that of the times below and above, whatever the outcome."""
    layer, t_e = findings.settings["spectrum.layer"], findings.settings["inversion.project_t"]
    same = {s.t: s for s in findings.scores if (s.layer, s.variant) == (layer, f"M={window}")}
    if t_e not in same or len(same) < 2:
        return ""
    here, parts = same[t_e], list[str]()
    for t, there in sorted(same.items()):
        if t != t_e:
            mean, deviation = compare(here.nmi[reading], there.nmi[reading])
            parts.append(f"{mean:+.3f} ± {deviation:.3f} against t_e = {t:g}")
    means = {t: mean_std(score.nmi[reading])[0] for t, score in same.items()}
    best = max(means, key=lambda t: means[t])
    outcome = "the best of them" if best == t_e else f"not the best: t_e = {best:g} is"
    return f"NMI at t_e = {t_e:g} is {means[t_e]:.3f}, {outcome} ({'; '.join(parts)})"


def _text(session: Session, findings: Findings) -> str:
    """Return the page that says what was chosen, by which rule, from what."""
    config, chosen = session.config, findings.settings
    lines = [f"# Calibration of {config.model.name}, {len(session.rows)} images, {len(session.draws)} class draws", ""]
    found = findings.saturation
    if found is not None and found.risen:
        lines.append(
            f"* t_e = {chosen['inversion.project_t']:g}: the first time at which the accuracy of two-stage samples has "
            f"made {config.saturation.level:.0%} of its rise from {found.fitted[0]:.3f} to {found.fitted[-1]:.3f} "
            f"(drawn again, 90 % of t_e lie in {found.interval[0]:g} to {found.interval[1]:g})"
        )
    if findings.feature_map:
        layer, t = chosen["features.layer"], chosen["features.feature_t"]
        reading = session.readings[-1]
        mean, deviation = mean_std(findings.feature_map[layer, t, reading])
        lines.append(
            f"* features at {layer}, t_f = {t:g}: highest NMI of the originals, {mean:.3f} ± {deviation:.3f}, read "
            + ("without the label" if reading == "null" else "with the label, for want of an unconditional branch")
        )
    if "window" in config.parts:
        lines.append(
            f"* M = {chosen['spectrum.num_directions']}: highest NMI of Canonical Features among the windows that cost "
            f"at most {config.window.max_class_loss:g} of class accuracy"
        )
    verdict = time_verdict(findings, config.spectrum.num_directions, session.readings[-1])
    lines += [f"* {line}" for line in (verdict, *findings.notes) if line]
    if findings.scores:
        lines += ["", *_score_table(session, findings)]
    return "\n".join(lines)


def _score_table(session: Session, findings: Findings) -> list[str]:
    readings = session.readings
    titles = ["layer", "t_e", "variant", *(f"NMI, {reading}" for reading in readings), "class read", "mean k"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for score in findings.scores:
        nmi = ["{:.3f} ± {:.3f}".format(*mean_std(score.nmi[reading])) for reading in readings]
        cells = [score.layer, f"{score.t:g}", score.variant, *nmi, f"{score.accuracy:.3f}", f"{score.mean_k:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _epilogue(session: Session, findings: Findings, preset: str, uri: str | None) -> str:
    root = session.config.output
    pictures = ", ".join(sorted(path.name for path in Path(root).glob("*.png")))
    lines = ["", _text(session, findings), "", f"look at      {root}: {pictures}"]
    lines.append(f"use it       uv run jobs/extract.py --preset {preset} --calibration {root}/{CALIBRATION}")
    if uri:
        lines.append(f"browse       uv run mlflow ui --backend-store-uri {uri}")
    return "\n".join(lines)

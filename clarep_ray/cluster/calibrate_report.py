"""Run a calibration in its order, choose by the rules, and write what was found."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clarep_ray import dotted
from clarep_ray.analysis.calibration import best_feature, best_window, find_saturation, score_judge
from clarep_ray.analysis.calibration_findings import LABEL_EXPLAINS, FeatureMap, Findings, Score, as_csv
from clarep_ray.analysis.figures import save_figure
from clarep_ray.clarid.calibration import nearest_time, neighbour_times, spread_times
from clarep_ray.cluster import calibrate as work
from clarep_ray.cluster.calibrate import Session
from clarep_ray.cluster.calibrate_figures import calibration_figures
from clarep_ray.cluster.calibrate_pieces import FEATURES, JUDGED, TWO_STAGE
from clarep_ray.cluster.calibrate_scores import score_columns
from clarep_ray.cluster.health import health_metrics, job_health
from clarep_ray.cluster.tracked import start_calibration
from clarep_ray.config import CalibrateConfig
from clarep_ray.data.calibration_file import CALIBRATION, SETTINGS, write_calibration
from clarep_ray.data.owner import owned
from clarep_ray.data.parts import LABELS
from clarep_ray.data.store import OutputStore
from clarep_ray.models.classifiers import classifier_name
from clarep_ray.models.health import OK, UNCHECKED
from clarep_ray.presets import EXTRACT

SPAN = 0.2
"""How far below and above t_e the interaction looks, as a share of the sampling grid: 200 of 1000 timesteps."""


def run_calibration(config: CalibrateConfig, preset: str, say: Callable[[str], None] = print) -> Findings:
    """Calibrate, or continue an interrupted calibration; write and return what was found.

    The output folder receives `calibration.json` (what `extract.py --calibration` takes), a CSV and a picture of
    every curve, and `calibration.md`. Raises as `open_session` does, and OutputInUse.
    """
    with owned(Path(config.output), config.engine.take_over, say):
        return _calibrate(config, preset, say)


def _calibrate(config: CalibrateConfig, preset: str, say: Callable[[str], None]) -> Findings:
    session = work.open_session(config)
    for note in session.plan.notes:
        say(f"input: {note}")
    flat = dotted.flatten(session.config)
    findings = Findings(
        config=session.config,
        readings=session.readings,
        num_images=len(session.rows),
        num_draws=len(session.draws),
        settings={name: flat[name] for name in SETTINGS},
    )
    findings.notes += session.labels
    health = job_health(session.plan, OutputStore(Path(config.output)), say)
    if health is not None and health["verdict"] not in (OK, UNCHECKED):
        findings.notes += [f"model health: {warning}" for warning in health["warnings"]]
    if len(session.draws) == 1:
        findings.notes.append(f"one class draw: no more classes than draws.classes ({session.config.draws.classes})")
    if "null" not in findings.readings:
        findings.notes.append(
            f"{session.config.model.name} has no unconditional branch, so that every NMI is of {LABEL_EXPLAINS}"
        )
    with start_calibration(session, preset) as run:
        _judge_originals(session, findings, say)
        _first_phase(session, findings, say)
        if {"window", "interaction"} & set(session.config.parts):
            _second_phase(session, findings, say)
        made = _write(session, findings)
        run.metrics(findings.metrics() | health_metrics(health))
        for curve, t, value in findings.curves():
            run.metrics({curve: value}, step=t)
        run.note(findings.text())
        run.files(made)
    say(_epilogue(findings, preset, made, run.browse))
    return findings


def _judge_originals(session: Session, findings: Findings, say: Callable[[str], None]) -> None:
    """Ask the judges for the originals, before anything is read into what they say of samples."""
    items = work.judged_items(session)
    if not items:
        return
    work.run_items(session, items, say)
    parts = session.context.parts
    labels, read = parts.column(JUDGED, LABELS), parts.column(JUDGED, "read")
    for number, name in enumerate(session.config.classifiers):
        judge = score_judge(classifier_name(name), read[:, number], labels, len(session.class_names))
        findings.judges.append(judge)
        if judge.non_finite:
            findings.notes.append(
                f"the judge {judge.name} gives logits that are not finite for {judge.non_finite} of {judge.images} "
                "originals; it reads no class there"
            )
        if not judge.fit:
            findings.notes.append(
                f"the judge {judge.name} reads {judge.accuracy:.0%} of the originals (guessing: {judge.chance:.0%}): "
                "it is the problem, and what it reads in samples says nothing about the model"
            )


def _first_phase(session: Session, findings: Findings, say: Callable[[str], None]) -> None:
    """Find t_e on samples from noise, layer l_f and timestep t_f on the original images."""
    config, items = session.config, list[work.Item]()
    switches = tuple(sorted(config.saturation.times))
    switches = switches or spread_times(session.sampling_grid, config.saturation.num_times)
    if "saturation" in config.parts:
        items += work.two_stage_items(session, switches)
    if "features" in config.parts:
        items += work.feature_items(session, work.feature_times(session))
    work.run_items(session, items, say)
    if "saturation" in config.parts:
        _choose_time(session, findings, switches)
    if "features" in config.parts:
        findings.feature_map = _score_map(session, FEATURES, "")
        _choose_feature(findings)


def _choose_time(session: Session, findings: Findings, switches: tuple[float, ...]) -> None:
    config, parts = session.config, session.context.parts
    labels = parts.column(TWO_STAGE, LABELS)
    hits = np.stack([parts.column(TWO_STAGE, f"{t:g}/read") == labels[:, None] for t in switches], 1)
    found = find_saturation(switches, hits, config.saturation.level, config.seed)
    findings.saturation = found
    if found.risen:
        _set(findings, {"inversion.project_t": nearest_time(session.grid, found.project_t)})
        return
    why = (
        "the model's samples do not show their class"
        if findings.judges_fit
        else "the judges do not read the originals either, so that nothing follows about the model's samples"
    )
    findings.notes.append(
        f"the accuracy of two-stage samples does not rise with t_e: {why}; t_e stays at {config.inversion.project_t:g}"
    )


def _score_map(session: Session, group: str, prefix: str) -> FeatureMap:
    """Return NMI of every feature layer and timestep under every reading."""
    cells = [
        (layer, t, reading)
        for layer in session.layers
        for t in work.feature_times(session)
        for reading in session.readings
    ]
    names = [f"{prefix}{layer}/{t:g}/{reading}" for layer, t, reading in cells]
    scores = score_columns(session, [(group, name) for name in names])
    return {cell: scores[group, name] for cell, name in zip(cells, names, strict=True)}


def _choose_feature(findings: Findings) -> None:
    scores = {cell[:2]: nmi for cell, nmi in findings.feature_map.items() if cell[2] == findings.reading}
    layer, t = best_feature(scores)
    best = scores[layer, t]
    if best.above_chance(num_tried=len(scores)):
        _set(findings, {"features.layer": layer, "features.feature_t": t})
    else:
        kept = findings.feature_cell
        findings.notes.append(
            f"no layer and timestep tells the originals' classes apart better than chance (best NMI {best.mean:.3f} at "
            f"{layer}, t_f = {t:g}; chance {best.mean_chance:.3f}); features stay at {kept[0]}, t_f = {kept[1]:g}"
        )


def _second_phase(session: Session, findings: Findings, say: Callable[[str], None]) -> None:
    """Sweep windows and fixed k at t_e, and layers, times and k around it."""
    config, here = session.config, findings.here
    cells: dict[str, dict[str, Any]] = {}
    for at in _cells(session, here):
        cell = _cell(session, findings, at)
        # What is done in a cell is part of its name: parts of another choice must not be taken for these.
        findings.groups[at] = f"cell-{at[0]}-{at[1]:g}-{dotted.fingerprint(cell)[:8]}"
        cells[findings.groups[at]] = cell
    work.run_items(
        session, [item for name, cell in cells.items() for item in work.cell_items(session, name, cell)], say
    )
    findings.scores += _score_cells(session, cells)
    if "features" in config.parts:
        findings.canonical_map = _score_map(session, findings.groups[here], "canonical/")
    if "window" in config.parts:
        _choose_window(findings)


def _cells(session: Session, here: tuple[str, float]) -> list[tuple[str, float]]:
    """Return the Jacobian layers and times to try: the chosen one, and the interaction's."""
    wanted = session.config.interaction
    if "interaction" not in session.config.parts:
        return [here]
    times = wanted.times or neighbour_times(session.grid, here[1], SPAN)
    cells = [(layer, t) for layer in wanted.layers or (here[0],) for t in times]
    return cells if here in cells else [*cells, here]


def _cell(session: Session, findings: Findings, at: tuple[str, float]) -> dict[str, Any]:
    """Return what is done at a layer and time; everything at the chosen one."""
    config, (feature_layer, feature_t) = session.config, findings.feature_cell
    windows, ranks = {config.spectrum.num_directions}, {config.interaction.fixed}
    more: dict[str, Any] = {}
    if at == findings.here and "window" in config.parts:
        windows, ranks = windows | set(config.window.windows), ranks | set(config.window.fixed)
    if at == findings.here and "features" in config.parts:
        times = list(work.feature_times(session))
        more = {"map_of": f"M={config.spectrum.num_directions}", "layers": list(session.layers), "times": times}
    return {
        "layer": at[0],
        "t": at[1],
        "windows": sorted(windows),
        "fixed": sorted(ranks),
        "feature_layer": feature_layer,
        "feature_t": feature_t,
        **more,
    }


def _score_cells(session: Session, cells: dict[str, dict[str, Any]]) -> list[Score]:
    variants = [
        (group, cell, name)
        for group, cell in cells.items()
        for name in ("original", *(f"M={m}" for m in cell["windows"]), *(f"k={k}" for k in cell["fixed"]))
    ]
    columns = [(group, f"{name}/{reading}") for group, _, name in variants for reading in session.readings]
    nmi, parts = score_columns(session, columns), session.context.parts
    scores: list[Score] = []
    for group, cell, name in variants:
        good = parts.column(group, "ok")
        right = parts.column(group, f"{name}/read")[good] == parts.column(group, LABELS)[good][:, None]
        removed = np.zeros(1) if name == "original" else parts.column(group, f"{name}/k")[good]
        score = Score(
            layer=cell["layer"],
            t=cell["t"],
            variant=name,
            nmi={reading: nmi[group, f"{name}/{reading}"] for reading in session.readings},
            accuracy=float(right.mean()) if right.size else float("nan"),
            mean_k=float(removed.mean()) if removed.size else float("nan"),
            images=int(good.sum()),
        )
        scores.append(score)
    return scores


def _choose_window(findings: Findings) -> None:
    config, at = findings.config, findings.scores_here()
    windows = {m: at[f"M={m}"] for m in {*config.window.windows, config.spectrum.num_directions}}
    accuracy = {m: score.accuracy if config.classifiers else 1.0 for m, score in windows.items()}
    least = at["original"].accuracy - config.window.max_class_loss if config.classifiers else 0.0
    chosen = best_window({m: score.nmi[findings.reading] for m, score in windows.items()}, accuracy, least)
    if chosen is not None:
        _set(findings, {"spectrum.num_directions": chosen})
    else:
        findings.notes.append(
            f"no window has an NMI above chance and costs at most {config.window.max_class_loss:g} of the classifiers' "
            f"accuracy; M stays at {config.spectrum.num_directions}"
        )


def _set(findings: Findings, found: dict[str, Any]) -> None:
    findings.settings |= found
    findings.chosen |= found.keys()


def _write(session: Session, findings: Findings) -> list[Path]:
    """Write JSON, CSV, pictures and the page of text; return their paths."""
    root = Path(session.config.output)
    store, tables, made = OutputStore(root), findings.tables(), list[Path]()
    for name, rows in tables.items():
        store.put(f"{name}.csv", as_csv(rows))
        made.append(root / f"{name}.csv")
    store.put("calibration.md", (findings.text() + "\n").encode())
    write_calibration(
        store,
        settings=findings.settings,
        model=session.config.model.name,
        weights_sha256=session.plan.fields["weights_sha256"],
        fingerprint=session.plan.fingerprint,
        notes=findings.notes,
        tables=tables,
    )
    for name, figure in calibration_figures(session, findings).items():
        made.append(save_figure(figure, root, f"{name}.png"))
    return [*made, root / "calibration.md", root / CALIBRATION]


def _epilogue(findings: Findings, preset: str, made: list[Path], uri: str | None) -> str:
    root = Path(findings.config.output)
    pictures = ", ".join(path.name for path in made if path.suffix == ".png")
    lines = ["", findings.text(), "", f"look at      {root}: {pictures}"]
    same = " ".join(["--preset", preset, *_as_flags(findings.config, preset)])
    lines.append(f"use it       uv run jobs/extract.py {same} --calibration {root}/{CALIBRATION}")
    if uri:
        lines.append(f"browse       {uri}")
    return "\n".join(lines)


def _as_flags(config: CalibrateConfig, preset: str) -> list[str]:
    """Return the user's own model, and where the images are, as options of an extraction."""
    usual, given, flags = dotted.flatten(EXTRACT[preset]().config), dotted.flatten(config), list[str]()
    models = [name for name in given if name.startswith("model.")]
    for name in (*models, "data.source", "data.path", "data.labels_file"):
        value = given[name]
        if value is not None and str(value) not in (str(usual[name]), str(Path(str(usual[name])).absolute())):
            flags += [f"--{name.replace('_', '-')}", shlex.quote(str(value))]
    return flags

"""Which pictures a calibration leaves: a curve for every part, and sheets of what was sampled."""

from __future__ import annotations

from typing import Any

import numpy as np

from clarep_ray.analysis import calibration_figures as figures
from clarep_ray.analysis.calibration_findings import Findings
from clarep_ray.cluster.calibrate import Session
from clarep_ray.cluster.calibrate_pieces import TWO_STAGE
from clarep_ray.data.parts import LABELS
from clarep_ray.models.classifiers import classifier_name


def calibration_figures(session: Session, findings: Findings) -> dict[str, Any]:
    """Return {name: figure} of every curve, and sheets of the samples, as far as the parts were calibrated."""
    names, made = session.class_names, dict[str, Any]()
    if findings.saturation is not None:
        judges = [classifier_name(name) for name in session.config.classifiers]
        made["saturation"] = figures.saturation_curve(
            findings.saturation, judges, float(np.mean([judge.accuracy for judge in findings.judges]))
        )
        shown = {f"t_e = {t:g}": f"{t:g}/pictures" for t in findings.saturation.times}
        made["saturation_pictures"] = figures.picture_sheet(_pictures(session, TWO_STAGE), shown, names)
    maps = {"feature_map": findings.feature_map, "canonical_map": findings.canonical_map}
    for name, title in {"feature_map": "originals", "canonical_map": "Canonical Samples"}.items():
        if maps[name]:
            made[name] = figures.feature_heat_maps(maps[name], findings.feature_cell, title)
    if "window" in session.config.parts:
        scores = findings.scores_here()
        made["window"] = figures.window_curves(
            scores,
            findings.settings["spectrum.num_directions"],
            chosen="spectrum.num_directions" in findings.chosen,
        )
        shown = {variant: f"{variant}/pictures" for variant in scores}
        made["window_pictures"] = figures.picture_sheet(
            _pictures(session, findings.groups[findings.here]), shown, names
        )
    if "interaction" in session.config.parts:
        made["interaction"] = figures.interaction_maps(findings.scores, findings.here, findings.reading)
        made["interaction_pictures"] = _time_pictures(session, findings)
    return {name: figure for name, figure in made.items() if figure is not None}


def _pictures(session: Session, group: str) -> dict[str, Any]:
    """Return the arrays of a group's part 0, which alone keeps pictures; nothing where none of it could be read."""
    number, arrays = session.context.parts.first(group)
    return arrays if number == 0 else {}


def _time_pictures(session: Session, findings: Findings) -> Any:
    """Return originals and Canonical Samples of the same images for every t_e of the chosen layer."""
    layer, variant = findings.here[0], f"M={session.config.spectrum.num_directions}"
    arrays, shown = dict[str, Any](), {"original": "original/pictures"}
    for t in sorted({score.t for score in findings.scores if score.layer == layer}):
        first = _pictures(session, findings.groups[layer, t])
        names = {"original/pictures": "original/pictures", f"{t:g}/pictures": f"{variant}/pictures", LABELS: LABELS}
        arrays |= {name: first[source] for name, source in names.items() if source in first}
        shown[f"t_e = {t:g}"] = f"{t:g}/pictures"
    return figures.picture_sheet(arrays, shown, session.class_names)

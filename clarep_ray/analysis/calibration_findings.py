"""Everything a calibration found: as tables, as metrics, and as a page that says what was chosen and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from clarep_ray.analysis.calibration import DrawnNmi, JudgeScore, Saturation, compare
from clarep_ray.config import CalibrateConfig
from clarep_ray.data.text_tables import csv_text, markdown, markdown_table
from clarep_ray.models.classifiers import classifier_name

LABEL_EXPLAINS = (
    "features read with the label: the label is an input of the network, so that it can explain the NMI by itself, "
    "whatever the image shows"
)
"""What stands beside every NMI of that reading."""
FeatureMap = dict[tuple[str, float, str], DrawnNmi]
"""(feature layer, t_f, reading) -> NMI."""


@dataclass(frozen=True)
class Score:
    """One variant of one cell of the interaction, or of the window sweep."""

    layer: str
    t: float
    variant: str
    """`original`, `M=20` (adaptive k in that window) or `k=5`."""
    nmi: dict[str, DrawnNmi]
    """By reading: label, null."""
    accuracy: float
    """The classifiers' mean accuracy on its pictures; NaN without classifiers."""
    mean_k: float
    images: int
    """That all variants of the cell could be made of."""


@dataclass(frozen=True)
class StepUnit:
    """How times become the whole numbers that steps of a metric are."""

    factor: int
    suffix: str
    """What the metric's name says of it."""

    @staticmethod
    def of(times: Iterable[float]) -> StepUnit:
        """Return the unit of a model's times: as they are, or thousandths where some are no whole numbers (EDM)."""
        whole = all(float(t).is_integer() for t in times)
        return StepUnit(1, "") if whole else StepUnit(1000, "_in_1000th")

    def step(self, t: float) -> int:
        return round(t * self.factor)


@dataclass
class Findings:
    """What was found, and the settings that follow from it."""

    config: CalibrateConfig
    readings: tuple[str, ...]
    """How features can be read: with the label and, where there is an unconditional branch, without it."""
    num_images: int
    num_draws: int
    settings: dict[str, Any]
    """Dotted fields of an extraction."""
    chosen: set[str] = field(default_factory=set)
    """Those of the settings that a rule decided; the others are the preset's."""
    groups: dict[tuple[str, float], str] = field(default_factory=dict)
    """Under which name the parts of a layer and time are kept."""
    notes: list[str] = field(default_factory=list)
    judges: list[JudgeScore] = field(default_factory=list)
    """How well the classifiers read the originals."""
    saturation: Saturation | None = None
    feature_map: FeatureMap = field(default_factory=dict)
    """NMI of the originals."""
    canonical_map: FeatureMap = field(default_factory=dict)
    """NMI of the Canonical Samples at t_e, adaptive k."""
    scores: list[Score] = field(default_factory=list)

    @property
    def reading(self) -> str:
        """The reading that choices go by: without the label where that can be."""
        return self.readings[-1]

    @property
    def judges_fit(self) -> bool:
        """Say whether the classifiers read the originals, on average over them."""
        accuracy = float(np.mean([judge.accuracy for judge in self.judges])) if self.judges else 0.0
        return bool(self.judges) and accuracy >= (1 + self.judges[0].chance) / 2

    @property
    def here(self) -> tuple[str, float]:
        """Jacobian layer and t_e as chosen."""
        return self.settings["spectrum.layer"], self.settings["inversion.project_t"]

    @property
    def feature_cell(self) -> tuple[str, float]:
        """Feature layer and t_f as chosen."""
        return self.settings["features.layer"], self.settings["features.feature_t"]

    def scores_here(self) -> dict[str, Score]:
        """Return the variants at the chosen layer and t_e."""
        return {score.variant: score for score in self.scores if (score.layer, score.t) == self.here}

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of every curve, as the CSV files and calibration.json have them."""
        made: dict[str, list[dict[str, Any]]] = {}
        if self.judges:
            made["judges"] = [asdict(judge) | {"fit": judge.fit} for judge in self.judges]
        if self.saturation is not None:
            made["saturation"] = _saturation_rows(self.saturation, self.config.classifiers)
        if self.feature_map:
            maps = {"original": self.feature_map, "canonical": self.canonical_map}
            made["feature_map"] = [
                {"pictures": pictures, "layer": layer, "feature_t": t, "reading": reading, **_columns("nmi", nmi)}
                for pictures, scores in maps.items()
                for (layer, t, reading), nmi in scores.items()
            ]
        if self.scores:
            made["projection"] = [_score_row(score) for score in self.scores]
        return made

    def metrics(self) -> dict[str, float]:
        """Return {metric: value} for tracking."""
        found = {name: float(value) for name, value in self.settings.items() if isinstance(value, int | float)}
        for reading, nmi in self.scores_here()["original"].nmi.items() if self.scores else ():
            found[f"original_nmi/{reading}"] = nmi.mean
        found |= {f"judge_on_originals/{judge.name}": judge.accuracy for judge in self.judges}
        return {name: value for name, value in found.items() if not np.isnan(value)}

    def curves(self) -> Iterator[tuple[str, int, float]]:
        """Yield (metric, step, value) of the curves for tracking: over M, over fixed k, over the model's times.

        Steps are whole numbers; times that are not (EDM's noise levels) are in thousandths, and the name says so.
        """
        for score in self.scores_here().values():
            kind, _, number = score.variant.partition("=")
            if number:
                name = {"M": "window", "k": "fixed_k"}[kind]
                yield f"{name}/mean_num_removed", int(number), score.mean_k
                yield from ((f"{name}/nmi/{reading}", int(number), nmi.mean) for reading, nmi in score.nmi.items())
        if self.saturation is not None:
            at = StepUnit.of(self.saturation.times)
            for t, share in zip(self.saturation.times, self.saturation.mean, strict=True):
                yield f"two_stage_accuracy{at.suffix}", at.step(t), float(share)
        maps = {"original": self.feature_map, "canonical": self.canonical_map}
        at = StepUnit.of([t for cells in maps.values() for _, t, _ in cells])
        for pictures, cells in maps.items():
            for (layer, t, reading), nmi in cells.items():
                yield f"feature_nmi/{pictures}/{reading}/{layer}{at.suffix}", at.step(t), nmi.mean

    def text(self) -> str:
        """Return the page as markdown."""
        title = f"# Calibration of {self.config.model.name}: {self.num_images} images, {self.num_draws} class draws"
        lines = [
            self._judge_line(),
            self._time_line(),
            self._feature_line(),
            self._window_line(),
            self.time_verdict(),
            *map(markdown, self.notes),
        ]
        page = [title, "", *(f"* {line}" for line in lines if line)]
        about = [f"NMI, label: of {LABEL_EXPLAINS}."] if "label" in self.readings else []
        return "\n".join([*page, "", *self._score_table(), "", *about] if self.scores else page).rstrip()

    def time_verdict(self) -> str:
        """Say how the NMI at t_e compares with that of the times below and above, whatever the outcome."""
        layer, t_e = self.here
        variant = f"M={self.config.spectrum.num_directions}"
        same = {
            score.t: score.nmi[self.reading]
            for score in self.scores
            if (score.layer, score.variant) == (layer, variant)
        }
        if t_e not in same or len(same) < 2:
            return ""
        parts: list[str] = []
        for t, there in sorted(same.items()):
            if t != t_e:
                parts.append("{:+.3f} ± {:.3f} against t_e = {:g}".format(*compare(same[t_e], there), t))
        best = max(same, key=lambda t: np.nan_to_num(same[t].mean, nan=-1.0))
        outcome = "the best of them" if best == t_e else f"not the best: t_e = {best:g} is"
        found = f"NMI at t_e = {t_e:g} is {same[t_e].mean:.3f} (chance {same[t_e].mean_chance:.3f}), {outcome}"
        counts = sorted({nmi.num_samples for nmi in same.values()})
        unequal = f"; not all of the same images: {', '.join(map(str, counts))}" if len(counts) > 1 else ""
        return f"{found} ({'; '.join(parts)}){unequal}"

    def _judge_line(self) -> str:
        if not self.judges:
            return ""
        read = ", ".join(f"{markdown(judge.name)} {judge.accuracy:.3f}" for judge in self.judges)
        return f"the judges read the class of the originals themselves ({self.judges[0].images} images): {read}"

    def _time_line(self) -> str:
        found = self.saturation
        if found is None or "inversion.project_t" not in self.chosen:
            return ""
        return (
            f"t_e = {self.here[1]:g}: the first time at which the accuracy of two-stage samples has made "
            f"{self.config.saturation.level:.0%} of its rise from {found.fitted[0]:.3f} to {found.fitted[-1]:.3f} "
            f"(drawn again, 90 % of t_e lie in {found.interval[0]:g} to {found.interval[1]:g})"
        )

    def _feature_line(self) -> str:
        if "features.layer" not in self.chosen:
            return ""
        best = self.feature_map[*self.feature_cell, self.reading]
        how = {"null": "without the label", "label": "with the label, for want of an unconditional branch"}
        return (
            f"features at {self.feature_cell[0]}, t_f = {self.feature_cell[1]:g}: highest NMI of the originals, "
            f"{best.shown} (chance {best.mean_chance:.3f}), read {how[self.reading]}"
        )

    def _window_line(self) -> str:
        if "spectrum.num_directions" not in self.chosen:
            return ""
        return (
            f"M = {self.settings['spectrum.num_directions']}: highest NMI of Canonical Features among the windows that "
            f"cost at most {self.config.window.max_class_loss:g} of class accuracy"
        )

    def _score_table(self) -> list[str]:
        readings = [title for name in self.readings for title in (f"NMI, {name}", "chance")]
        titles = ["layer", "t_e", "variant", "images", *readings, "class read", "mean k"]
        lines: list[list[str]] = []
        for score in self.scores:
            drawn = [score.nmi[reading] for reading in self.readings]
            cells = [cell for nmi in drawn for cell in (nmi.shown, f"{nmi.mean_chance:.3f}")]
            cells += ["-" if np.isnan(score.accuracy) else f"{score.accuracy:.3f}", f"{score.mean_k:.1f}"]
            first = [score.layer, f"{score.t:g}", score.variant, str(score.images)]
            lines.append([*first, *cells])
        return [markdown_table(titles, lines)]


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return rows with the same columns as CSV."""
    return csv_text(list(rows[0]), [list(row.values()) for row in rows]).encode()


def _saturation_rows(found: Saturation, classifiers: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i, t in enumerate(found.times):
        judged = {f"accuracy {classifier_name(name)}": found.accuracy[i, j] for j, name in enumerate(classifiers)}
        mean = {"accuracy": found.mean[i], "standard_error": found.error[i], "isotonic": found.fitted[i]}
        rows.append({"project_t": t} | {name: round(float(value), 6) for name, value in {**judged, **mean}.items()})
    return rows


def _score_row(score: Score) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": score.layer, "project_t": score.t, "variant": score.variant}
    for reading, nmi in score.nmi.items():
        row |= _columns(f"nmi_{reading}", nmi)
    accuracy = None if np.isnan(score.accuracy) else round(score.accuracy, 6)
    mean_k = None if np.isnan(score.mean_k) else round(score.mean_k, 4)
    return row | {"accuracy": accuracy, "mean_k": mean_k, "images": score.images}


def _columns(name: str, scores: DrawnNmi) -> dict[str, float | int | None]:
    columns = {"mean": scores.mean, "std": scores.std, "chance": scores.mean_chance}
    known = {f"{name}_{column}": None if np.isnan(value) else round(value, 6) for column, value in columns.items()}
    return known | {f"{name}_samples": scores.num_samples}

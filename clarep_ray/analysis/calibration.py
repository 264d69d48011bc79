"""From what a calibration sampled to settings, each by a rule that is written down (Sec. 3.2.1, App. G.1, H)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from clarep_ray.analysis.clusters import nmi_with_chance
from clarep_ray.analysis.tables import mean_std
from clarep_ray.config import DrawsConfig
from clarep_ray.models.answers import NO_ANSWER
from clarep_ray.seeding import numpy_generator

BOOTSTRAPS = 500
LEVEL = 0.01
Draws = list[list[int]]
"""Sets of class labels."""


@dataclass(frozen=True)
class JudgeScore:
    """How well a judge reads the originals; without that, what it reads in samples says nothing about the model."""

    name: str
    accuracy: float
    """Share of the originals whose class it reads [0..1]."""
    images: int
    non_finite: int
    """Originals for which it gives logits that are not finite, which count as not read."""
    chance: float
    """Share that guessing reads."""

    @property
    def fit(self) -> bool:
        """Say whether it reads at least half of what separates guessing from reading all."""
        return self.accuracy >= (1 + self.chance) / 2


def score_judge(name: str, read: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> JudgeScore:
    """Return how well a judge reads originals: `read` and `labels` (n,); ValueError where it answers nothing."""
    non_finite = int((read == NO_ANSWER).sum())
    if non_finite == len(read):
        raise ValueError(
            f"classifiers: {name!r} answers none of {len(read)} originals: all have a logit that is not finite (NaN or "
            "infinite); valid: weights without such numbers"
        )
    return JudgeScore(name, float((read == labels).mean()), len(read), non_finite, 1 / num_classes)


@dataclass(frozen=True)
class Saturation:
    """Accuracy of two-stage samples against t_e, and where it saturates."""

    times: tuple[float, ...]
    """Candidates for t_e, ascending."""
    accuracy: NDArray[np.float64]
    """Of each classifier at each time, shape (times, classifiers)."""
    error: NDArray[np.float64]
    """Standard error of the classifiers' mean accuracy, shape (times,)."""
    fitted: NDArray[np.float64]
    """The mean accuracy made monotone (isotonic regression), shape (times,)."""
    target: float
    """Accuracy that counts as saturated."""
    project_t: float
    interval: tuple[float, float]
    """5 % and 95 % quantiles of t_e when the samples are drawn again (bootstrap)."""

    @property
    def risen(self) -> bool:
        """Say whether the accuracy rises at all, by more than three standard errors; without it t_e means nothing."""
        return bool(self.fitted[-1] - self.fitted[0] > 3 * np.hypot(self.error[0], self.error[-1]))

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.accuracy.mean(1)


def find_saturation(times: Sequence[float], hits: NDArray[np.bool_], level: float, seed: int) -> Saturation:
    """Return the saturation point of two-stage accuracy (Sec. 3.2.1, App. H.1).

    `hits` (samples, times, classifiers) says whether a classifier read the class; `times` ascend. The mean accuracy
    is made monotone; t_e is the first time at which it has made `level` of its whole rise, from the smallest time to
    the largest.
    """
    per_sample = hits.mean(2)
    mean = per_sample.mean(0)
    fitted, target, chosen = _saturation_of(mean, level)
    generator = numpy_generator(seed, "saturation", "bootstrap")
    again = [
        _saturation_of(per_sample[generator.integers(0, len(hits), len(hits))].mean(0), level)[2]
        for _ in range(BOOTSTRAPS)
    ]
    low, high = np.quantile(again, (0.05, 0.95), method="nearest")
    return Saturation(
        times=tuple(times),
        accuracy=hits.mean(0),
        error=per_sample.std(0, ddof=1) / np.sqrt(len(hits)) if len(hits) > 1 else np.zeros(len(times)),
        fitted=fitted,
        target=target,
        project_t=times[chosen],
        interval=(times[int(low)], times[int(high)]),
    )


def _saturation_of(mean: NDArray[np.float64], level: float) -> tuple[NDArray[np.float64], float, int]:
    from sklearn.isotonic import isotonic_regression

    fitted = np.asarray(isotonic_regression(mean))
    target = float(fitted[0] + level * (fitted[-1] - fitted[0]))
    return fitted, target, int(np.argmax(fitted >= target - 1e-12))


def draw_classes(labels: NDArray[np.int64], config: DrawsConfig, seed: int) -> Draws:
    """Return sets of `config.classes` classes among those of `labels`; a single set where there are no more.

    Raises ValueError for fewer than two classes.
    """
    pool = np.unique(labels[labels >= 0])
    if len(pool) < 2:
        raise ValueError(f"data: {len(pool)} known class; a calibration needs 2 or more")
    if config.classes >= len(pool):
        return [pool.tolist()]
    sets = [
        numpy_generator(seed, str(number), "class_draw").choice(pool, config.classes, replace=False)
        for number in range(config.count)
    ]
    return [sorted(map(int, chosen)) for chosen in sets]


@dataclass(frozen=True)
class DrawnNmi:
    """NMI of K-means on one set of features, for every class draw."""

    nmi: list[float]
    chance: list[float]
    """What shuffled labels give on average."""
    chance_std: list[float]
    num_samples: int = 0
    """Samples with finite features in any draw: scores of unequal numbers are over other samples."""

    @property
    def mean(self) -> float:
        return mean_std(self.nmi)[0]

    @property
    def std(self) -> float:
        return mean_std(self.nmi)[1]

    @property
    def mean_chance(self) -> float:
        return mean_std(self.chance)[0]

    @property
    def shown(self) -> str:
        """Mean and, where there are several draws, standard deviation."""
        return f"{self.mean:.3f} ± {self.std:.3f}" if len(self.nmi) > 1 else f"{self.mean:.3f}"

    def above_chance(self, num_tried: int = 1) -> bool:
        """Say whether NMI is above chance in every draw, at 1 % over all that were tried (Bonferroni)."""
        limit = NormalDist().inv_cdf(1 - LEVEL / num_tried)
        rows = zip(self.nmi, self.chance, self.chance_std, strict=True)
        return all(nmi > chance + limit * std for nmi, chance, std in rows)


def nmi_of_draws(features: NDArray[np.float32], labels: NDArray[np.int64], draws: Draws, seed: int) -> DrawnNmi:
    """Return the NMI of K-means on features (n, channels) for every set of classes, beside that of chance.

    Samples with a non-finite feature are left out, which `num_samples` tells; NaN where too few are left.
    """
    finite = np.isfinite(features).all(1)
    features, labels = features[finite], labels[finite]
    inside = [np.isin(labels, chosen) for chosen in draws]
    nmi, chance, deviations = zip(
        *(nmi_with_chance(features[rows], labels[rows], seed) for rows in inside), strict=True
    )
    return DrawnNmi(list(nmi), list(chance), list(deviations), int(np.any(inside, axis=0).sum()))


def best_feature(scores: Mapping[tuple[str, float], DrawnNmi]) -> tuple[str, float]:
    """Return (layer, t_f) of the highest mean NMI over the class draws, among those that all samples have features at.

    A few samples fall into classes by chance alone, so that a cell that lost some is no rival of one that has them all.
    """
    most = max(score.num_samples for score in scores.values())
    whole = [cell for cell, score in scores.items() if score.num_samples == most]
    return max(whole, key=lambda cell: np.nan_to_num(scores[cell].mean, nan=-1.0))


def best_window(scores: Mapping[int, DrawnNmi], accuracy: Mapping[int, float], least_accuracy: float) -> int | None:
    """Return M of the highest mean NMI above chance among the windows that keep the class; None where none does.

    NaN, of an NMI or an accuracy, keeps nothing and is above nothing.
    """
    kept = [
        window
        for window in scores
        if accuracy[window] >= least_accuracy and scores[window].above_chance(num_tried=len(scores))
    ]
    return max(kept, key=lambda window: scores[window].mean, default=None)


def compare(here: DrawnNmi, there: DrawnNmi) -> tuple[float, float]:
    """Return mean and standard deviation over the class draws of the paired difference in NMI."""
    return mean_std([a - b for a, b in zip(here.nmi, there.nmi, strict=True)])

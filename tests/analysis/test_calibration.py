"""The rules by which a calibration chooses, on curves whose answer is known."""

import numpy as np
import pytest

from clarep_ray.analysis.calibration import (
    DrawnNmi,
    best_feature,
    best_window,
    compare,
    draw_classes,
    find_saturation,
    nmi_of_draws,
    score_judge,
)
from clarep_ray.config import DrawsConfig
from clarep_ray.models.answers import NO_ANSWER

TIMES = tuple(float(t) for t in range(100, 1000, 100))


def hits_of(curve: list[float], samples: int = 400, classifiers: int = 2) -> np.ndarray:
    """Return (samples, times, classifiers) with exactly the given share of right answers at every time."""
    ranks = (np.arange(samples) + 0.5) / samples
    return np.repeat((ranks[:, None] < np.array(curve))[:, :, None], classifiers, 2)


def test_saturation_is_where_the_rise_is_made() -> None:
    found = find_saturation(TIMES, hits_of([0.1, 0.1, 0.2, 0.5, 0.8, 0.9, 0.9, 0.9, 0.9]), 0.95, seed=0)
    assert found.risen
    assert found.project_t == 600.0
    assert found.target == pytest.approx(0.1 + 0.95 * 0.8)
    assert found.interval == (600.0, 600.0)
    assert find_saturation(TIMES, hits_of([0.1, 0.1, 0.2, 0.5, 0.8, 0.9, 0.9, 0.9, 0.9]), 0.8, 0).project_t == 500.0


def test_a_dip_of_noise_on_the_plateau_does_not_move_it() -> None:
    found = find_saturation(TIMES, hits_of([0.1, 0.2, 0.5, 0.9, 0.88, 0.91, 0.89, 0.9, 0.9]), 0.95, seed=0)
    assert found.project_t == 400.0
    assert (np.diff(found.fitted) >= 0).all()
    assert found.interval[0] <= 400.0 <= found.interval[1]


def test_a_flat_curve_has_no_saturation() -> None:
    flat = np.random.default_rng(0).random((60, 9, 1)) < 0.1
    assert not find_saturation(TIMES, flat, 0.95, seed=0).risen


def test_class_draws_are_seeded_sets_of_known_classes() -> None:
    labels = np.array([-1, 3, 3, 5, 7, 9, 9])
    draws = draw_classes(labels, DrawsConfig(count=4, classes=2), seed=1)
    assert draws == draw_classes(labels[::-1], DrawsConfig(count=4, classes=2), seed=1)
    assert len(draws) == 4
    assert all(len(set(chosen)) == 2 and set(chosen) <= {3, 5, 7, 9} for chosen in draws)
    assert len({tuple(chosen) for chosen in draws}) > 1
    assert draw_classes(labels, DrawsConfig(count=4, classes=4), seed=1) == [[3, 5, 7, 9]]
    with pytest.raises(ValueError, match="1 known class; a calibration needs 2 or more"):
        draw_classes(np.array([-1, 4, 4]), DrawsConfig(), seed=0)


def test_nmi_counts_the_classes_of_a_draw_alone() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    features = generator.normal(size=(60, 4)).astype(np.float32) + 30 * np.array([[0], [1], [0]])[labels]
    both = nmi_of_draws(features, labels, [[0, 1], [0, 2]], seed=0)
    assert both.nmi[0] == pytest.approx(1.0)
    assert both.nmi[1] < 0.3
    assert not both.above_chance()  # one draw of the two is not
    assert nmi_of_draws(features, labels, [[0, 1]], seed=0).above_chance()
    noise = nmi_of_draws(generator.normal(size=(60, 4)).astype(np.float32), labels, [[0, 1, 2]], seed=0)
    assert noise.nmi[0] == pytest.approx(noise.chance[0], abs=3 * noise.chance_std[0])


def drawn(*nmi: float) -> DrawnNmi:
    return DrawnNmi(list(nmi), [0.0] * len(nmi), [0.01] * len(nmi))


def test_choices_take_the_best_mean_and_keep_the_class() -> None:
    cells = {("a", 1.0): drawn(0.5, 0.9), ("b", 1.0): drawn(0.8, 0.8), ("b", 2.0): drawn(0.1, 0.1)}
    assert best_feature(cells) == ("b", 1.0)
    scores, accuracy = {5: drawn(0.3), 10: drawn(0.5), 20: drawn(0.9)}, {5: 0.99, 10: 0.95, 20: 0.7}
    assert best_window(scores, accuracy, least_accuracy=0.9) == 10
    assert best_window(scores, accuracy, least_accuracy=0.5) == 20
    assert best_window(scores, accuracy, least_accuracy=1.0) is None
    assert compare(drawn(0.5, 0.7), drawn(0.4, 0.4)) == pytest.approx((0.2, 0.02**0.5))


@pytest.mark.nightly
def test_the_best_of_many_cells_of_noise_is_not_taken_for_a_finding() -> None:
    """48 cells of pure noise: without a correction for the choice, the best one often looks significant."""
    labels, taken = np.repeat(np.arange(10), 10), 0
    for trial in range(6):
        generator = np.random.default_rng(trial)
        cells = [
            nmi_of_draws(generator.normal(size=(100, 8)).astype(np.float32), labels, [list(range(10))], seed=0)
            for _ in range(48)
        ]
        taken += max(cells, key=lambda cell: cell.mean).above_chance(num_tried=len(cells))
    assert taken <= 1


def test_a_window_that_is_not_above_chance_is_no_choice() -> None:
    scores = {5: DrawnNmi([0.20], [0.19], [0.02]), 10: DrawnNmi([0.21], [0.19], [0.02])}
    assert best_window(scores, {5: 1.0, 10: 1.0}, least_accuracy=0.5) is None


def test_samples_without_finite_features_are_left_out() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    features = generator.normal(size=(40, 4)).astype(np.float32) + 30 * labels[:, None]
    features[3, 1] = np.inf
    assert nmi_of_draws(features, labels, [[0, 1]], seed=0).nmi == [pytest.approx(1.0)]
    lost = nmi_of_draws(np.full_like(features, np.nan), labels, [[0, 1]], seed=0)
    assert np.isnan(lost.mean)
    assert not lost.above_chance()
    assert best_feature({("a", 0.0): lost, ("b", 0.0): drawn(0.1)}) == ("b", 0.0)


def test_a_few_samples_that_fall_into_classes_do_not_beat_all_of_them() -> None:
    """A cell whose features are not finite but for two samples has an NMI of 1, and no rank."""
    features = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    labels = np.repeat([0, 1, 2], 20)
    lost = features.copy()
    lost[1:59] = np.inf
    scores = {("lost", 1.0): nmi_of_draws(lost, labels, [[0, 1, 2]], 0)}
    scores |= {("whole", 1.0): nmi_of_draws(features, labels, [[0, 1, 2]], 0)}
    assert (scores["lost", 1.0].num_samples, scores["whole", 1.0].num_samples) == (2, 60)
    assert scores["lost", 1.0].mean > scores["whole", 1.0].mean
    assert best_feature(scores) == ("whole", 1.0)


def test_a_judge_is_scored_on_the_originals_against_guessing() -> None:
    labels = np.arange(100) % 10
    read = np.where(np.arange(100) < 38, labels, (labels + 1) % 10)
    poor = score_judge("poor", read, labels, 10)
    assert (poor.accuracy, poor.images, poor.non_finite, poor.fit) == (0.38, 100, 0, False)
    assert score_judge("good", labels, labels, 10).fit
    guess = score_judge("half", np.where(np.arange(100) < 55, labels % 2, 1 - labels % 2), labels % 2, 2)
    assert not guess.fit  # more than half right, and hardly more than guessing
    silent = np.where(np.arange(100) < 10, NO_ANSWER, labels)
    assert (score_judge("some", silent, labels, 10).accuracy, score_judge("some", silent, labels, 10).non_finite) == (
        0.9,
        10,
    )
    with pytest.raises(
        ValueError, match="classifiers: 'none' answers none of 100 originals: all have a logit that is not"
    ):
        score_judge("none", np.full(100, NO_ANSWER), labels, 10)

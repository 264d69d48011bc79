import numpy as np
import pytest

from clarep_ray.analysis.clusters import cluster_nmi

LABELS = np.repeat(np.arange(4), 25)
RANDOM = np.random.default_rng(0)


def test_separated_classes_give_one() -> None:
    centres = 10 * np.eye(4, 6, dtype=np.float32)
    features = centres[LABELS] + RANDOM.normal(size=(100, 6)).astype(np.float32)
    assert cluster_nmi(features, LABELS) == pytest.approx(1.0)


def test_features_without_the_class_give_next_to_nothing() -> None:
    assert cluster_nmi(RANDOM.normal(size=(100, 6)).astype(np.float32), LABELS) < 0.15


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="1 class"):
        cluster_nmi(np.zeros((5, 2), np.float32), np.zeros(5, np.int64))

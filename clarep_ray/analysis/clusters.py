"""How well features fall into classes by themselves: K-means and normalised mutual information (Sec. 3.2.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUM_SHUFFLES = 50


def cluster_nmi(features: NDArray[np.float32], labels: NDArray[np.int64], seed: int = 0) -> float:
    """Return the normalised mutual information, 0..1, of K-means clusters with the labels.

    K is the number of classes present; ten starts. Raises ValueError for fewer samples than classes or one class.
    """
    return _nmi(labels, _clusters(features, labels, seed))


def nmi_with_chance(
    features: NDArray[np.float32], labels: NDArray[np.int64], seed: int = 0
) -> tuple[float, float, float]:
    """Return NMI as `cluster_nmi`, and mean and standard deviation of what shuffled labels give.

    With few samples NMI is far from 0 by chance alone: about 0.22 for 100 samples in ten classes. NaN where there are
    fewer samples than classes, or one class.
    """
    if not 2 <= len(np.unique(labels)) <= len(labels):
        return float("nan"), float("nan"), float("nan")
    clusters = _clusters(features, labels, seed)
    generator = np.random.default_rng(seed)
    shuffled = [_nmi(generator.permutation(labels), clusters) for _ in range(NUM_SHUFFLES)]
    return _nmi(labels, clusters), float(np.mean(shuffled)), float(np.std(shuffled, ddof=1))


def _clusters(features: NDArray[np.float32], labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    classes = len(np.unique(labels))
    if classes < 2:
        raise ValueError(f"labels: {classes} class; NMI needs 2 or more")
    means = KMeans(classes, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]  (stub is wrong)
    return means.fit_predict(features)


def _nmi(labels: NDArray[np.int64], clusters: NDArray[np.int64]) -> float:
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(labels, clusters))

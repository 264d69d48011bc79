"""How well features fall into classes by themselves: K-means and normalised mutual information (Sec. 3.2.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cluster_nmi(features: NDArray[np.float32], labels: NDArray[np.int64], seed: int = 0) -> float:
    """Return the normalised mutual information, 0..1, of K-means clusters with the labels.

    K is the number of classes present; ten starts. Raises ValueError for fewer samples than classes or one class.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    classes = len(np.unique(labels))
    if classes < 2:
        raise ValueError(f"labels: {classes} class; NMI needs 2 or more")
    means = KMeans(classes, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]  (stub is wrong)
    clusters = means.fit_predict(features)
    return float(normalized_mutual_info_score(labels, clusters))

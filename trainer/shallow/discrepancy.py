"""Mean differences between two domains, and nearest-neighbour pseudo-labels.

Axis letters: n source samples, m target samples, D features, K classes.
"""

from __future__ import annotations

import numpy as np


def mean_differences(
    source_labels: np.ndarray, target_labels: np.ndarray, *, num_classes: int
) -> np.ndarray:
    """The factor Δ ``[n + m, 1 + K]`` of the MMD matrices: ``M_c = Δ_c Δ_cᵀ``.

    Column 0 holds 1/n on source rows and -1/m on target rows; column 1 + c the same within class c
    (the entries 1/n², 1/m², -1/(nm) of JDA's M_0 and M_c). For features Z ``[n + m, D]``, ``ZᵀΔ``
    are the differences of the domain means and of the class means. The column of a class that one
    domain lacks is 0. Storing Δ costs O((n + m) K) where M would cost O((n + m)²).

    Args:
        source_labels: ``[n]`` in 0..K-1.
        target_labels: pseudo-labels ``[m]`` in 0..K-1.
    """
    columns = []
    for labels in (source_labels, target_labels):
        members = np.eye(num_classes)[labels].reshape(len(labels), num_classes)
        columns.append(np.concatenate([np.ones((len(labels), 1)), members], 1))
    counts = [c.sum(0) for c in columns]
    both = (counts[0] > 0) & (counts[1] > 0)
    source, target = (c * both / np.maximum(k, 1) for c, k in zip(columns, counts, strict=True))
    return np.concatenate([source, -target])


def nearest_labels(points: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Label ``[m]`` of the nearest (Euclidean) of ``points [n, D]`` to each of ``queries [m, D]``.

    Computed in blocks: memory does not grow with n·m.
    """
    if len(queries) == 0:
        return np.zeros(0, dtype=labels.dtype)
    # Imported here: scikit-learn takes a quarter of the start-up time of a worker.
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(1, algorithm="brute").fit(points, labels).predict(queries)

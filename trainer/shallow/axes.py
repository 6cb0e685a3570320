"""Principal axes with a fixed sign.

Axis letters: n samples, D features, d axes.
"""

from __future__ import annotations

import numpy as np

_NOISE = 1e-6
"""Axes whose spread is below this share of the largest are rounding noise of float32 embeddings."""


def fix_signs(columns: np.ndarray) -> np.ndarray:
    """``columns [D, d]``, each times ±1 so that its entry of largest magnitude is positive.

    An eigenvector is known up to its sign only; this makes it the same on every machine.
    """
    if columns.size == 0:
        return columns
    rows = np.abs(columns).argmax(0)
    return columns * np.where(columns[rows, np.arange(columns.shape[1])] < 0, -1.0, 1.0)


def principal_axes(features: np.ndarray) -> np.ndarray:
    """Orthonormal principal axes ``[D, d]`` of ``features [n, D]``, largest variance first.

    d is the numerical rank of the centred features: at most min(n - 1, D), 0 for constant ones.
    """
    if len(features) == 0:
        return np.zeros((features.shape[1], 0))
    _, spread, axes = np.linalg.svd(features - features.mean(0), full_matrices=False)
    floor = max(_NOISE * spread.max(initial=0.0), np.finfo(np.float64).tiny)
    return fix_signs(axes[spread > floor].T)

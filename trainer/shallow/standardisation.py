"""Standardisation of one domain's embeddings before a fit.

Axis letters: n samples, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

StandardisationKind = Literal["none", "center", "zscore"]


@dataclass(frozen=True)
class Standardisation:
    """``x -> (x - mean) / scale`` with ``mean [D]`` and ``scale [D]`` of one domain."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, kind: StandardisationKind) -> Standardisation:
        """From ``features [n, D]``, n > 0; a constant feature has scale 1 and becomes 0.

        ``center`` divides by nothing, ``none`` is the identity.
        """
        width = features.shape[1]
        mean = np.zeros(width) if kind == "none" else features.mean(0)
        scale = features.std(0) if kind == "zscore" else np.ones(width)
        # Relative to the mean: the spread of a constant column is rounding noise, rarely exact 0.
        constant = scale <= 1e-12 * np.maximum(np.abs(mean), 1e-300)
        return cls(mean, np.where(constant, 1.0, scale))

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Standardised ``features [n, D]``."""
        return (features - self.mean) / self.scale


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of ``x [n, D]`` at unit length; zero rows stay zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def evenly_spaced(size: int, most: int | None) -> np.ndarray:
    """Indices of at most ``most`` of ``size`` samples, evenly spaced; all of them for None."""
    if most is None or size <= most:
        return np.arange(size)
    return np.arange(most) * size // most

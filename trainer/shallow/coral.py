"""CORAL: correlation alignment (Sun, Feng and Saenko, AAAI 2016).

Axis letters: n source samples, m target samples, D features.
"""

from __future__ import annotations

import numpy as np


def fit_coral(source: np.ndarray, target: np.ndarray, *, regularisation: float = 1.0) -> np.ndarray:
    """The map A ``[D, D]`` that gives source features the second-order statistics of the target.

    It minimises ``‖Aᵀ C_S A - C_T‖_F²`` (eq. 1) by whitening and re-colouring (algorithm 1):

        C_S = cov(source) + λI,  C_T = cov(target) + λI,  A = C_S^(-1/2) C_T^(1/2)

    With λ = 0 the inverse root is the pseudo-inverse: directions without source variance map to 0.

    Args:
        source: ``[n, D]``; ``source @ A`` are the aligned features, the target stays as it is.
        target: ``[m, D]``.
        regularisation: λ, 1 in the paper.
    """
    return _root(_covariance(source, regularisation), inverse=True) @ _root(
        _covariance(target, regularisation), inverse=False
    )


def _covariance(features: np.ndarray, regularisation: float) -> np.ndarray:
    """``[D, D]``, over n - 1; one sample has covariance 0."""
    centred = features - features.mean(0)
    covariance = centred.T @ centred / max(len(features) - 1, 1)
    return covariance + regularisation * np.eye(features.shape[1])


def _root(matrix: np.ndarray, *, inverse: bool) -> np.ndarray:
    """Symmetric (pseudo-inverse) square root of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    roots = np.where(kept, np.where(kept, values, 1.0) ** (-0.5 if inverse else 0.5), 0.0)
    return (vectors * roots) @ vectors.T

"""JGSA: joint geometrical and statistical alignment (Zhang, Li and Ogunbona, CVPR 2017).

Axis letters: n source samples, m target samples, D features, d output features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from trainer.shallow.axes import fix_signs
from trainer.shallow.discrepancy import mean_differences, nearest_labels

_NOISE = 1e-10
"""Eigenvalues below this share of the largest are rounding noise around 0."""


@dataclass(frozen=True)
class JgsaFit:
    """Coupled projections ``source_map`` A and ``target_map`` B, ``[D, d]`` each, and the target's
    pseudo-labels ``[m]`` that they were fitted with."""

    source_map: np.ndarray
    target_map: np.ndarray
    pseudo_labels: np.ndarray


def fit_jgsa(
    source: np.ndarray,
    labels: np.ndarray,
    target: np.ndarray,
    *,
    num_classes: int,
    dimension: int = 30,
    beta: float = 0.1,
    mu: float = 1.0,
    lam: float = 1.0,
    iterations: int = 10,
) -> JgsaFit:
    """The linear form of the paper's algorithm: two projections, refined with pseudo-labels.

    Each iteration takes the d leading solutions W = [A; B] of the generalised eigenproblem
    ``P W = Q W Φ`` (see :func:`jgsa_matrices`), scaled to Wᵀ Q W = I, and labels the target
    anew: each of target·B by its nearest of source·A. The first labels come from the unprojected
    features. The iteration ends early when the labels do not change.

    Args:
        source: ``[n, D]``, standardised per domain.
        labels: ``[n]`` in 0..K-1.
        target: ``[m, D]``.
        dimension: d, cut to D and to the solutions with Φ > 0: the others are arbitrary.
        beta: weight of the source's between-class and within-class scatter.
        mu: weight of the target's variance, and of ‖B‖² that bounds its scale; positive.
        lam: weight λ of the subspace divergence ‖A - B‖²; positive.
        iterations: T, at least 1.
    """
    width = source.shape[1]
    dimension = min(dimension, width)
    pseudo = nearest_labels(source, labels, target)
    while True:
        p, q = jgsa_matrices(
            source, labels, target, pseudo, num_classes=num_classes, beta=beta, mu=mu, lam=lam
        )
        values, columns = eigh(p, q, subset_by_index=(2 * width - dimension, 2 * width - 1))
        kept = max(1, int((values > _NOISE * values[-1]).sum()))
        columns = fix_signs(columns[:, ::-1][:, :kept])
        fit = JgsaFit(columns[:width], columns[width:], pseudo)
        iterations -= 1
        if iterations <= 0:
            return fit
        pseudo = nearest_labels(source @ fit.source_map, labels, target @ fit.target_map)
        if np.array_equal(pseudo, fit.pseudo_labels):
            return fit


def jgsa_matrices(
    source: np.ndarray,
    labels: np.ndarray,
    target: np.ndarray,
    pseudo_labels: np.ndarray,
    *,
    num_classes: int,
    beta: float,
    mu: float,
    lam: float,
) -> tuple[np.ndarray, np.ndarray]:
    """P and Q ``[2D, 2D]`` of the objective ``max tr(Wᵀ P W) / tr(Wᵀ Q W)``.

        P = [[β S_b, 0], [0, μ S_t]]
        Q = [[M_s + λI + β S_w, M_st - λI], [M_ts - λI, M_t + (λ + μ) I]]

    S_t is the target's scatter, S_b and S_w the source's between-class and within-class scatter, M
    the squared distances of domain and class means. All scatters are sums over samples. P is
    positive semi-definite and, for λ, μ > 0, Q positive definite.
    """
    width = source.shape[1]
    between, within = _class_scatter(source, labels, num_classes)
    centred = target - target.mean(0)
    p = np.zeros((2 * width, 2 * width))
    p[:width, :width] = beta * between
    p[width:, width:] = mu * centred.T @ centred

    delta = mean_differences(labels, pseudo_labels, num_classes=num_classes)
    n = len(source)
    means = np.concatenate([source.T @ delta[:n], target.T @ delta[n:]])
    eye = np.eye(width)
    q = means @ means.T
    q += np.block([[lam * eye + beta * within, -lam * eye], [-lam * eye, (lam + mu) * eye]])
    return p, q


def _class_scatter(
    features: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Between-class and within-class scatter (sums, not means), ``[D, D]`` each."""
    members = np.eye(num_classes)[labels]
    counts = members.sum(0)
    means = members.T @ features / np.maximum(counts, 1)[:, None]
    off_centre = means - features.mean(0)
    residual = features - means[labels]
    return (off_centre.T * counts) @ off_centre, residual.T @ residual

"""MEDA: manifold embedded distribution alignment (Wang et al., ACM Multimedia 2018).

This file has the classifier; its manifold features come from :mod:`trainer.shallow.gfk`.

Axis letters: n source samples, m target samples, N = n + m, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.linalg import lu_factor, lu_solve

from trainer.shallow.discrepancy import mean_differences, nearest_labels


@dataclass(frozen=True)
class MedaWeights:
    """The coefficients of the objective with the paper's settings for objects.

    ``mu`` None: estimated anew in every iteration. ``mmd`` *frobenius* divides M by its Frobenius
    norm, *printed* leaves it.
    """

    eta: float = 0.1
    lam: float = 10.0
    rho: float = 1.0
    neighbors: int = 10
    mu: float | None = None
    mmd: Literal["frobenius", "printed"] = "frobenius"
    laplacian: Literal["normalised", "plain"] = "normalised"
    iterations: int = 10


@dataclass(frozen=True)
class MedaFit:
    """``f(z) = Σ_i k(z_i, z) β_i``: ``coefficients`` β ``[N, K]`` of the N points in their order,
    the kernel's ``variance`` σ², the last ``mu`` and the target's ``pseudo_labels [m]`` behind it.
    """

    coefficients: np.ndarray
    variance: float
    mu: float
    pseudo_labels: np.ndarray


def fit_meda(
    source: np.ndarray,
    labels: np.ndarray,
    target: np.ndarray,
    *,
    num_classes: int,
    weights: MedaWeights | None = None,
) -> MedaFit:
    """Structural risk minimisation with dynamic distribution alignment.

        β = ((A + λM + ρL) K + ηI)⁻¹ A Y,   M = (1 - μ) M_0 + μ Σ_c M_c

    A marks the source rows, Y holds one-hot labels, K is the RBF kernel, L the graph Laplacian. The
    first pseudo-labels, on which M depends, are those of the nearest source sample; later ones are
    the argmax of f. The iteration ends early when they do not change. Only M changes between
    iterations and it has rank 1 + K, so the N×N system is factorised once and M enters by
    Woodbury's identity.

    Args:
        source: manifold features of unit length ``[n, D]``.
        labels: ``[n]`` in 0..K-1.
        target: manifold features of unit length ``[m, D]``.

    Memory is O(N²), time O(N³ + iterations · N² K).
    """
    w = weights or MedaWeights()
    n, points = len(source), np.concatenate([source, target])
    variance = _variance(points)
    kernel = rbf_kernel(points, points, variance=variance)
    is_source = np.arange(len(points)) < n
    system = w.rho * graph_laplacian(points, neighbors=w.neighbors, kind=w.laplacian) @ kernel
    system[is_source] += kernel[is_source]
    system[np.diag_indices_from(system)] += w.eta
    factors = lu_factor(system, overwrite_a=True)
    one_hot = np.eye(num_classes)[labels]
    free = lu_solve(factors, np.concatenate([one_hot, np.zeros((len(target), num_classes))]))

    pseudo, mu = nearest_labels(source, labels, target), 0.5
    for _ in range(max(1, w.iterations)):
        used = pseudo
        mu = alignment_weight(source, labels, target, used) if w.mu is None else w.mu
        delta = mean_differences(labels, used, num_classes=num_classes)
        left = w.lam * _scaled(delta, mu, w.mmd)
        pushed, right = lu_solve(factors, left), (delta.T @ kernel)
        inner = np.eye(delta.shape[1]) + right @ pushed
        beta = free - pushed @ np.linalg.solve(inner, right @ free)
        pseudo = (kernel[n:] @ beta).argmax(1)
        if np.array_equal(pseudo, used):
            break
    return MedaFit(beta, variance, mu, used)


def _scaled(delta: np.ndarray, mu: float, scale: str) -> np.ndarray:
    """``Δ·diag`` such that ``M = (Δ·diag) Δᵀ``, divided by its Frobenius norm if asked.

    As printed M's entries are O(1/N²) beside a squared error summed over n samples, so alignment
    would fade with the number of samples; the authors' code divides by the norm.
    """
    weights = np.full(delta.shape[1], mu)
    weights[0] = 1 - mu
    if scale == "frobenius":
        gram = delta.T @ delta * weights
        weights = weights / max(np.sqrt(np.sum(gram * gram.T)), np.finfo(np.float64).tiny)
    return delta * weights


def rbf_kernel(x: np.ndarray, y: np.ndarray, *, variance: float) -> np.ndarray:
    """``exp(-‖x - y‖² / 2σ²)`` of ``x [n, D]`` and ``y [m, D]``, ``[n, m]``, in [0, 1]."""
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
    return np.exp(-np.maximum(squares, 0.0) / (2 * variance))


def _variance(points: np.ndarray) -> float:
    """The kernel's σ²: the variance of the points, summed over features; 1 for constant ones."""
    variance = float(points.var(0).sum())
    return variance if variance > 1e-12 else 1.0


def graph_laplacian(
    points: np.ndarray, *, neighbors: int, kind: Literal["normalised", "plain"] = "normalised"
) -> np.ndarray:
    """Laplacian ``[N, N]`` of the nearest-neighbour graph of unit ``points [N, D]``.

    Two points are joined if one is among the ``neighbors`` most similar others of the other; the
    weight is their cosine, not below 0. *plain* is D - W as printed, *normalised*
    I - D^(-1/2) W D^(-1/2) as in the authors' code, for which ρ was chosen.
    """
    size, neighbors = len(points), min(neighbors, len(points) - 1)
    similar = points @ points.T
    np.fill_diagonal(similar, -np.inf)
    order = np.argsort(-similar, axis=1, kind="stable")[:, :neighbors]
    joined = np.zeros((size, size), dtype=bool)
    np.put_along_axis(joined, order, True, axis=1)
    joined |= joined.T
    weights = np.where(joined, np.maximum(similar, 0.0), 0.0)
    degree = weights.sum(1)
    if kind == "plain":
        return np.diag(degree) - weights
    root = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1.0)), 0.0)
    return np.eye(size) - root[:, None] * weights * root


def alignment_weight(
    source: np.ndarray, labels: np.ndarray, target: np.ndarray, pseudo_labels: np.ndarray
) -> float:
    """The adaptive factor μ in [0, 1]: the share of the class-wise divergence.

        μ = 1 - d_M / (d_M + Σ_c d_c),   d = 2 (1 - 2ε), not below 0

    ε is a linear classifier's error at telling the domains apart: over all samples for d_M, within
    class c for d_c. The paper leaves the protocol open: least squares, balanced between the
    domains, trained on every other sample and tested on the rest, both ways. Classes with fewer
    than two samples in a domain do not count; 0.5 where no divergence is found.
    """
    marginal = _proxy_distance(source, target)
    within = sum(
        _proxy_distance(source[labels == c], target[pseudo_labels == c])
        for c in np.intersect1d(labels, pseudo_labels)
    )
    total = marginal + within
    return 0.5 if total <= 0 else float(1 - marginal / total)


def _proxy_distance(source: np.ndarray, target: np.ndarray) -> float:
    """Proxy A-distance of ``[n, D]`` and ``[m, D]``, in [0, 2]."""
    from sklearn.linear_model import RidgeClassifier  # slow to load, see discrepancy.py

    if min(len(source), len(target)) < 2:
        return 0.0
    errors = []
    for part in (0, 1):
        train = np.concatenate([source[part::2], target[part::2]])
        domain = np.repeat([0, 1], [len(source[part::2]), len(target[part::2])])
        model = RidgeClassifier(class_weight="balanced").fit(train, domain)
        errors.append(np.mean(model.predict(source[1 - part :: 2]) == 1))
        errors.append(np.mean(model.predict(target[1 - part :: 2]) == 0))
    return max(0.0, 2 * (1 - 2 * float(np.mean(errors))))

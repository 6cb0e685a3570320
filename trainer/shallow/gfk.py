"""GFK: geodesic flow kernel (Gong, Shi, Sha and Grauman, CVPR 2012).

Axis letters: n source samples, m target samples, D features, d subspace dimension.
"""

from __future__ import annotations

import numpy as np

from trainer.shallow.axes import principal_axes


def fit_gfk(source: np.ndarray, target: np.ndarray, *, dimension: int | None = None) -> np.ndarray:
    """The symmetric square root of the geodesic flow kernel, ``[D, D]``.

    Args:
        source: ``[n, D]``, standardised per domain.
        target: ``[m, D]``.
        dimension: d of both PCA subspaces; None takes :func:`subspace_dimension`. Cut to the rank
            of the data; constant features give the kernel 0.

    Features ``x @ root`` have the paper's kernel ``xᵀ G y`` as inner product.
    """
    axes_s, axes_t = principal_axes(source), principal_axes(target)
    if dimension is None:
        dimension = subspace_dimension(source, target)
    dimension = min(dimension, axes_s.shape[1], axes_t.shape[1])
    return flow_kernel(axes_s[:, :dimension], axes_t[:, :dimension])[1]


def subspace_dimension(source: np.ndarray, target: np.ndarray, *, tolerance: float = 0.01) -> int:
    """The optimal dimension by the subspace disagreement measure of the paper, at least 1.

        D(d) = ½ (sin α_d + sin β_d),   d* = min {d : D(d) = 1}

    where α_d, β_d are the d-th (largest) principal angles of the source's and the target's PCA
    subspaces with that of both together. 1 is never reached exactly: we take the first d within
    ``tolerance`` (not given in the paper), else the d of the largest D(d). d is at most D/2, as the
    geodesic needs, and at most the rank of either domain.
    """
    axes_s, axes_t, axes = map(principal_axes, (source, target, np.concatenate([source, target])))
    most = min(axes_s.shape[1], axes_t.shape[1], axes.shape[1], max(1, source.shape[1] // 2))
    cross_s, cross_t = axes_s.T @ axes, axes_t.T @ axes
    measure = np.array([(_sine(cross_s, d) + _sine(cross_t, d)) / 2 for d in range(1, most + 1)])
    if len(measure) == 0:
        return 1
    reached = np.flatnonzero(measure >= 1 - tolerance)
    return int(reached[0] if len(reached) else measure.argmax()) + 1


def _sine(cross: np.ndarray, d: int) -> float:
    """Sine of the largest angle between two d-dimensional subspaces with cosines ``cross``."""
    cosine = np.linalg.svd(cross[:d, :d], compute_uv=False)[-1]
    return float(np.sqrt(max(0.0, 1.0 - cosine**2)))


def flow_kernel(source_axes: np.ndarray, target_axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``G = ∫_0^1 Φ(t) Φ(t)ᵀ dt`` in closed form, and its symmetric square root.

    Φ(t) is the geodesic on the Grassmann manifold from the source's to the target's subspace. With
    P_Sᵀ P_T = U cos(θ) Vᵀ and the unit directions q_i from P_S towards P_T,

        G = Σ_i [p_i q_i] [[a_i, b_i], [b_i, c_i]] [p_i q_i]ᵀ,   p_i = (P_S U)_i,
        a = ½ (1 + sin 2θ / 2θ),  b = ½ (1 - cos 2θ) / 2θ,  c = ½ (1 - sin 2θ / 2θ)

    The paper leaves out the ½; its b is negative because its second basis is -q. The q_i come from
    ``(I - P_S P_Sᵀ) P_T V``, so no orthogonal complement is formed, and 2d > D is legal. The p_i
    and q_i are orthonormal: the root of G is the sum of the 2x2 roots. Neither depends on the bases
    chosen within the two subspaces.

    Args:
        source_axes: orthonormal P_S ``[D, d]``.
        target_axes: orthonormal P_T ``[D, d]``.

    Returns G and its root, ``[D, D]`` each.
    """
    u, cosines, vt = np.linalg.svd(source_axes.T @ target_axes)
    p = source_axes @ u
    q = target_axes @ vt.T - p * cosines
    sines = np.linalg.norm(q, axis=0)
    q = q / np.maximum(sines, np.finfo(np.float64).tiny)  # θ = 0: b = c = 0, any q will do
    angle = 2 * np.arctan2(sines, cosines)
    a = (1 + np.sinc(angle / np.pi)) / 2
    b = np.sin(angle / 2) * np.sinc(angle / (2 * np.pi)) / 2  # (1 - cos x) / x, exact for small x
    c = (1 - np.sinc(angle / np.pi)) / 2
    # The root of a 2x2 matrix M ≥ 0 is (M + √det I) / √(trace + 2 √det); here the trace is 1.
    det = np.sqrt(np.maximum(a * c - b * b, 0.0))
    norm = np.sqrt(1 + 2 * det)
    return _assemble(p, q, a, b, c), _assemble(p, q, (a + det) / norm, b / norm, (c + det) / norm)


def _assemble(
    p: np.ndarray, q: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> np.ndarray:
    across = (p * b) @ q.T
    return (p * a) @ p.T + across + across.T + (q * c) @ q.T

"""Adaptive feature norm (AFN, Xu et al., ICCV 2019), hard and stepwise.

Axis letters: n rows on this rank, D feature width.
"""

from __future__ import annotations

from torch import Tensor

from trainer.synchronised import euclidean_norm, global_mean


def feature_norm(features: Tensor, *, radius: float) -> Tensor:
    """``(mean ‖f‖ - R)²`` of one domain (HAFN; HIFA eq. 4), a scalar in [0, ∞).

    The mean runs over the global batch and is squared afterwards: single norms may differ. A
    domain without rows gives 0.

    Args:
        features: ``[n, D]`` of this rank's rows; n may be 0.
        radius: R; a norm, so the value that fits depends on D.
    """
    return global_mean(euclidean_norm(features) - radius).square()


def stepwise_feature_norm(features: Tensor, *, delta: float) -> Tensor:
    """``mean (‖f‖ - (‖f‖ + Δ))²`` with the inner ``‖f‖ + Δ`` detached (SAFN), a scalar.

    Each row is asked for a norm larger by Δ than it has. The value is always Δ² and says nothing;
    the gradient is what counts. A domain without rows gives 0.

    Args:
        features: ``[n, D]`` of this rank's rows; n may be 0.
        delta: Δ, the step.
    """
    norms = euclidean_norm(features)
    return global_mean((norms - (norms.detach() + delta)).square())

"""Adaptive feature norm (AFN, Xu et al., ICCV 2019), hard and stepwise.

Axis letters: n rows on this rank, D feature width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from trainer.synchronised import euclidean_norm, global_mean

NormPenalty = Literal["squared", "absolute"]


def feature_norm(features: Tensor, *, radius: float, penalty: NormPenalty = "squared") -> Tensor:
    """``(mean ‖f‖ - R)²`` of one domain (HAFN; HIFA eq. 4), a scalar in [0, ∞).

    The mean over the global batch is compared with R, so single norms may differ from it. A
    domain without rows gives 0.

    Args:
        features: ``[n, D]`` of this rank's rows; n may be 0.
        radius: R, the wanted norm; a fitting value depends on D.
        penalty: squared, or ``|mean ‖f‖ - R|``, whose gradient does not grow with the distance.
    """
    apart = global_mean(euclidean_norm(features) - radius)
    return apart.square() if penalty == "squared" else apart.abs()


def stepwise_feature_norm(features: Tensor, *, delta: float) -> Tensor:
    """``mean (‖f‖ - (‖f‖ + Δ))²`` with the inner ``‖f‖ + Δ`` detached (SAFN), a scalar.

    Each row is pulled to a norm that is larger by Δ. The value is always Δ²; only the gradient has
    a meaning. A domain without rows gives 0.

    Args:
        features: ``[n, D]`` of this rank's rows; n may be 0.
        delta: Δ, the step.
    """
    norms = euclidean_norm(features)
    return global_mean((norms - (norms.detach() + delta)).square())

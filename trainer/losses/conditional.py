"""Conditional adversarial loss (CDAN, Long et al., NeurIPS 2018).

Axis letters: n rows on this rank, D embedding width, K classes, R width of the randomised map.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.losses.entropy import row_entropy
from trainer.synchronised import all_reduce_sum


def multilinear_map(features: Tensor, predictions: Tensor) -> Tensor:
    """Outer product of features ``[n, D]`` and predictions ``[n, K]`` per row, ``[n, D·K]``."""
    return (features[:, :, None] * predictions[:, None, :]).flatten(1)


def randomized_map(features: Tensor, predictions: Tensor, *, maps: tuple[Tensor, Tensor]) -> Tensor:
    """``(f M_f) ⊙ (g M_g) / √R`` per row, ``[n, R]``, a map of fixed width for any D and K.

    Inner products are unbiased estimates of those of the multilinear map.

    Args:
        maps: ``M_f [D, R]`` and ``M_g [K, R]``, fixed, of zero mean and unit variance.
    """
    first, second = maps
    return (features @ first) * (predictions @ second) / first.shape[1] ** 0.5


@torch.no_grad()
def certainty(logits: Tensor) -> Tensor:
    """Entropy weights ``1 + exp(-H(p))`` of CDAN+E, ``[n, K] -> [n]``, in (1, 2], detached."""
    return 1 + torch.exp(-row_entropy(logits))


def conditional_adversarial(
    source: tuple[Tensor, Tensor],
    target: tuple[Tensor, Tensor],
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Weighted binary cross-entropy of a domain discriminator, source = 1, target = 0, in [0, ∞).

    As :func:`trainer.losses.adversarial.adversarial` with a weighted mean in each domain; the
    weights are normalised over the global batch.

    Args:
        source, target: discriminator logits ``[n]`` of this rank's rows, n may be 0, and their
            weights ``[n]``, taken as constants.
    """
    s = _weighted_mean(F.softplus(-source[0]), source[1])
    t = _weighted_mean(F.softplus(target[0]), target[1])
    return (s + t) * (0.5 if reduction == "mean" else 1.0)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    weights = weights.detach()
    total = all_reduce_sum(torch.stack([(values * weights).sum(), weights.sum()]))
    return total[0] / total[1].detach().clamp(min=1e-12)

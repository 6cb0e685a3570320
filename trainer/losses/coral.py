"""Correlation alignment (Deep CORAL, Sun and Saenko, ECCV workshops 2016).

Axis letters: n source and m target rows on this rank, D feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.synchronised import all_reduce_sum, full_precision


def coral(source: Tensor, target: Tensor) -> Tensor:
    """``‖C_s - C_t‖_F² / (4 D²)`` of the domains' covariances, a scalar in [0, ∞).

    The covariances ``[D, D]`` are those of the global batch with N - 1 in the denominator, from
    centred features in float32 at least: moments minus the product of means would cancel.

    Args:
        source: ``[n, D]`` of this rank's rows; n may be 0.
        target: ``[m, D]``; counts may differ.

    A domain with fewer than two rows has no covariance: the loss is then 0 with gradient 0.
    """
    domains = [full_precision(x) for x in (source, target)]
    with torch.no_grad():
        totals = torch.stack([torch.cat([x.sum(0), x.new_full((1,), len(x))]) for x in domains])
        totals = all_reduce_sum(totals)
        counts = totals[:, -1]
        means = totals[:, :-1] / counts.clamp(min=1)[:, None]
    # The means may be constants: the gradient through them is Σ(x - mean) = 0.
    centred = [x - mean for x, mean in zip(domains, means, strict=True)]
    scatter = all_reduce_sum(torch.stack([x.T @ x for x in centred]))
    covariance = scatter / (counts - 1).clamp(min=1)[:, None, None]
    gap = (covariance[0] - covariance[1]).square().sum() / (4 * source.shape[1] ** 2)
    return gap * (counts.min() > 1)

"""Means and covariances over the rows of all ranks, in float64.

Axis letters: n local rows, K classes, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.synchronised.class_centers import ClassSums, class_sums
from trainer.synchronised.collectives import all_reduce_sum


@dataclass(frozen=True)
class ClassMoments:
    """Per class: rows ``counts [K]``, ``means [K, D]`` and ``covariances [K, D, D]``, float64."""

    counts: Tensor
    means: Tensor
    covariances: Tensor

    @property
    def present(self) -> Tensor:
        """``[K]`` bool: the class has at least one row."""
        return self.counts > 0


@torch.no_grad()
def class_moments(rows: Tensor, labels: Tensor, *, num_classes: int) -> ClassMoments:
    """Global class means and full covariances Σ(x-μ)(x-μ)ᵀ/n_k in float64, no gradient.

    Args:
        rows: ``[n, D]`` of this rank; n may be 0.
        labels: ``[n]`` int64 in 0..K-1.
        num_classes: K.

    Two all-reduces, O(K·D) and O(K·D²): the second sums products about the means of the first,
    since Σxxᵀ/n - μμᵀ cancels for features far from 0 and may lose positive semi-definiteness.
    The covariance of a class with one row is 0; without rows its mean is 0 too.
    """
    rows = rows.double()
    (first,) = class_sums((rows, labels), num_classes=num_classes)
    centered = rows - first.means[labels]
    parts = [centered[labels == k] for k in range(num_classes)]
    second = all_reduce_sum(torch.stack([x.T @ x for x in parts]))
    return ClassMoments(
        first.counts, first.means, second / first.counts.clamp(min=1)[:, None, None]
    )


@torch.no_grad()
def class_covariances(rows: Tensor, labels: Tensor, sums: ClassSums, *, mask: Tensor) -> Tensor:
    """Global class covariances ``[K, D, D]`` of a batch about its class means, no gradient.

    As :func:`class_moments`, for rows that are few and sums that are known: one all-reduce of
    K·D², in the rows' own precision, and nothing waits for a GPU.

    Args:
        rows: ``[n, D]`` of this rank; n may be 0.
        labels: ``[n]`` int64 in 0..K-1; any number where ``mask`` is false.
        sums: the classes' sums of these rows over all ranks.
        mask: ``[n]`` bool, the rows that count.
    """
    labels = labels.masked_fill(~mask, 0)
    centered = (rows - sums.means[labels]) * mask[:, None]
    of_class = labels == torch.arange(len(sums.counts), device=labels.device)[:, None]
    by_class = of_class[:, :, None] * centered
    products = all_reduce_sum(by_class.transpose(1, 2) @ centered)
    return products / sums.counts.clamp(min=1)[:, None, None]


@torch.no_grad()
def standardised(rows: Tensor, kind: Literal["none", "center", "zscore"]) -> Tensor:
    """``rows [n, D]`` in float64, standardised by the statistics of all ranks' rows.

    ``center`` subtracts the mean; ``zscore`` also divides by each feature's standard deviation. A
    constant feature becomes 0."""
    rows = rows.double()
    if kind == "none":
        return rows
    total = all_reduce_sum(torch.cat([rows.sum(0), rows.new_tensor([float(len(rows))])]))
    mean = total[:-1] / total[-1].clamp(min=1)
    rows = rows - mean
    if kind == "center":
        return rows
    scale = (all_reduce_sum(rows.square().sum(0)) / total[-1].clamp(min=1)).sqrt()
    # Relative to the mean: the spread of a constant feature is rounding noise, rarely exact 0.
    return torch.where(scale > 1e-12 * mean.abs(), rows / scale.clamp(min=1e-300), 0.0)

"""Maximum mean discrepancy (DAN, Long et al., ICML 2015) and its joint form (JAN, ICML 2017).

Axis letters: n source and m target rows on this rank, N and M over all ranks, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from trainer.synchronised import all_gather_rows, all_reduce_sum, full_precision, rank

Estimator = Literal["biased", "unbiased"]
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


def mmd(
    source: Tensor,
    target: Tensor,
    *,
    scales: Sequence[float] = _SCALES,
    estimator: Estimator = "biased",
    bandwidth: float | None = None,
) -> Tensor:
    """Squared MMD of two sets of features under a multi-kernel Gaussian, a scalar.

        k(x, y) = Σ_u exp(-‖x - y‖² / (u·b))
        MMD² = mean k(s, s') + mean k(t, t') - 2 mean k(s, t)

    The kernels are summed, as in the public code of DAN and JAN, to which published weights refer.

    Args:
        source: ``[n, D]`` of this rank's rows; n may be 0.
        target: ``[m, D]``; N and M may differ.
        scales: the factors u.
        estimator: ``biased`` is the V-statistic, in [0, 2·len(scales)]; ``unbiased`` the
            U-statistic, without pairs of a row with itself, which may be negative.
        bandwidth: b; null takes the mean squared distance of two different rows of the pooled
            global batch, detached and kept above rounding error.

    An empty domain, and for ``unbiased`` one with a single row, gives 0 with gradient 0. Distances
    are computed in float32 at least, my rows against everyone's.
    """
    return jmmd([source], [target], scales=scales, estimator=estimator, bandwidths=[bandwidth])


def jmmd(
    source_layers: Sequence[Tensor],
    target_layers: Sequence[Tensor],
    *,
    scales: Sequence[float] = _SCALES,
    estimator: Estimator = "biased",
    bandwidths: Sequence[float | None] | None = None,
) -> Tensor:
    """Squared MMD of the joint distribution of several layers (JAN), a scalar.

    As :func:`mmd` with the product of the layers' kernels, in [0, 2·len(scales)^L] for L layers
    when biased.

    Args:
        source_layers: features ``[n, D_l]`` of each layer for the same rows, in JAN the embedding
            and the softmax (not the logits).
        target_layers: the same layers for the target rows, ``[m, D_l]``.
        scales: factors of the bandwidth in each layer.
        estimator: as in :func:`mmd`.
        bandwidths: b of each layer; null, for one layer or all, as in :func:`mmd`.
    """
    pairs = zip(source_layers, target_layers, strict=True)
    layers = [torch.cat(pair) for pair in pairs]
    layers = [full_precision(x) for x in layers]
    widths = [layer.shape[1] for layer in layers]
    is_source = torch.arange(len(layers[0]), device=layers[0].device) < len(source_layers[0])
    # The domain of a row is gathered with it, so one gather serves all layers and both domains.
    tags = torch.stack([is_source, torch.ones_like(is_source) * rank()], 1)
    everyone = all_gather_rows(torch.cat([*layers, tags.to(layers[0].dtype)], 1))
    *columns, tags = everyone.split([*widths, 2], 1)

    own = tags[:, 1] == rank()
    itself = own & (own.cumsum(0) - 1 == torch.arange(len(is_source), device=own.device)[:, None])
    kernel = layers[0].new_ones(())
    for rows, others, b in zip(layers, columns, bandwidths or [None] * len(layers), strict=True):
        kernel = kernel * _kernel(rows, others, itself, scales, b)
    weights = _pair_weights(is_source, tags[:, 0] > 0, itself, estimator)
    return all_reduce_sum((kernel * weights.to(kernel.dtype)).sum())


def _kernel(
    rows: Tensor, others: Tensor, itself: Tensor, scales: Sequence[float], bandwidth: float | None
) -> Tensor:
    """``[n + m, N + M]`` sum of Gaussian kernels of my rows against everyone's."""
    # Distances do not depend on the origin. Near the mean the Gram form loses no digits.
    center = others.detach().mean(0) if len(others) else others.new_zeros(others.shape[1])
    rows, others = rows - center, others - center
    squares = rows.square().sum(1)[:, None] + others.square().sum(1)[None, :]
    distances = (squares - 2 * rows @ others.T).clamp(min=0).masked_fill(itself, 0)
    b = _bandwidth(others, center) if bandwidth is None else bandwidth
    return torch.stack([torch.exp(-distances / (scale * b)) for scale in scales]).sum(0)


@torch.no_grad()
def _bandwidth(centred: Tensor, center: Tensor) -> Tensor:
    """Mean squared distance of two different rows, from their squared distances to the mean."""
    count = max(len(centred), 2)
    mean = 2 * centred.square().sum() / (count - 1)
    # Between equal rows only rounding error is left. As a bandwidth it would blow up gradients.
    floor = torch.finfo(mean.dtype).eps * center.square().sum() + 1e-12
    return torch.maximum(mean, floor)


def _pair_weights(
    row_is_source: Tensor, column_is_source: Tensor, itself: Tensor, estimator: Estimator
) -> Tensor:
    """``[n + m, N + M]`` float64: the weight of each pair's kernel value in the estimate."""
    n, m = column_is_source.sum().double(), (~column_is_source).sum().double()
    one = 1.0 if estimator == "unbiased" else 0.0
    within_s, within_t = 1 / (n * (n - one)).clamp(min=1), 1 / (m * (m - one)).clamp(min=1)
    row, column = row_is_source[:, None], column_is_source[None, :]
    within = torch.where(column, within_s, within_t)
    weights = torch.where(row == column, within, -1 / (n * m).clamp(min=1))
    if estimator == "unbiased":
        weights = weights.masked_fill(itself, 0)
    enough = torch.minimum(n, m) > one
    return weights * enough

"""Metric-learning losses over all pairs of the global batch.

Each rank compares its own rows (anchors) with all ranks' (candidates), O(N²/W) per rank. Axis
letters: n local rows, N global rows, M global candidates, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.losses.centers import Reduction
from trainer.synchronised import (
    all_gather_rows,
    all_reduce_sum,
    euclidean_norm,
    full_precision,
    global_mean,
    rank,
)

_ROWS_PER_RANK = 1 << 40


def batch_hard(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    candidates: tuple[Tensor, Tensor] | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Triplet loss on the hardest pairs of the global batch (DCA eq. 1-3), range [0, ∞).

    Mean (or sum) over anchors of ``max(0, margin + ‖z - z_p‖ - ‖z - z_n‖)``, where z_p is the
    farthest candidate of the anchor's class and z_n the nearest of any other class; distances are
    not squared. Anchors without a positive or a negative in the global batch are left out. The
    paper prints the sum over the batch; the scale of the mean does not depend on its size. The
    mean is ``margin`` where all points coincide.

    Args:
        embeddings: ``[n, D]`` of this rank's anchors; n may be 0.
        labels: ``[n]`` classes.
        margin: η.
        candidates: embeddings ``[m, D]`` and labels ``[m]`` of another modality on this rank; by
            default the anchors themselves, each left out of its own positives.
        reduction: mean or sum over the anchors of the global batch.

    The choice of pairs has no gradient. Distances have a gradient in both of their points.
    """
    z = full_precision(embeddings)
    columns, same, other = _pairs(z, labels, candidates)
    if not len(columns):  # true on every rank alike; argmax of an empty tensor is an error
        return z[:0].sum() + columns.sum()
    with torch.no_grad():
        distances = euclidean_norm(z[:, None] - columns)
        farthest = distances.masked_fill(~same, -torch.inf).argmax(1)
        nearest = distances.masked_fill(~other, torch.inf).argmin(1)
    gap = euclidean_norm(z - columns[farthest]) - euclidean_norm(z - columns[nearest])
    used = same.any(1) & other.any(1)
    mean = global_mean((margin + gap).clamp(min=0), used)
    if reduction == "mean":
        return mean
    return mean * all_reduce_sum(used.to(z.dtype).sum())


def contrastive(
    embeddings: Tensor,
    labels: Tensor,
    *,
    positive_scale: float,
    negative_scale: float,
    candidates: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Contrastive loss over all pairs of the global batch, range [0, ∞).

    After Wang et al. (CVPR 2015), who use an exponential without margin for different classes.

    With ``d`` the L1 distance of a pair: the mean of ``d²/C_p`` over pairs of one class plus the
    mean of ``C_n·exp(-2.77·d/C_n)`` over pairs of different classes. Separate means keep the many
    negative pairs of a batch from outweighing the positive ones.

    Args:
        embeddings: ``[n, D]`` of this rank's rows; n may be 0.
        labels: ``[n]`` classes.
        positive_scale: C_p.
        negative_scale: C_n.
        candidates: as in :func:`batch_hard`; by default the rows themselves, none with itself.
    """
    z = full_precision(embeddings)
    columns, same, other = _pairs(z, labels, candidates)
    distances = (z[:, None] - columns).abs().sum(-1)
    pull = global_mean(distances.square() / positive_scale, same)
    push = global_mean(negative_scale * torch.exp(-2.77 / negative_scale * distances), other)
    return pull + push


def _pairs(
    z: Tensor, labels: Tensor, candidates: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """All ranks' candidates ``[M, D]``, and two masks ``[n, M]`` of each anchor's pairs: with
    candidates of its class, except itself, and with candidates of another class."""
    mine, classes = (
        (z, labels) if candidates is None else (full_precision(candidates[0]), candidates[1])
    )
    ids = torch.arange(len(mine), device=mine.device) + rank() * _ROWS_PER_RANK
    names = all_gather_rows(torch.stack([classes, ids], 1))
    same = labels[:, None] == names[:, 0]
    other = ~same
    if candidates is None:
        same = same & (ids[:, None] != names[:, 1])
    return all_gather_rows(mine), same, other

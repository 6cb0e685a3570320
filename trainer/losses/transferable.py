"""Cross-entropy on features moved to the target domain (FTSPL eq. 1-4; TSA, CVPR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.losses.classification import cross_entropy
from trainer.synchronised import ClassSums, all_reduce_sum, full_precision


def transferable_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor,
    *,
    shift: Tensor | None,
    covariance: Tensor | None,
    strength: float = 1.0,
) -> Tensor:
    """Mean over the global batch of cross-entropy on the logits Z of FTSPL eq. 4, range [0, ∞).

    ``Z^k = ŷ^k + (w_k - w_y)ᵀ Δμ^y + strength/2 · (w_k - w_y)ᵀ Σ^y (w_k - w_y)``, an upper bound
    of the expected cross-entropy of features drawn from N(f + Δμ^y, strength · Σ^y).

    Args:
        logits: ``[n, K]`` of this rank's rows, ŷ = W f + b; n may be 0.
        labels: ``[n]`` int64 in 0..K-1, the true class y.
        weight: ``[K, D]`` of the last layer, rows w_k.
        shift: Δμ ``[K, D]``, the same on every rank; None: 0.
        covariance: Σ ``[K, D, D]``, the same on every rank; None: 0.
        strength: factor of Σ, 1 as printed.

    The gradient flows through everything that has one; detach what is to stay fixed. The added
    terms depend on (y, k) only, so one K×K table serves a step.
    """
    logits, table = full_precision(logits), weight.new_zeros(len(weight), len(weight))
    if shift is not None:
        table = table + shift_table(weight, shift)
    if covariance is not None:
        table = table + strength / 2 * spread_table(weight, covariance)
    return cross_entropy(logits + table.to(logits.dtype)[labels], labels)


def shift_table(weight: Tensor, shift: Tensor) -> Tensor:
    """``(w_k - w_y)ᵀ Δμ^y`` as ``[K, K]``, row y, column k; the diagonal is 0.

    Args:
        weight: ``[K, D]`` of the last layer, rows w_k.
        shift: Δμ ``[K, D]``. The gradient flows through both.
    """
    scores = shift.to(weight.dtype) @ weight.T
    return scores - scores.diagonal()[:, None]


def spread_table(weight: Tensor, covariance: Tensor) -> Tensor:
    """``(w_k - w_y)ᵀ Σ^y (w_k - w_y)`` as ``[K, K]``, row y, column k; the diagonal is 0.

    Args:
        weight: ``[K, D]`` of the last layer, rows w_k.
        covariance: Σ ``[K, D, D]``. The gradient flows through both.
    """
    difference = weight[None, :] - weight[:, None]  # [y, k, D]: w_k - w_y
    return ((difference @ covariance.to(weight.dtype)) * difference).sum(2)


def batch_spread_table(
    weight: Tensor, features: Tensor, labels: Tensor, sums: ClassSums, *, mask: Tensor
) -> Tensor:
    """:func:`spread_table` of the global batch's covariances, without forming any of them.

    With ``Σ^y`` the mean of ``(f - μ^y)(f - μ^y)ᵀ`` over the class's rows, the table is the mean
    of ``((w_k - w_y)ᵀ (f - μ^y))²``: K×K numbers travel and not K×D×D. The gradient flows through
    ``weight`` and ``features``; rows of classes without rows are 0.

    Args:
        weight: ``[K, D]``.
        features: ``[n, D]`` of this rank's rows; n may be 0.
        labels: ``[n]`` int64 in 0..K-1; any number where ``mask`` is false.
        sums: the classes' sums of these rows over all ranks.
        mask: ``[n]`` bool, the rows that count.
    """
    weight, labels = weight.to(features.dtype), labels.masked_fill(~mask, 0)
    scores = (features - sums.means[labels]) @ weight.T
    squares = (scores - scores.gather(1, labels[:, None])).square() * mask[:, None]
    # As one_hot, which on a CPU looks at the labels first.
    of_class = labels == torch.arange(len(weight), device=labels.device)[:, None]
    return all_reduce_sum(of_class.to(squares.dtype) @ squares) / sums.counts.clamp(min=1)[:, None]

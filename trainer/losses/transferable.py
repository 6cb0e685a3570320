"""Cross-entropy on features moved to the target domain (FTSPL eq. 1-4; TSA, CVPR 2021)."""

from __future__ import annotations

from torch import Tensor

from trainer.losses.classification import cross_entropy
from trainer.synchronised import full_precision


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
        shift: Δμ ``[K, D]``; None: 0.
        covariance: Σ ``[K, D, D]``; None: 0.
        strength: factor of Σ, 1 as printed.

    The gradient flows through ``logits`` and ``weight``, but not through ``shift`` and
    ``covariance``. The added terms depend on (y, k) only, so one K×K table serves a step.
    """
    logits = full_precision(logits)
    table = transfer_table(weight.to(logits.dtype), shift, covariance, strength=strength)
    return cross_entropy(logits + table[labels], labels)


def transfer_table(
    weight: Tensor, shift: Tensor | None, covariance: Tensor | None, *, strength: float = 1.0
) -> Tensor:
    """The term of eq. 4 for the logit of class k in rows of class y: ``[K, K]``, row y, column k.

    Arguments as in :func:`transferable_cross_entropy`; the diagonal is 0.
    """
    difference = weight[None, :] - weight[:, None]  # [y, k, D]: w_k - w_y
    table = weight.new_zeros(len(weight), len(weight))
    if shift is not None:
        table = table + (difference @ shift.detach().to(weight.dtype)[:, :, None]).squeeze(2)
    if covariance is not None:
        spread = difference @ covariance.detach().to(weight.dtype)
        table = table + strength / 2 * (spread * difference).sum(2)
    return table

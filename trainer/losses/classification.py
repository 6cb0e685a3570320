"""Classification loss and accuracy over the global batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.synchronised import global_mean


def cross_entropy(logits: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the global batch, in nats, range [0, ∞).

    Args:
        logits: ``[n, K]`` of this rank's rows; n may be 0.
        labels: ``[n]`` int64 in 0..K-1; any number where ``mask`` is false.
        mask: ``[n]`` bool, the rows that count; None: all of them.
    """
    if mask is not None:
        labels = labels.masked_fill(~mask, 0)
    return global_mean(F.cross_entropy(logits, labels, reduction="none"), mask)


@torch.no_grad()
def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the global batch whose largest logit is its label, range [0, 1], no gradient."""
    return global_mean((logits.argmax(1) == labels).to(logits.dtype))

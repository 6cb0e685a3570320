"""Entropy of predictions (Grandvalet and Bengio, NIPS 2004; DAIS-NET eq. 10-11)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainer.synchronised import global_mean


def row_entropy(logits: Tensor) -> Tensor:
    """``-Σ_k p_k log p_k`` per row, ``[n, K] -> [n]``, in nats, range [0, log K]."""
    log_p = F.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1)


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the softmax over the global batch, in nats, range [0, log K].

    Args:
        logits: ``[n, K]`` of this rank's rows; n may be 0.
    """
    return global_mean(row_entropy(logits))

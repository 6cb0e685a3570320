"""Mutual information between a sample's inner map and its embedding (HIFA section 3.2).

Two estimates of the same kind: a discriminator tells pairs of one sample ("real") from pairs of
two samples ("fake"). Its cross-entropy falls as the embedding keeps more of what the map shows.

Axis letters: n rows on this rank, N rows of the global batch, V views (1 for images), C channels,
P positions of a map, D embedding width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.synchronised import all_gather_rows, global_mean, rank, row_counts


def mutual_information(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Binary cross-entropy of real (1) against fake (0) pairs: HIFA's L_MI, range [0, ∞).

    The mean over all positions of all ranks' rows, real and fake weighing the same; log 2 where
    the discriminator cannot tell them apart. Nothing is detached.

    Args:
        real_logits: ``[n, ...]`` logits of this rank's pairs, one per position; n may be 0.
        fake_logits: ``[n, ...]``, as many positions per row.
    """
    return (global_mean(F.softplus(-real_logits)) + global_mean(F.softplus(fake_logits))) / 2


@torch.no_grad()
def pair_accuracy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Share of positions classified rightly, the mean over real and fake pairs; 0.5 is guessing."""
    real = global_mean((real_logits > 0).to(real_logits.dtype))
    fake = global_mean((fake_logits <= 0).to(fake_logits.dtype))
    return (real + fake) / 2


def jensen_shannon_mutual_information(maps: Tensor, embeddings: Tensor, *, offset: int) -> Tensor:
    """Shifted Jensen-Shannon estimate on dot products over all pairs of the global batch.

    ``mean_real(sp(-u) - log 2) + mean_fake(sp(u) - log 2)`` with sp = softplus and u the product
    of a map's position with an embedding of the same view (Hjelm et al., ICLR 2019; alternative to
    HIFA's L_MI). It is 0 where u = 0, at least -2 log 2, and unbounded above. A batch of one sample
    has no fake pair: the real one stands in for it, and the least value is 0. Nothing is detached.

    Args:
        maps: ``[n, V, C, P]`` of this rank's rows; n may be 0.
        embeddings: ``[n, V, C]`` of the same rows; each map is compared with all ranks' N·V.
        offset: position of the first row in the global batch.
    """
    everyone = all_gather_rows(embeddings)
    scores = torch.einsum("nvcp,mvc->nmvp", maps, everyone)
    rows = torch.arange(offset, offset + len(maps), device=maps.device)
    columns = torch.arange(len(everyone), device=maps.device)
    own = scores[torch.arange(len(maps), device=maps.device), rows]  # [n, V, P]
    fake = (rows[:, None] != columns) | (len(everyone) == 1)
    shift = math.log(2)
    return global_mean(F.softplus(-own) - shift) + global_mean(
        F.softplus(scores) - shift, fake[:, :, None, None].expand_as(scores)
    )


def roll_rows(x: Tensor) -> Tensor:
    """Each row ``x [n, ...]`` replaced by the next one of the global batch, the last by the first.

    The result does not depend on how rows are spread over ranks; n may differ and may be 0.
    The only row of a batch of one stays itself. Each rank sends one row, and the gradient goes back
    to the row it came from.
    """
    firsts = all_gather_rows(x[:1])
    filled = [count > 0 for count in row_counts(x)]
    # A rank without rows has no first row. What stands in for its next row is cut off again.
    after = sum(filled[: rank() + 1]) % max(1, len(firsts))
    return torch.cat([x[1:], firsts[after : after + 1]])[: len(x)]

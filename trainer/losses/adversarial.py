"""Domain-adversarial loss (Ganin and Lempitsky 2015; ASTN's L_dc)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.synchronised import global_mean


def adversarial(
    source_logits: Tensor, target_logits: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Binary cross-entropy of a domain discriminator, source = 1 and target = 0, range [0, ∞).

    Each domain is averaged over its own global rows, so uneven domains weigh the same.

    Args:
        source_logits: ``[n]`` discriminator logits of this rank's source rows; n may be 0.
        target_logits: ``[m]`` of its target rows.
        reduction: ``mean`` halves the sum of the two means (chance level log 2); ``sum`` adds
            them, as the MI3DOR authors' script does (chance level 2·log 2).

    The caller puts a gradient reversal in front of the discriminator; nothing is detached here.
    """
    source = global_mean(F.softplus(-source_logits))
    target = global_mean(F.softplus(target_logits))
    return (source + target) * (0.5 if reduction == "mean" else 1.0)


@torch.no_grad()
def domain_accuracy(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Discriminator accuracy, the mean of the two domains' accuracies; 0.5 is fully confused."""
    source = global_mean((source_logits > 0).to(source_logits.dtype))
    target = global_mean((target_logits <= 0).to(target_logits.dtype))
    return (source + target) / 2

"""The generator's side of an adversarial game between two modalities (DCA eq. 9)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from trainer.synchronised import global_mean


def generator_loss(
    logits: Tensor, *, form: Literal["saturating", "nonsaturating"] = "saturating"
) -> Tensor:
    """Loss of a generator whose products a discriminator D gave ``logits``; real is 1.

    The mean over the global batch of ``log(1 - D)`` (DCA eq. 9, range (-∞, 0]), or of ``-log D``
    (nonsaturating, range [0, ∞)), both from logits, so that a certain D leaves them finite.

    Args:
        logits: ``[n]`` of this rank's rows; n may be 0.

    The discriminator's own loss (eq. 10) is :func:`trainer.losses.adversarial` with real features
    as source, generated ones as target and ``reduction="sum"``.
    """
    if form == "saturating":
        return global_mean(-F.softplus(logits))
    return global_mean(F.softplus(-logits))

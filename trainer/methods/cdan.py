"""CDAN: conditional adversarial domain adaptation (Long et al., NeurIPS 2018).

    L = L_ce(source) + L_dc(T(f, g)),   the trunk receiving -λ · dL_dc/df,   λ = ramp(p)

The discriminator sees the multilinear map T = f ⊗ g of embedding f and softmax g, or above
``max_width`` products the randomised map (f M_f) ⊙ (g M_g) / √R with fixed Gaussian matrices. With
``entropy_weighting`` (CDAN+E) certain samples weigh more. As in the authors' code g conditions and
receives no gradient; the entropy weights receive none here either.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from trainer.losses import (
    certainty,
    conditional_adversarial,
    domain_accuracy,
    multilinear_map,
    randomized_map,
)
from trainer.methods.base import Losses, Now
from trainer.methods.two_domains import AdversarialConfig, Pair, TwoDomains
from trainer.networks import Discriminator, NetworkConfig, reverse_gradient, row_positions
from trainer.schedules import ramp


class CdanConfig(AdversarialConfig):
    """Conditional adversarial domain adaptation."""

    entropy_weighting: bool = Field(
        default=False, description="CDAN+E: samples weigh 1 + exp(-H(g)) in the domain loss."
    )
    max_width: int = Field(
        default=4096,
        ge=0,
        description="Largest D·K for the full multilinear map; above it the randomised map.",
    )
    randomized_width: int = Field(default=1024, ge=1, description="Width R of the randomised map.")


class Cdan(TwoDomains):
    name = "cdan"
    paper = "Long et al., NeurIPS 2018"
    Config = CdanConfig
    feature_map: Tensor
    prediction_map: Tensor
    defaults = {  # noqa: RUF012
        "optimizer": {"kind": "sgd", "learning_rate": 0.01, "schedule": "inverse"},
    }

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self.randomized = network.embedding * num_classes > config.max_width
        width = network.embedding * num_classes
        if self.randomized:
            width = config.randomized_width
            self.register_buffer("feature_map", torch.randn(network.embedding, width))
            self.register_buffer("prediction_map", torch.randn(num_classes, width))
        self.discriminator = (
            Discriminator(width, dropout=network.discriminator_dropout, layer=130)
            if config.adversarial_weight > 0
            else None
        )

    @property
    def embedding_discriminator(self) -> bool:
        return False

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        if self.discriminator is None:
            return
        lam = ramp(now.p) * self.config.adversarial_weight
        d_s, d_t = self._discriminate(
            self._map(reverse_gradient(pair.f_s, lam), pair.logits_s),
            self._map(reverse_gradient(pair.f_t, lam), pair.logits_t),
            pair,
        )
        value = conditional_adversarial(
            (d_s, self._weights(pair.logits_s)),
            (d_t, self._weights(pair.logits_t)),
            reduction=self.config.domain_loss,
        )
        losses.add("domain", value)
        losses.health["discriminator_accuracy"] = domain_accuracy(d_s, d_t)

    def _discriminate(self, source: Tensor, target: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
        assert self.discriminator is not None
        first, second = pair.offsets
        # Far apart, so that the dropout masks of the two domains are independent.
        rows = torch.arange(first, first + len(source), device=source.device)
        others = torch.arange(second, second + len(target), device=target.device) + (1 << 40)
        with row_positions(torch.cat([rows, others])):
            logits = self.discriminator(torch.cat([source, target]))
        return logits[: len(source)], logits[len(source) :]

    def _map(self, f: Tensor, logits: Tensor) -> Tensor:
        g = logits.detach().softmax(1)
        if not self.randomized:
            return multilinear_map(f, g)
        maps = (self.feature_map.to(f.dtype), self.prediction_map.to(f.dtype))
        return randomized_map(f, g, maps=maps)

    def _weights(self, logits: Tensor) -> Tensor:
        if self.config.entropy_weighting:
            return certainty(logits)
        return logits.new_ones(len(logits))

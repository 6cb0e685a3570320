"""AFN: adaptive feature norm (Xu et al., ICCV 2019).

    hard:      L = L_ce(source) + weight · [(mean_s‖f‖ - R)² + (mean_t‖f‖ - R)²]
    stepwise:  L = L_ce(source) + weight · [mean_s (‖f‖ - (‖f‖ + Δ))² + the same over the target]

with the inner ‖f‖ + Δ detached; f is the input of the classifier.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from trainer.losses import feature_norm, stepwise_feature_norm
from trainer.methods.base import Losses, MethodConfig, Now
from trainer.methods.two_domains import Pair, TwoDomains
from trainer.synchronised import euclidean_norm, global_mean


class AfnConfig(MethodConfig):
    """Adaptive feature norm."""

    variant: Literal["hard", "stepwise"] = Field(
        default="hard", description="A norm for the domain's mean, or a step up for each sample."
    )
    weight: float = Field(default=0.05, ge=0, description="Weight of the two domains' terms.")
    radius: float = Field(
        default=25.0,
        gt=0,
        description="R of the hard variant; found for 1000-wide features, at 256 the same R is a "
        "larger value per coordinate.",
    )
    delta: float = Field(default=1.0, gt=0, description="Δ of the stepwise variant.")


class Afn(TwoDomains):
    name = "afn"
    paper = "Xu et al., ICCV 2019 (HAFN, SAFN)"
    Config = AfnConfig
    defaults = {  # noqa: RUF012
        "optimizer": {"kind": "sgd", "learning_rate": 1e-3, "schedule": "constant"},
        "training": {"batch": 32},
    }

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        losses.add("norm", self._norm(pair.f_s) + self._norm(pair.f_t), weight=self.config.weight)
        for side, f in (("source", pair.f_s), ("target", pair.f_t)):
            losses.health[f"{side}_norm"] = global_mean(euclidean_norm(f.detach()))

    def _norm(self, f: Tensor) -> Tensor:
        if self.config.variant == "hard":
            return feature_norm(f, radius=self.config.radius)
        return stepwise_feature_norm(f, delta=self.config.delta)

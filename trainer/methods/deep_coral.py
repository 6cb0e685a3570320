"""Deep CORAL: correlation alignment (Sun and Saenko, ECCV workshops 2016).

    L = L_ce(source) + weight · ‖C_s - C_t‖_F² / (4 D²)

The paper aligns the class logits (fc8). Retrieval compares embeddings, so these are offered too.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.losses import coral
from trainer.methods.base import Losses, MethodConfig, Now
from trainer.methods.two_domains import Pair, TwoDomains


class DeepCoralConfig(MethodConfig):
    """Deep CORAL."""

    weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the CORAL loss; no number in the paper, which asks that both losses "
        "end roughly equal.",
    )
    layer: Literal["logits", "embedding"] = Field(
        default="logits", description="Layer whose covariances are aligned; the paper's is logits."
    )


class DeepCoral(TwoDomains):
    name = "deep-coral"
    paper = "Sun and Saenko, ECCV workshops 2016"
    Config = DeepCoralConfig
    defaults = {  # noqa: RUF012
        "optimizer": {"kind": "sgd", "learning_rate": 1e-3, "schedule": "constant"},
        "training": {"batch": 128},
    }

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        if self.config.layer == "logits":
            value = coral(pair.logits_s, pair.logits_t)
        else:
            value = coral(pair.f_s, pair.f_t)
        losses.add("coral", value, weight=self.config.weight)

"""DAN: deep adaptation network (Long et al., ICML 2015).

    L = L_ce(source) + weight · Σ_l MMD²(source_l, target_l)

over the adapted layers l, with a multi-kernel Gaussian MMD. The paper weighs the kernels by an
optimisation of test power; here, as in its authors' later code, they all count the same.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from trainer.losses import mmd
from trainer.methods.base import Losses, MethodConfig, Now
from trainer.methods.two_domains import Pair, TwoDomains


class DanConfig(MethodConfig):
    """Deep adaptation network."""

    weight: float = Field(
        default=1.0, ge=0, description="Weight of the MMD; selected on held-out data in the paper."
    )
    layers: tuple[Literal["embedding", "softmax"], ...] = Field(
        default=("embedding",),
        min_length=1,
        description="Layers whose MMDs are added; the paper adapts the last three layers.",
    )
    estimator: Literal["biased", "unbiased"] = Field(
        default="biased", description="V-statistic, never negative, or U-statistic."
    )


class Dan(TwoDomains):
    name = "dan"
    paper = "Long et al., ICML 2015"
    Config = DanConfig
    defaults = {"optimizer": {"kind": "sgd", "learning_rate": 0.01, "schedule": "inverse"}}  # noqa: RUF012

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        sides = {
            "embedding": lambda: (pair.f_s, pair.f_t),
            "softmax": lambda: (pair.logits_s.softmax(1), pair.logits_t.softmax(1)),
        }
        terms = [
            mmd(*sides[layer](), estimator=self.config.estimator) for layer in self.config.layers
        ]
        losses.add("mmd", torch.stack(terms).sum(), weight=self.config.weight)

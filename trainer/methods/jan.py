"""JAN: joint adaptation network (Long et al., ICML 2017).

    L = L_ce(source) + ramp(p) · weight · JMMD²

JMMD compares the joint distributions of embedding and softmax: the kernel of a pair of samples is
the product of the two layers' kernels.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.losses import jmmd
from trainer.methods.base import Losses, MethodConfig, Now
from trainer.methods.two_domains import Pair, TwoDomains
from trainer.schedules import ramp


class JanConfig(MethodConfig):
    """Joint adaptation network."""

    weight: float = Field(default=1.0, ge=0, description="Factor of ramp(p) on the joint MMD.")
    estimator: Literal["biased", "unbiased"] = Field(
        default="biased", description="V-statistic, never negative, or U-statistic."
    )


class Jan(TwoDomains):
    name = "jan"
    paper = "Long et al., ICML 2017"
    Config = JanConfig
    defaults = {"optimizer": {"kind": "sgd", "learning_rate": 0.01, "schedule": "inverse"}}  # noqa: RUF012

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        value = jmmd(
            [pair.f_s, pair.logits_s.softmax(1)],
            [pair.f_t, pair.logits_t.softmax(1)],
            estimator=self.config.estimator,
        )
        losses.add("joint_mmd", value, weight=ramp(now.p) * self.config.weight)

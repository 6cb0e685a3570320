"""DANN / RevGrad: domain-adversarial training (Ganin and Lempitsky, ICML 2015).

L = L_ce(source) + weight · L_dc,   with the trunk receiving -λ · dL_dc/df,  λ = ramp(p)
"""

from __future__ import annotations

from trainer.methods.base import Losses, Now
from trainer.methods.two_domains import AdversarialConfig, Pair, TwoDomains


class DannConfig(AdversarialConfig):
    """Domain-adversarial training."""


class Dann(TwoDomains):
    name = "dann"
    paper = "Ganin and Lempitsky, ICML 2015 (RevGrad)"
    Config = DannConfig
    defaults = {"optimizer": {"kind": "sgd", "learning_rate": 0.01, "schedule": "inverse"}}  # noqa: RUF012

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        self.add_domain_loss(losses, pair, now)

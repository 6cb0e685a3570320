"""DLEA: dual-level embedding alignment (Zhou et al., ACM Multimedia 2019).

    L = L_ce(source) + λ L_dc + λ L_ca,   L_ca = Σ_k φ(C^S_k, C^T_k),   λ = ramp(p)

Domain level: DANN's loss. Class level: the centres of the batch, target rows by pseudo-label, over
the classes that both domains hold in the global batch; nothing is remembered between batches. The
papers that compare with DLEA name both levels; weights, ramp and φ are this project's choice.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.losses import Reduction, class_center_distance
from trainer.methods.base import Losses, Now
from trainer.methods.two_domains import AdversarialConfig, Pair, TwoDomains, reduction_field
from trainer.schedules import ramp
from trainer.synchronised import class_sums


class DleaConfig(AdversarialConfig):
    """Dual-level embedding alignment."""

    center_weight: float = Field(
        default=1.0, ge=0, description="Factor of λ on L_ca; this project's choice."
    )
    phi: Literal["euclidean", "squared"] = Field(
        default="squared", description="Distance of two centres; this project's choice."
    )
    reduction: Reduction = reduction_field("mean")


class Dlea(TwoDomains):
    name = "dlea"
    paper = "Zhou et al., ACM Multimedia 2019"
    Config = DleaConfig
    defaults = {"optimizer": {"kind": "sgd", "learning_rate": 0.01, "schedule": "inverse"}}  # noqa: RUF012

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        self.add_domain_loss(losses, pair, now)
        source, target = class_sums(
            (pair.f_s, pair.source.labels),
            (pair.f_t, pair.pseudo_labels),
            num_classes=self.num_classes,
        )
        both = source.present & target.present
        value = class_center_distance(
            source.means,
            target.means,
            mask=both,
            phi=self.config.phi,
            reduction=self.config.reduction,
        )
        losses.add("center", value, weight=ramp(now.p) * self.config.center_weight)
        losses.health["shared_classes"] = both.to(value.dtype).sum()

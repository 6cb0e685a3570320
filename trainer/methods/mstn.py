"""MSTN: moving semantic transfer network (Xie et al., ICML 2018).

    L = L_ce(source) + λ L_dc + λ L_sm,   L_sm = Σ_k ‖C^S_k - C^T_k‖²,   λ = ramp(p)

C^S, C^T are running class centres; target rows count for their pseudo-class. λ enters L_dc as the
coefficient of gradient reversal. A class that a batch does not hold keeps its centre, and the first
batch mean initialises it (the authors' code lets such centres decay to the origin).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trainer.losses import Reduction, class_center_distance
from trainer.methods.base import Losses, Now
from trainer.methods.two_domains import (
    AdversarialConfig,
    DomainLoss,
    Pair,
    TwoDomains,
    domain_loss_field,
    reduction_field,
)
from trainer.networks import NetworkConfig
from trainer.schedules import ramp
from trainer.synchronised import RunningCenters, class_sums


class MstnConfig(AdversarialConfig):
    """Moving semantic transfer network."""

    semantic_weight: float = Field(
        default=1.0, ge=0, description="Factor of λ on L_sm; 1 in the paper."
    )
    theta: float = Field(
        default=0.3, gt=0, le=1, description="Weight of the new batch in a running centre."
    )
    domain_loss: DomainLoss = domain_loss_field("sum")
    # A sum reaches NaN after some hundred steps at the papers' rates and widths.
    reduction: Reduction = reduction_field("mean")


class Mstn(TwoDomains):
    name = "mstn"
    paper = "Xie et al., ICML 2018"
    Config = MstnConfig
    defaults = {  # noqa: RUF012
        "optimizer": {"kind": "sgd", "learning_rate": 0.01, "schedule": "inverse"},
        "training": {"batch": 128},
    }

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        shape = (num_classes, network.embedding)
        self.source_centers = RunningCenters(*shape, theta=config.theta)
        self.target_centers = RunningCenters(*shape, theta=config.theta)

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        self.add_domain_loss(losses, pair, now)
        batch_s, batch_t = class_sums(
            (pair.f_s, pair.source.labels),
            (pair.f_t, pair.pseudo_labels),
            num_classes=self.num_classes,
        )
        c_s, seen_s, drift_s = self.source_centers(batch_s)
        c_t, seen_t, drift_t = self.target_centers(batch_t)
        value = class_center_distance(
            c_s, c_t, mask=seen_s & seen_t, phi="squared", reduction=self.config.reduction
        )
        losses.add("semantic", value, weight=ramp(now.p) * self.config.semantic_weight)
        losses.health["source_center_drift"] = drift_s
        losses.health["target_center_drift"] = drift_t

"""ASTN: adaptive semantic transfer network (equation numbers are the paper's).

    L = L_ce + λ (L_dc + L_s),   λ = ramp(p)                                         (eq. 11)

with AFE gates on trunk stages (eq. 1-2), class centres of source, target and their mixture over
the global batch and over time (eq. 4-9), and the semantic loss L_s between them (eq. 10). λ enters
L_dc as the coefficient of gradient reversal: the discriminator itself learns at full weight.

Equation 1 is that of AlexNet, which has no normalisation. The paper does not say where the gate
sits in a residual trunk; :mod:`trainer.networks.gates` says where it sits here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from trainer.losses import (
    Reduction,
    adversarial,
    class_center_distance,
    cross_entropy,
    domain_accuracy,
    instance_alignment,
)
from trainer.methods.base import Domain, Losses, Method, MethodConfig, Now, StreamNeed
from trainer.methods.two_domains import DomainLoss, domain_loss_field, reduction_field
from trainer.networks import NetworkConfig, RetrievalNetwork, reverse_gradient
from trainer.schedules import ramp
from trainer.synchronised import RunningCenters, class_sums, pool_sums


class AstnConfig(MethodConfig):
    """Adaptive semantic transfer network."""

    afe: bool = Field(
        default=True,
        description="Adaptive feature extraction: gates on trunk stages. A gate scales the stage's "
        "output where no normalisation follows (AlexNet), its residual branches where it has "
        "skips; else it blends output and input.",
    )
    gated_stages: tuple[str, ...] | None = Field(
        default=None,
        description="Trunk stages with a gate; null takes the last two (table 6's best: conv4 and "
        "conv5 of AlexNet, layer3 and layer4 of a ResNet).",
    )
    plasticity: Literal["decay", "constant"] = Field(
        default="decay",
        description="decay: the gates' factor w = 1 - t/T falls to 0, so that at the end each is "
        "1/2, the most plausible reading of eq. 2; constant: w = 1, and what the gates learned is "
        "there at test time.",
    )
    gate_start: float = Field(
        default=0.0,
        description="h of every gate before the first step; not given in the paper. 0 halves what "
        "the gates scale in a pre-trained trunk at once; 5 starts at 0.99 of it.",
    )
    dsa: bool = Field(
        default=True, description="Dynamic semantic alignment: the loss L_s (eq. 10)."
    )
    align: Literal["center", "instance"] = Field(
        default="center", description="What is pulled to the intermediate centres (table 7)."
    )
    alpha: float = Field(
        default=0.3, ge=0, description="Weight of the intermediate terms of eq. 10."
    )
    theta: float = Field(default=0.3, gt=0, le=1, description="Weight of the new batch in eq. 7-9.")
    phi: Literal["euclidean", "squared"] = Field(
        default="euclidean",
        description="Distance of eq. 10: as printed, or squared as in MSTN's code.",
    )
    reduction: Reduction = reduction_field("sum")
    adversarial_weight: float = Field(
        default=1.0,
        ge=0,
        description="Factor of λ on the reversed gradient of L_dc; 0 leaves L_dc out.",
    )
    semantic_weight: float = Field(
        default=1.0, ge=0, description="Factor of λ on L_s; 1 in the paper."
    )
    domain_loss: DomainLoss = domain_loss_field("sum")


class Astn(Method):
    name = "astn"
    paper = "Song et al., Computer Vision and Image Understanding 2024 (ASTN)"
    streams = {  # noqa: RUF012
        "source_images": StreamNeed("image", labelled=True),
        "target_shapes": StreamNeed("shape", labelled=False),
    }
    Config = AstnConfig
    defaults = {  # noqa: RUF012
        "optimizer": {"kind": "sgd", "learning_rate": 0.01, "schedule": "inverse", "momentum": 0.9},
        "training": {"steps": 20000, "batch": 76},
    }

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        gated: tuple[str, ...] = ()
        if config.afe:
            gated = config.gated_stages or network.stages[-2:]
        self.network = RetrievalNetwork(
            network,
            num_classes,
            gated_stages=gated,
            plasticity=config.plasticity,
            gate_start=config.gate_start,
            discriminator=config.adversarial_weight > 0,
        )
        shape = (num_classes, network.embedding)
        self.source_centers = RunningCenters(*shape, theta=config.theta)
        self.target_centers = RunningCenters(*shape, theta=config.theta)
        self.middle_centers = RunningCenters(*shape, theta=config.theta)

    def losses(self, batch: dict[str, Domain], now: Now) -> Losses:
        source, target = batch["source_images"], batch["target_shapes"]
        lam, losses = ramp(now.p), Losses()

        self.network.set_gate_progress(now.p)  # AFE, eq. 1-2: w = 1 - q, q = p
        f_s, f_t = self.embed(source, target)
        assert f_t is not None
        logits_s, logits_t = self.network.classify(f_s), self.network.classify(f_t)
        losses.add("classification", cross_entropy(logits_s, source.labels))
        self.observe(losses, now, source=(f_s, logits_s, source), target=(f_t, logits_t, target))

        if self.config.adversarial_weight > 0:
            reverse = lam * self.config.adversarial_weight
            d_s, d_t = self.network.discriminate(
                reverse_gradient(f_s, reverse),
                reverse_gradient(f_t, reverse),
                (source.offset, target.offset),
            )
            losses.add("domain", adversarial(d_s, d_t, reduction=self.config.domain_loss))
            losses.health["discriminator_accuracy"] = domain_accuracy(d_s, d_t)

        if self.config.dsa:
            pseudo = logits_t.detach().argmax(1)
            semantic = self._semantic(f_s, source.labels, f_t, pseudo, losses)
            losses.add("semantic", semantic, weight=lam * self.config.semantic_weight)
        for stage, value in self.network.gate_values().items():
            losses.health[f"gate_{stage}"] = value
        return losses

    def _semantic(
        self, f_s: Tensor, y_s: Tensor, f_t: Tensor, y_t: Tensor, losses: Losses
    ) -> Tensor:
        """L_s (eq. 10) on running centres, whose batch parts are those of the global batch."""
        batch_s, batch_t = class_sums((f_s, y_s), (f_t, y_t), num_classes=self.num_classes)
        c_s, seen_s, drift_s = self.source_centers(batch_s)  # eq. 4, 7
        c_t, seen_t, drift_t = self.target_centers(batch_t)  # eq. 5, 8
        c_i, _, _ = self.middle_centers(pool_sums(batch_s, batch_t))  # eq. 6, 9
        losses.health["source_center_drift"], losses.health["target_center_drift"] = (
            drift_s,
            drift_t,
        )

        both = seen_s & seen_t
        how: dict[str, Any] = {
            "mask": both,
            "phi": self.config.phi,
            "reduction": self.config.reduction,
        }
        across = class_center_distance(c_s, c_t, **how)
        if self.config.align == "center":
            middle = class_center_distance(c_s, c_i, **how) + class_center_distance(c_t, c_i, **how)
        else:
            middle = instance_alignment(f_s, y_s, c_i, **how)
            middle = middle + instance_alignment(f_t, y_t, c_i, **how)
        apart = class_center_distance(c_s, c_t, mask=both, phi=self.config.phi, reduction="mean")
        losses.health["center_distance"] = apart.detach()
        return across + self.config.alpha * middle

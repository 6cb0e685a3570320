"""DANN / RevGrad: domain-adversarial training (Ganin and Lempitsky, ICML 2015).

L = L_ce(source) + weight · L_dc,   with the trunk receiving -λ · dL_dc/df,  λ = ramp(p)
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trainer.losses import accuracy, adversarial, cross_entropy
from trainer.losses.adversarial import domain_accuracy
from trainer.methods.base import Domain, Losses, Method, MethodConfig, StreamNeed
from trainer.networks.heads import reverse_gradient
from trainer.networks.network import RetrievalNetwork
from trainer.networks.options import NetworkConfig
from trainer.schedules import ramp

__all__ = ["Dann", "DannConfig"]


class DannConfig(MethodConfig):
    """Domain-adversarial training."""

    adversarial_weight: float = Field(
        default=1.0, ge=0, description="Factor of the reversed gradient on top of λ = ramp(p)."
    )
    domain_loss: Literal["mean", "sum"] = Field(
        default="mean", description="Mean or sum of the two domains' binary cross-entropies."
    )


class Dann(Method):
    name = "dann"
    paper = "Ganin and Lempitsky, ICML 2015 (RevGrad)"
    streams = {  # noqa: RUF012
        "source_images": StreamNeed("image", labelled=True),
        "target_shapes": StreamNeed("shape", labelled=False),
    }
    Config = DannConfig

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self.network = RetrievalNetwork(network, num_classes, discriminator=True)

    def losses(self, batch: dict[str, Domain], progress: float) -> Losses:
        source, target = batch["source_images"], batch["target_shapes"]
        f_s, f_t = self.embed(source, target)
        assert f_t is not None
        logits_s = self.network.classify(f_s)

        lam = ramp(progress) * self.config.adversarial_weight
        d_s, d_t = self.network.discriminate(
            reverse_gradient(f_s, lam), reverse_gradient(f_t, lam), (source.offset, target.offset)
        )

        losses = Losses()
        losses.add("classification", cross_entropy(logits_s, source.labels))
        losses.add("domain", adversarial(d_s, d_t, reduction=self.config.domain_loss))
        losses.health["source_accuracy"] = accuracy(logits_s, source.labels)
        losses.health["discriminator_accuracy"] = domain_accuracy(d_s, d_t)
        return losses

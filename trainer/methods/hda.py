"""HDA: hierarchical alignment with local features, a re-reading of Wen et al. 2022.

ASTN compares with HDA and describes it in one sentence: local features for migration, and
hierarchical alignment to connect the domains. What follows is this project's reading of that
sentence. It is not the original, which partitions local features into the cells of learned patterns
and aligns local, cell and holistic features:

    L = L_ce(source) + L_local + L_global + λ · class_weight · L_class,   λ = ramp(p)

- L_local: a discriminator, one for all positions, on the positions of the last trunk stage's map
- L_global: DANN's discriminator on the embedding
- L_class: Σ_k ‖C^S_k - C^T_k‖² on centres of the global batch, target rows by pseudo-label

The trunk receives the first two through gradient reversal, at λ times their weights. The choice of
levels, the shared local discriminator with one hidden layer, all weights and the ramp are ours.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from trainer.losses import Reduction, adversarial, class_center_distance, domain_accuracy
from trainer.methods.base import Losses, Now
from trainer.methods.two_domains import AdversarialConfig, Pair, TwoDomains, reduction_field
from trainer.networks import Discriminator, NetworkConfig, map_channels, reverse_gradient
from trainer.schedules import ramp
from trainer.synchronised import class_sums


class HdaConfig(AdversarialConfig):
    """Hierarchical alignment; ``adversarial_weight`` is that of the global level."""

    local_weight: float = Field(
        default=1.0,
        ge=0,
        description="Factor of λ on the reversed gradient of L_local; 0 leaves it out.",
    )
    local_hidden: int = Field(
        default=256, ge=1, description="Hidden width of the local discriminator."
    )
    class_weight: float = Field(default=1.0, ge=0, description="Factor of λ on L_class.")
    reduction: Reduction = reduction_field("mean")


class Hda(TwoDomains):
    name = "hda"
    paper = "our reading of Wen et al., Pattern Recognition 2022"
    Config = HdaConfig
    defaults = {"optimizer": {"kind": "sgd", "learning_rate": 0.01, "schedule": "inverse"}}  # noqa: RUF012

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self.local_discriminator = None
        if config.local_weight > 0:
            channels = map_channels(self.network, network.stages[-1])
            # No dropout: there are many positions, and they are alike.
            self.local_discriminator = Discriminator(
                channels, hidden=(config.local_hidden,), dropout=0.0, layer=140
            )

    @property
    def map_stage(self) -> str | None:
        return self.network.config.stages[-1] if self.config.local_weight > 0 else None

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        self.add_domain_loss(losses, pair, now)
        self._add_local_loss(losses, pair, now)
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
            phi="squared",
            reduction=self.config.reduction,
        )
        losses.add("class", value, weight=ramp(now.p) * self.config.class_weight)

    def _add_local_loss(self, losses: Losses, pair: Pair, now: Now) -> None:
        if self.local_discriminator is None or pair.map_s is None or pair.map_t is None:
            return
        lam = ramp(now.p) * self.config.local_weight
        d_s = self.local_discriminator(reverse_gradient(_positions(pair.map_s), lam))
        d_t = self.local_discriminator(reverse_gradient(_positions(pair.map_t), lam))
        losses.add("local", adversarial(d_s, d_t, reduction=self.config.domain_loss))
        losses.health["local_discriminator_accuracy"] = domain_accuracy(d_s, d_t)


def _positions(maps: Tensor) -> Tensor:
    """Maps ``[..., C, h, w]`` as rows ``[rows, C]``, one per position of every map."""
    return maps.movedim(-3, -1).flatten(0, -2)

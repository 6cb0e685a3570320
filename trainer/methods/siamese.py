"""Siamese networks for sketch-based shape retrieval (Wang, Kang and Li, CVPR 2015).

    L = L(sketches, sketches) + L(shapes, shapes) + L(sketches, shapes)

where L is contrastive: pairs of one class are pulled together, others pushed apart. The paper
draws pairs; here L runs over all pairs of a balanced batch. Its two small CNNs are the configured
trunks, and its two fixed views of a shape are the configured ones, pooled.
"""

from __future__ import annotations

from pydantic import Field

from trainer.losses import contrastive
from trainer.methods.base import Domain, Losses, Now
from trainer.methods.two_branch import TwoBranch, TwoBranchConfig


class SiameseConfig(TwoBranchConfig):
    """Siamese networks with a contrastive loss."""

    metric_hidden: tuple[int, ...] = Field(
        default=(), description="Hidden widths between the trunk's features and the embedding."
    )
    positive_scale: float = Field(
        default=0.2, gt=0, description="C_p: a pair of one class at L1 distance d costs d²/C_p."
    )
    negative_scale: float = Field(
        default=10.0,
        gt=0,
        description="C_n: a pair of two classes costs C_n·exp(-2.77·d/C_n).",
    )
    cross_weight: float = Field(
        default=1.0, ge=0, description="Weight of the pairs of a sketch and a shape."
    )


class Siamese(TwoBranch):
    name = "siamese"
    paper = "Wang, Kang and Li, CVPR 2015 (Siamese)"
    Config = SiameseConfig
    defaults = {"network": {"embedding": 64}}  # noqa: RUF012

    def losses(self, batch: dict[str, Domain], now: Now) -> Losses:
        sketches, shapes = batch["source_images"], batch["source_shapes"]
        first = self.embed_branch(self.sketch, sketches), sketches.labels
        second = self.embed_branch(self.shape, shapes), shapes.labels
        scales = {
            "positive_scale": self.config.positive_scale,
            "negative_scale": self.config.negative_scale,
        }
        losses = Losses()
        losses.add("sketch_pairs", contrastive(*first, **scales))
        losses.add("shape_pairs", contrastive(*second, **scales))
        if self.config.cross_weight > 0:
            across = contrastive(*first, **scales, candidates=second)
            losses.add("cross_pairs", across, weight=self.config.cross_weight)
        z_1, z_2 = first[0].detach(), second[0].detach()
        self.observe_retrieval(losses, now, (z_1, sketches.labels), (z_2, shapes.labels))
        return losses

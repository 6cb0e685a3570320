"""DCML: deep correlated metric learning (Dai, Xie, Zhu and Fang, AAAI 2017).

    L = L_discriminative(sketches) + L_discriminative(shapes) + weight · L_correlation

Two networks learn jointly. The discriminative loss asks, within each modality, that distances
within a class stay a margin below those between classes; the correlation loss asks the same of
sketches against shapes and of shapes against sketches. Both are read as batch-hard triplets over
a balanced batch; the paper works on fixed CNN features, here the trunks learn too.
"""

from __future__ import annotations

from pydantic import Field

from trainer.losses import batch_hard
from trainer.methods.base import Domain, Losses, Now
from trainer.methods.two_branch import TwoBranch, TwoBranchConfig


class DcmlConfig(TwoBranchConfig):
    """Deep correlated metric learning."""

    margin: float = Field(
        default=5.0, gt=0, description="Margin of all triplets; that of DCA's triplets here."
    )
    correlation_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of triplets across modalities; 0: left out.",
    )


class Dcml(TwoBranch):
    name = "dcml"
    paper = "Dai, Xie, Zhu and Fang, AAAI 2017 (DCML)"
    Config = DcmlConfig
    defaults = {"network": {"embedding": 128}}  # noqa: RUF012

    def losses(self, batch: dict[str, Domain], now: Now) -> Losses:
        sketches, shapes = batch["source_images"], batch["source_shapes"]
        first = self.embed_branch(self.sketch, sketches), sketches.labels
        second = self.embed_branch(self.shape, shapes), shapes.labels
        losses, margin = Losses(), self.config.margin
        losses.add("sketch_metric", batch_hard(*first, margin=margin))
        losses.add("shape_metric", batch_hard(*second, margin=margin))
        if self.config.correlation_weight > 0:
            there = batch_hard(*first, margin=margin, candidates=second)
            back = batch_hard(*second, margin=margin, candidates=first)
            losses.add("correlation", there + back, weight=self.config.correlation_weight)
        z_1, z_2 = first[0].detach(), second[0].detach()
        self.observe_retrieval(losses, now, (z_1, sketches.labels), (z_2, shapes.labels))
        return losses

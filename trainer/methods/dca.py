"""DCA: deep cross-modality adaptation (Chen and Fang; equation numbers are the paper's).

Four networks learn in turn on each batch (algorithm 1), each from its own loss:

    sketch and shape networks:  L_IAML, batch-hard triplets within the modality        (eq. 1-3)
    discriminator D:            L_D = -E log D(z_2) - E log(1 - D(z_t))                (eq. 10)
    transformation f_trans:     L_T = L_SeP + L_G + L_CMD,  z_t = f_trans(z_1)         (eq. 12)

where z_1 and z_2 embed sketches and shapes, and retrieval uses z_t as the query. D and f_trans get
z_1 and z_2 detached, from the first two updates of the same step: the trunks make one pass a step,
and batch statistics move once. Without L_SeP, L_G and L_CMD (all weights 0) there is no
transformation; this is the baseline sep-IAML.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trainer.losses import (
    Reduction,
    adversarial,
    batch_hard,
    class_mean_discrepancy,
    domain_accuracy,
    generator_loss,
)
from trainer.methods.base import Domain, Losses, Now, Update
from trainer.methods.two_branch import TwoBranch, TwoBranchConfig
from trainer.networks import Discriminator, NetworkConfig, Transformation

_Rows = tuple[Tensor, Tensor]  # embeddings [n, D] and labels [n]


class DcaConfig(TwoBranchConfig):
    """Deep cross-modality adaptation: the defaults are CMDM-AL+SeP, ``semantic_weight: 0`` is
    CMDM-AL, and all three weights 0 are sep-IAML (tables I-II)."""

    margin: float = Field(
        default=5.0,
        gt=0,
        description="η of eq. 1 and 4; not given in the paper. Two embeddings in (-1, 1)^128 start "
        "about 7.5 apart: 0.3, usual for embeddings of length 1, is met almost at once.",
    )
    semantic_weight: float = Field(
        default=1.0, ge=0, description="Weight of L_SeP in eq. 12; 0 leaves it out."
    )
    adversarial_weight: float = Field(
        default=1.0, ge=0, description="Weight of L_G in eq. 12; 0 leaves it and D out."
    )
    discrepancy_weight: float = Field(
        default=1.0, ge=0, description="Weight of L_CMD in eq. 12; 0 leaves it out."
    )
    reduction: Reduction = Field(
        default="mean",
        description="Of L_IAML and L_SeP over anchors and of L_CMD over classes. sum: as printed; "
        "mean: the terms weigh the same for every batch. A mean of the one and a sum of the other "
        "would leave L_SeP 1/64 of its weight at 16x4 samples.",
    )
    generator: Literal["saturating", "nonsaturating"] = Field(
        default="saturating", description="L_G as log(1 - D) (eq. 9), or as -log D."
    )
    pretrain_steps: int = Field(
        default=0,
        ge=0,
        description="First steps, on which only the sketch and shape networks learn; length not "
        "given in the paper.",
    )
    pretrain_transformation_steps: int = Field(
        default=0,
        ge=0,
        description="Steps after those, on which only D and the transformation learn; length not "
        "given in the paper.",
    )
    transformation_hidden: tuple[int, ...] = Field(
        default=(64, 32, 64), description="Hidden widths of the transformation."
    )
    discriminator_hidden: tuple[int, ...] = Field(
        default=(64,), description="Hidden widths of D, with ReLU (not given in the paper)."
    )


class Dca(TwoBranch):
    name = "dca"
    paper = "Chen and Fang, ECCV 2018 (DCA)"
    Config = DcaConfig
    defaults = {  # noqa: RUF012
        "network": {"embedding": 128},
        "optimizer": {
            "kind": "adam",
            "learning_rate": 1e-4,
            "schedule": "exponential",
            "weight_decay": 0.0,
            "new_layer_multiplier": 1.0,
        },
        "training": {"steps": 30000},
    }

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self.discriminator = self.transformation = None
        if config.adversarial_weight > 0:
            self.discriminator = Discriminator(
                network.embedding, hidden=config.discriminator_hidden, dropout=0.0, layer=120
            )
        if config.semantic_weight + config.adversarial_weight + config.discrepancy_weight > 0:
            self.transformation = Transformation(network.embedding, config.transformation_hidden)
        self._kept: tuple[int, dict[str, Tensor]] = (-1, {})

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = super().parameter_groups()
        for name in ("discriminator", "transformation"):
            part = getattr(self, name)
            if part is not None:
                groups[name] = list(part.parameters())
        return groups

    def updates(self, step: int) -> tuple[Update, ...]:
        """Algorithm 1's order; the pre-training phases leave out one half or the other."""
        networks = (
            Update("sketch", ("sketch.trunk", "sketch.metric")),
            Update("shape", ("shape.trunk", "shape.metric")),
        )
        if self.transformation is None or step < self.config.pretrain_steps:
            return networks
        adaptation = (Update("transformation", ("transformation",)),)
        if self.discriminator is not None:
            adaptation = (Update("discriminator", ("discriminator",)), *adaptation)
        if step < self.config.pretrain_steps + self.config.pretrain_transformation_steps:
            return adaptation
        return networks + adaptation

    def update_losses(self, update: str, batch: dict[str, Domain], now: Now) -> Losses:
        losses = Losses()
        sketches, shapes = batch["source_images"], batch["source_shapes"]
        if update in ("sketch", "shape"):
            rows = sketches if update == "sketch" else shapes
            z = self.embed_branch(getattr(self, update), rows)
            self._keep(now.step, **{update: z.detach()})
            metric = batch_hard(
                z, rows.labels, margin=self.config.margin, reduction=self.config.reduction
            )
            losses.add(f"{update}_metric", metric)
            return losses
        z_1, z_2 = self._embeddings(now.step, sketches, shapes)
        if update == "discriminator":
            self._discriminate(z_1, z_2, losses)
        else:
            self._transform((z_1, sketches.labels), (z_2, shapes.labels), losses, now)
            self._kept = (-1, {})  # the last update of the step
        return losses

    def _discriminate(self, z_1: Tensor, z_2: Tensor, losses: Losses) -> None:
        """L_D (eq. 10): shapes are real, transformed sketches are not."""
        assert self.transformation is not None
        assert self.discriminator is not None
        real, made = self.discriminator(z_2), self.discriminator(self.transformation(z_1).detach())
        losses.add("discriminator", adversarial(real, made, reduction="sum"))
        losses.health["discriminator_accuracy"] = domain_accuracy(real, made)

    def _transform(self, sketches: _Rows, shapes: _Rows, losses: Losses, now: Now) -> None:
        """L_T (eq. 12)."""
        assert self.transformation is not None
        config, (z_1, y_1) = self.config, sketches
        z_t = self.transformation(z_1)
        if config.semantic_weight > 0:
            semantic = batch_hard(  # eq. 4-6
                z_t, y_1, margin=config.margin, reduction=config.reduction
            )
            losses.add("semantic", semantic, weight=config.semantic_weight)
        if self.discriminator is not None:
            made = generator_loss(self.discriminator(z_t), form=config.generator)  # eq. 9
            losses.add("generator", made, weight=config.adversarial_weight)
        if config.discrepancy_weight > 0:
            apart = class_mean_discrepancy(
                z_t, y_1, *shapes, num_classes=self.num_classes, reduction=config.reduction
            )
            losses.add("discrepancy", apart, weight=config.discrepancy_weight)  # eq. 11
        self.observe_retrieval(losses, now, (z_t.detach(), y_1), shapes)

    def _keep(self, step: int, **embeddings: Tensor) -> None:
        kept = self._kept[1] if self._kept[0] == step else {}
        self._kept = (step, {**kept, **embeddings})

    def _embeddings(self, step: int, sketches: Domain, shapes: Domain) -> tuple[Tensor, Tensor]:
        """z_1 and z_2 of this batch, detached, from the step's first two updates.

        On steps on which the networks do not learn they are computed here, in evaluation mode."""
        for name, rows in (("sketch", sketches), ("shape", shapes)):
            if self._kept[0] != step or name not in self._kept[1]:
                branch = getattr(self, name)
                mode = branch.training
                with torch.no_grad():
                    z = self.embed_branch(branch.eval(), rows)
                branch.train(mode)
                self._keep(step, **{name: z})
        kept = self._kept[1]
        return kept["sketch"], kept["shape"]

    def embed_queries(self, pixels: Tensor) -> Tensor:
        z = super().embed_queries(pixels)
        return z if self.transformation is None else self.transformation(z)

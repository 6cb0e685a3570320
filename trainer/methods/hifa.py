"""HIFA: hierarchical instance feature alignment (Zhou et al., IJCAI 2020; equations are its own).

    L = L_C + λ L_MI + β L_G + γ L_L,   λ = 0.05, β = 1, γ = ramp(p)                   (eq. 7)

L_C cross-entropy on source images (eq. 5); L_MI cross-entropy of a discriminator T that tells an
inner map's own embedding from the next sample's (section 3.2); L_G = L_d(mean‖f_s‖ - R) +
L_d(mean‖f_t‖ - R), L_d "L2-norm penalty" (eq. 4); L_L squared distances of the domains' class
centres (eq. 6).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from trainer.losses import (
    NormPenalty,
    Reduction,
    class_center_distance,
    cross_entropy,
    feature_norm,
    jensen_shannon_mutual_information,
    mutual_information,
    pair_accuracy,
    roll_rows,
)
from trainer.methods.base import Domain, Losses, Method, MethodConfig, Now, StreamNeed
from trainer.methods.two_domains import reduction_field
from trainer.networks import (
    Encoding,
    LocalDiscriminator,
    MapProjections,
    NetworkConfig,
    RetrievalNetwork,
    map_channels,
)
from trainer.schedules import ramp
from trainer.synchronised import RunningCenters, class_sums, full_precision


class HifaConfig(MethodConfig):
    """Hierarchical instance feature alignment."""

    mutual_information_weight: float = Field(
        default=0.05, ge=0, description="λ of L_MI in eq. 7; 0 leaves it and T out."
    )
    global_weight: float = Field(
        default=1.0, ge=0, description="β of L_G in eq. 7; 0 leaves it out."
    )
    global_penalty: NormPenalty = Field(
        default="absolute",
        description="'L2-norm penalty' of eq. 4, how far a domain's mean norm is from R: squared "
        "as in AFN's code, whose weight is 0.05, or absolute. With the paper's β = 1 and rates "
        "the squares throw the classifier off within a few steps.",
    )
    local_weight: float = Field(
        default=1.0,
        ge=0,
        description="Factor of γ = ramp(p) on L_L; 1 in the paper, 0 leaves it out.",
    )
    radius: float = Field(
        default=25.0,
        ge=0,
        description="R of eq. 4. The paper takes it from a layer of 1000 units; on fewer units it "
        "asks more of each.",
    )
    # A sum reaches NaN after some hundred steps at the papers' rates and widths.
    reduction: Reduction = reduction_field("mean")
    centers: Literal["batch", "running"] = Field(
        default="batch", description="Centres of eq. 6: of the batch as printed, or over time."
    )
    theta: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="Weight of the new batch in running centres; not given in the paper.",
    )
    mi: Literal["bce", "jsd"] = Field(
        default="bce",
        description="Form of L_MI: cross-entropy of a convolutional T, or Deep InfoMax's shifted "
        "Jensen-Shannon form on dot products of all pairs.",
    )
    map_stage: str | None = Field(
        default=None,
        description="Trunk stage whose output is the map; null takes the last (the paper's conv5).",
    )
    hidden: int = Field(default=512, ge=1, description="Channels inside T; not given in the paper.")


class Hifa(Method):
    name = "hifa"
    paper = "Zhou et al., IJCAI 2020 (HIFA)"
    streams = {  # noqa: RUF012
        "source_images": StreamNeed("image", labelled=True),
        "target_shapes": StreamNeed("shape", labelled=False),
    }
    Config = HifaConfig
    # Not given in the paper: ASTN's optimiser and length.
    defaults = {  # noqa: RUF012
        "optimizer": {"kind": "sgd", "learning_rate": 0.01, "schedule": "inverse", "momentum": 0.9},
        "training": {"steps": 20000, "batch": 32},
    }

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self.network = RetrievalNetwork(network, num_classes)
        self.map_stage = config.map_stage or network.stages[-1]
        if config.mutual_information_weight > 0:
            channels = map_channels(self.network, self.map_stage)
            if config.mi == "bce":
                self.discriminator = LocalDiscriminator(
                    channels, network.embedding, hidden=config.hidden
                )
            else:
                self.projections = MapProjections(channels, network.embedding, width=config.hidden)
        if config.local_weight > 0 and config.centers == "running":
            shape = (num_classes, network.embedding)
            self.source_centers = RunningCenters(*shape, theta=config.theta)
            self.target_centers = RunningCenters(*shape, theta=config.theta)

    def losses(self, batch: dict[str, Domain], now: Now) -> Losses:
        source, target = batch["source_images"], batch["target_shapes"]
        config, losses = self.config, Losses()
        encoded_s, encoded_t = self._encode(source, target)
        f_s, f_t = full_precision(encoded_s.embedding), full_precision(encoded_t.embedding)
        logits_s, logits_t = self.network.classify(f_s), self.network.classify(f_t)
        losses.add("classification", cross_entropy(logits_s, source.labels))  # eq. 5
        self.observe(losses, now, source=(f_s, logits_s, source), target=(f_t, logits_t, target))

        if config.mutual_information_weight > 0:
            mi_s = self._mutual_information("source", encoded_s, source.offset, losses)
            mi_t = self._mutual_information("target", encoded_t, target.offset, losses)
            losses.add(
                "mutual_information", (mi_s + mi_t) / 2, weight=config.mutual_information_weight
            )
        if config.global_weight > 0:  # eq. 4
            norms = [
                feature_norm(f, radius=config.radius, penalty=config.global_penalty)
                for f in (f_s, f_t)
            ]
            losses.add("global", norms[0] + norms[1], weight=config.global_weight)
        if config.local_weight > 0:
            pseudo = logits_t.detach().argmax(1)
            local = self._local(f_s, source.labels, f_t, pseudo, losses)
            losses.add("local", local, weight=ramp(now.p) * config.local_weight)
        return losses

    def _encode(self, source: Domain, target: Domain) -> tuple[Encoding, Encoding]:
        keep = (self.map_stage,) if self.config.mutual_information_weight > 0 else ()
        with self.autocast(source.pixels.device):
            encoded_s, encoded_t = self.network.encode(
                source.pixels,
                target.pixels,
                joint=self.config.forward == "joint",
                offsets=(source.offset, target.offset),
                keep=keep,
            )
        assert encoded_s is not None
        assert encoded_t is not None
        return encoded_s, encoded_t

    def _mutual_information(
        self, domain: str, encoded: Encoding, offset: int, losses: Losses
    ) -> Tensor:
        """L_MI of one domain; each view of a shape goes with its own embedding before pooling."""
        maps, k = (
            full_precision(encoded.maps[self.map_stage]),
            encoded.views,
        )  # [n, V, C, h, w], [n, V, D]
        if k is None:  # an image is its only view
            maps, k = maps[:, None], encoded.embedding[:, None]
        k, views = full_precision(k), maps.shape[:2]
        if self.config.mi == "jsd":
            projected = self.projections(maps.flatten(0, 1), k.flatten(0, 1))
            return jensen_shannon_mutual_information(
                *(x.unflatten(0, views) for x in projected), offset=offset
            )
        fake = roll_rows(k)  # the same view of the next sample
        real, fake = self.discriminator(maps.flatten(0, 1), k.flatten(0, 1), fake.flatten(0, 1))
        losses.health[f"{domain}_pair_accuracy"] = pair_accuracy(real, fake)
        return mutual_information(real, fake)

    def _local(self, f_s: Tensor, y_s: Tensor, f_t: Tensor, y_t: Tensor, losses: Losses) -> Tensor:
        """L_L (eq. 6) over the classes that both domains have a centre of."""
        batch_s, batch_t = class_sums((f_s, y_s), (f_t, y_t), num_classes=self.num_classes)
        if self.config.centers == "batch":
            c_s, c_t, both = batch_s.means, batch_t.means, batch_s.present & batch_t.present
        else:
            c_s, seen_s, drift_s = self.source_centers(batch_s)
            c_t, seen_t, drift_t = self.target_centers(batch_t)
            both = seen_s & seen_t
            losses.health["source_center_drift"] = drift_s
            losses.health["target_center_drift"] = drift_t
        return class_center_distance(
            c_s, c_t, mask=both, phi="squared", reduction=self.config.reduction
        )

"""FTSPL: feature transformation with selective pseudo-labels (equation numbers are the paper's).

    L = L_∞(source) + target_ce · L_ce(selected target, pseudo-labels)

L_∞ (eq. 4) is the cross-entropy of source features that are moved by Δμ (IDCA) and spread by Σ_t
(ICAV) of their class. Pseudo-labels of the whole target set are renewed by the label step in each
of L rounds (:meth:`Ftspl.start_round`): distances to source centroids (eq. 5-6) and to matched
K-means clusters (eq. 7-8), the more certain of the two (eq. 9-10), and of every class the l/L most
probable samples (section III-D3).

The paper does not say when Δμ and Σ_t are computed. As constants of a round, as in TSA (CVPR 2021),
they move no target feature: the gradient at a target picture comes from L_ce alone. Computed from
the step's batch they have a gradient in the features of both domains (``statistics``).

Axis letters: n rows on this rank, N target samples, K classes, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from trainer.losses import batch_spread_table, cross_entropy, shift_table, spread_table
from trainer.methods.base import Domain, Losses, Method, MethodConfig, Now, StreamNeed, Walk
from trainer.networks import NetworkConfig, RetrievalNetwork
from trainer.synchronised import (
    ClassSums,
    PseudoLabels,
    RunningCenters,
    class_covariances,
    class_moments,
    class_sums,
    distances,
    euclidean_norm,
    global_mean,
    kmeans,
    log_odds,
    match_clusters,
    select,
    standardised,
)

Labelling = Literal["full", "centroid", "classifier"]


class FtsplConfig(MethodConfig):
    """Feature transformation with selective pseudo-labelling."""

    rounds: int = Field(
        default=20,
        ge=1,
        description="Rounds of pseudo-labelling, warm-up included. In the l-th of L, l/L of every "
        "class are selected. Not given in the paper.",
    )
    warmup_rounds: int = Field(
        default=0,
        ge=0,
        description="Rounds of plain cross-entropy on the source before the first pseudo-labels, "
        "for a trunk trained from scratch; L counts the others. Not in the paper, whose trunk is "
        "pre-trained.",
    )
    ft: bool = Field(
        default=True, description="Feature transformation (eq. 4); false: plain cross-entropy."
    )
    shift: bool = Field(
        default=True, description="Inter-domain centroid alignment (IDCA): the term of Δμ."
    )
    covariance: bool = Field(
        default=True, description="Intra-class attribute variation (ICAV): the term of Σ_t."
    )
    strength: Literal["constant", "ramp"] = Field(
        default="constant",
        description="Factor of Σ_t on top of strength_factor: 1 as printed, or p as in TSA.",
    )
    strength_factor: float = Field(
        default=1.0, ge=0, description="Factor of Σ_t in eq. 4; 1 as printed."
    )
    shift_factor: float = Field(
        default=1.0,
        ge=0,
        description="Factor of Δμ in eq. 4; 1 as printed. Where pseudo-labels are poor, a full Δμ "
        "of the true class tells the classifier that class.",
    )
    statistics: Literal["round", "running", "batch"] = Field(
        default="running",
        description="Where Δμ and Σ_t come from; not given in the paper. round: from all samples "
        "once a round, constants as in TSA; batch: from the step's batch, with a gradient in its "
        "features, so that both domains move; running: as batch, averaged over steps like ASTN's "
        "centres, with the gradient of the batch's part. On real pictures the first adds nothing "
        "to selective pseudo-labels alone, the others do.",
    )
    theta: float = Field(
        default=0.3, gt=0, le=1, description="Weight of the new batch in running statistics."
    )
    target_centroid: Literal["selected", "cluster"] = Field(
        default="selected",
        description="μ_t of Δμ once a round: the mean of the selected samples, or of the matched "
        "cluster (eq. 7), the paper's section III-D2 read to the letter.",
    )
    spl: bool = Field(
        default=True,
        description="Selective pseudo-labelling; false: all samples, labelled by the classifier.",
    )
    pseudo: Labelling | None = Field(
        default=None,
        description="Pseudo-labels from centroids and clusters (full), from centroids alone or "
        "from the classifier (table III); null: full with spl, classifier without.",
    )
    target_ce: float | None = Field(
        default=None,
        ge=0,
        description="Weight of cross-entropy on the selected target samples; null: 1 with spl "
        "(they 'form the training set'), 0 without. Not given in the paper.",
    )
    standardise: Literal["none", "center", "zscore"] = Field(
        default="none",
        description="Bring each domain's embeddings to zero mean, and unit variance per feature, "
        "before distances give pseudo-labels; not in the paper. It takes away what moves a whole "
        "domain, which can leave all target samples nearest to a few centroids.",
    )
    unit_length: bool = Field(
        default=False,
        description="Scale each standardised embedding to length 1 before distances give "
        "pseudo-labels; not in the paper.",
    )
    kmeans_iterations: int = Field(
        default=100, ge=1, description="Most iterations of K-means; not given in the paper."
    )

    @property
    def labelling(self) -> Labelling:
        """How pseudo-labels are given, where ``pseudo`` leaves it open too."""
        return self.pseudo or ("full" if self.spl else "classifier")

    @model_validator(mode="after")
    def _labels_something(self) -> FtsplConfig:
        if self.warmup_rounds >= self.rounds:
            raise ValueError(
                f"warmup_rounds: {self.warmup_rounds} of {self.rounds} rounds leave none that "
                "gives pseudo-labels; lower it or raise rounds"
            )
        return self

    @model_validator(mode="after")
    def _has_clusters(self) -> FtsplConfig:
        has_clusters = self.statistics == "round" and self.labelling == "full"
        if self.target_centroid == "cluster" and not has_clusters:
            raise ValueError(
                "target_centroid: cluster takes the clusters of a round: it needs statistics=round "
                "and pseudo=full (or spl=true); set these, or target_centroid=selected"
            )
        return self


@dataclass(frozen=True)
class _Embedded:
    """This rank's part of a walked stream: float64 ``features [n, D]``, labels, places, N."""

    features: Tensor
    labels: Tensor
    samples: Tensor
    size: int


class Ftspl(Method):
    name = "ftspl"
    paper = "Hu et al., IEEE TCSVT (FTSPL)"
    streams = {  # noqa: RUF012
        "source_images": StreamNeed("image", labelled=True),
        "target_shapes": StreamNeed("shape", labelled=False),
    }
    Config = FtsplConfig
    defaults = {  # noqa: RUF012
        "network": {"embedding": 256},
        "optimizer": {"kind": "sgd", "momentum": 0.9},
        "training": {"batch": 32},
    }

    shift: Tensor | None
    covariance: Tensor | None
    covariance_seen: Tensor | None

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self.network = RetrievalNetwork(network, num_classes)
        k, d = num_classes, network.embedding
        shift, covariance = config.ft and config.shift, config.ft and config.covariance
        kept, running = config.statistics == "round", config.statistics == "running"
        self.register_buffer("shift", torch.zeros(k, d) if shift and kept else None)
        self.register_buffer(
            "covariance", torch.zeros(k, d, d) if covariance and (kept or running) else None
        )
        # Which classes' running covariance has a value.
        seen = torch.zeros(k, dtype=torch.bool) if covariance and running else None
        self.register_buffer("covariance_seen", seen)
        self.source_centers = self.target_centers = None
        if shift and running:
            self.source_centers = RunningCenters(k, d, theta=config.theta)
            self.target_centers = RunningCenters(k, d, theta=config.theta)
        self.assigned, self.selected = PseudoLabels(), PseudoLabels()
        self.pseudo: Labelling = config.labelling
        self.target_ce = float(config.spl) if config.target_ce is None else config.target_ce

    def rounds(self, steps: int) -> int:
        needed = self.config.ft or self.target_ce > 0
        return min(self.config.rounds, steps) if needed else 0

    @torch.no_grad()
    def start_round(self, number: int, total: int, walk: Walk) -> dict[str, Tensor]:
        """The label step: new pseudo-labels, the selection among them, and Δμ and Σ_t."""
        number, total = number - self.config.warmup_rounds, total - self.config.warmup_rounds
        if number < 0:
            return {}
        source = self._embed_all(walk, "source_images")
        target = self._embed_all(walk, "target_shapes")
        labels, odds, clusters = self._pseudo_labels(source, target)
        chosen = select(
            odds,
            labels,
            samples=target.samples,
            size=target.size,
            share=(number + 1, total) if self.config.spl else (1, 1),
            num_classes=self.num_classes,
        )
        agreement = self.assigned.update(target.samples, labels, target.size)
        self.selected.resize(target.size)
        self.selected.labels.copy_(chosen)
        assigned = torch.bincount(self.assigned.labels, minlength=self.num_classes)
        return {
            "selected_fraction": (chosen >= 0).double().mean(),
            "round_label_agreement": agreement,
            "round_label_coverage": (assigned > 0).double().mean(),
            "round_label_probability": global_mean(odds.sigmoid()),
            **self._renew(source, target, clusters),
        }

    def _embed_all(self, walk: Walk, stream: str) -> _Embedded:
        features, labels, samples, size = [], [], [], 0
        for part in walk(stream):
            embed = self.embed_gallery if part.pixels.dim() == 5 else self.embed_queries
            assert part.samples is not None
            features.append(embed(part.pixels).double())
            labels.append(part.labels)
            samples.append(part.samples.to(part.labels.device))
            size = part.size
        return _Embedded(torch.cat(features), torch.cat(labels), torch.cat(samples), size)

    def _pseudo_labels(
        self, source: _Embedded, target: _Embedded
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Label and log-odds ``[n]`` of each of this rank's target rows (eq. 5-10), and the class
        of its cluster ``[n]`` where there are clusters."""
        if self.pseudo == "classifier":
            f_t = target.features.to(self.network.class_weight.dtype)
            return *log_odds(self.network.classify(f_t).double()), None
        f_s, f_t = (standardised(x.features, self.config.standardise) for x in (source, target))
        if self.config.unit_length:
            f_s, f_t = normalize(f_s, dim=1), normalize(f_t, dim=1)
        (centroids,) = class_sums((f_s, source.labels), num_classes=self.num_classes)  # eq. 5
        # A class without source samples has no centroid, hence no pseudo-label.
        classes = centroids.present.nonzero().squeeze(1)
        mu_s = centroids.means[classes]
        label, odds = log_odds(-distances(f_t, mu_s))  # eq. 6
        if self.pseudo != "full":
            return classes[label], odds, None
        clusters = kmeans(f_t, mu_s, iterations=self.config.kmeans_iterations)
        mu_t = clusters[match_clusters(clusters, mu_s)]  # eq. 7
        other, other_odds = log_odds(-distances(f_t, mu_t))  # eq. 8
        # Eq. 9-10: the largest of all p1 and p2 is the larger of their two maxima.
        surer = (other_odds > odds) | ((other_odds == odds) & (other < label))
        label, odds = torch.where(surer, other, label), torch.where(surer, other_odds, odds)
        return classes[label], odds, classes[other]

    def _renew(
        self, source: _Embedded, target: _Embedded, clusters: Tensor | None
    ) -> dict[str, Tensor]:
        """Δμ and Σ_t of this round from the selected samples; both 0 for a class without any."""
        if self.config.statistics != "round" or (self.shift is None and self.covariance is None):
            return {}
        k, labels = self.num_classes, self.selected.labels[target.samples]
        kept = labels >= 0
        (centroids,) = class_sums((source.features, source.labels), num_classes=k)
        moments = class_moments(target.features[kept], labels[kept], num_classes=k)
        both, health = moments.present & centroids.present, {}
        count = both.sum().clamp(min=1)
        if self.shift is not None:
            means = moments.means
            if self.config.target_centroid == "cluster":
                assert clusters is not None
                (members,) = class_sums((target.features, clusters), num_classes=k)
                # A cluster without members has no mean, and its class keeps the selected one.
                means = torch.where(members.present[:, None], members.means, means)
            shift = (means - centroids.means) * both[:, None]
            self.shift.copy_(shift)
            health["shift_norm"] = (euclidean_norm(shift) * both).sum() / count
        if self.covariance is not None:
            self.covariance.copy_(moments.covariances)
            trace = moments.covariances.diagonal(dim1=1, dim2=2).sum(1)
            health["covariance_trace"] = (trace * both).sum() / count
        return health

    def losses(self, batch: dict[str, Domain], now: Now) -> Losses:
        source, target, losses = batch["source_images"], batch["target_shapes"], Losses()
        chosen = self._chosen(target)
        kept = chosen >= 0
        f_s, f_t = self.embed(source, target if self._reads_target(now) else None)
        logits_s = self.network.classify(f_s)

        table = self._table((f_s, source.labels), (f_t, chosen), now)
        losses.add("classification", cross_entropy(logits_s + table[source.labels], source.labels))

        losses.health["selected_in_batch"] = global_mean(kept.to(f_s.dtype))
        if f_t is None:
            return losses
        logits_t = self.network.classify(f_t)
        if self.target_ce > 0:
            on_target = cross_entropy(logits_t, chosen, mask=kept)
            losses.add("target_classification", on_target, weight=self.target_ce)
        self.observe(losses, now, source=(f_s, logits_s, source), target=(f_t, logits_t, target))
        return losses

    def _reads_target(self, now: Now) -> bool:
        """Whether a step needs the target's features: for a term, for statistics of the batch, for
        the log, or because batch norm sees both domains."""
        learns = self.target_ce > 0 or (self.config.ft and self.config.statistics != "round")
        return learns or now.logged or self.network.config.batch_statistics

    def _table(
        self, source: tuple[Tensor, Tensor], target: tuple[Tensor | None, Tensor], now: Now
    ) -> Tensor:
        """What eq. 4 adds to the logits: ``[K, K]`` as in
        :func:`~trainer.losses.transferable_cross_entropy`.

        Both arguments are the batch's features and labels; the target's labels are -1 where a row
        is not selected."""
        config, weight = self.config, self.network.class_weight
        ramp = now.p if config.strength == "ramp" else 1.0
        shift_by, spread_by = config.shift_factor, config.strength_factor * ramp / 2
        table = weight.new_zeros(self.num_classes, self.num_classes)
        if not config.ft:
            return table
        if config.statistics == "round":
            if self.shift is not None:
                table = table + shift_by * shift_table(weight, self.shift)
            if self.covariance is not None:
                table = table + spread_by * spread_table(weight, self.covariance)
            return table
        f_t, y_t = target
        assert f_t is not None
        sums_s, sums_t = _sums(source, (f_t, y_t), self.num_classes)
        if config.shift:
            table = table + shift_by * shift_table(weight, self._live_shift(sums_s, sums_t))
        if config.covariance:
            table = table + spread_by * self._live_spread(weight, f_t, y_t, sums_t)
        return table

    def _live_shift(self, sums_s: ClassSums, sums_t: ClassSums) -> Tensor:
        """Δμ ``[K, D]`` of the batch or of running centres; 0 for a class that either lacks."""
        mu_s, has_s, mu_t, has_t = sums_s.means, sums_s.present, sums_t.means, sums_t.present
        if self.source_centers is not None and self.target_centers is not None:
            mu_s, has_s, _ = self.source_centers(sums_s)
            mu_t, has_t, _ = self.target_centers(sums_t)
        return (mu_t - mu_s) * (has_s & has_t)[:, None]

    def _live_spread(self, weight: Tensor, f_t: Tensor, y_t: Tensor, sums: ClassSums) -> Tensor:
        """:func:`~trainer.losses.spread_table` of the batch, or of the average over steps."""
        rows = {"sums": sums, "mask": y_t >= 0}
        batch = batch_spread_table(weight, f_t, y_t, **rows)
        if self.covariance is None or self.covariance_seen is None:
            return batch
        old = self.covariance.to(batch.dtype, copy=True)
        share = torch.where(self.covariance_seen, self.config.theta, 1.0).to(batch.dtype)
        share = share * sums.present  # of the batch in the average; 0 for a class that it lacks
        part = share[:, None, None]
        self.covariance.copy_(part * class_covariances(f_t, y_t, **rows) + (1 - part) * old)
        self.covariance_seen |= sums.present
        return share[:, None] * batch + (1 - share)[:, None] * spread_table(weight, old)

    def _chosen(self, target: Domain) -> Tensor:
        """Pseudo-labels ``[n]`` of the selected rows, -1 for the others; all -1 before round 0."""
        if target.samples is None or len(self.selected.labels) == 0:
            return torch.full_like(target.labels, -1)
        return self.selected.labels[target.samples]


def _sums(
    source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], num_classes: int
) -> tuple[ClassSums, ClassSums]:
    """Class sums of both domains; target rows with label -1 count for no class."""
    f_t, y_t = target
    unselected = (f_t, y_t.masked_fill(y_t < 0, num_classes))
    sums = class_sums(source, unselected, num_classes=num_classes + 1)
    first, second = (ClassSums(s.sums[:num_classes], s.counts[:num_classes]) for s in sums)
    return first, second

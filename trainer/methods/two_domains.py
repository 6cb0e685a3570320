"""The base of the baselines: labelled source images, unlabelled target shapes, one network.

    L = L_ce(source) + what a method adds in :meth:`TwoDomains.align`

Axis letters: n source and m target rows on this rank, D embedding width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from trainer.losses import Reduction, adversarial, cross_entropy, domain_accuracy
from trainer.methods.base import Domain, Losses, Method, MethodConfig, Now, StreamNeed
from trainer.networks import NetworkConfig, RetrievalNetwork, reverse_gradient
from trainer.schedules import ramp
from trainer.synchronised import full_precision


def reduction_field(default: Reduction) -> Any:
    """Field ``reduction`` of methods with a loss between class centres."""
    return Field(
        default=default,
        description="Over the classes' distances. sum: as printed; its gradient grows with the "
        "number of classes and the width of the embedding. mean: over the classes that take part, "
        "and over coordinates where distances are squared, as in MSTN's public code.",
    )


DomainLoss = Literal["mean", "sum"]


def domain_loss_field(default: DomainLoss) -> Any:
    """Field ``domain_loss`` of methods with a domain discriminator."""
    return Field(
        default=default,
        description="Of the two domains' binary cross-entropies. mean: of both, as in DANN and "
        "CDAN; sum: as in the public code of MSTN and of the MI3DOR authors, twice the gradient.",
    )


class AdversarialConfig(MethodConfig):
    """Fields of methods with a domain discriminator."""

    adversarial_weight: float = Field(
        default=1.0,
        ge=0,
        description="Factor of λ = ramp(p) on the reversed gradient of the domain loss; 0 leaves "
        "it out.",
    )
    domain_loss: DomainLoss = domain_loss_field("mean")


@dataclass(frozen=True)
class Pair:
    """This rank's source and target rows with what the network makes of them.

    Embeddings ``f_s [n, D]``, ``f_t [m, D]``, class logits ``logits_s [n, K]``, ``logits_t [m, K]``
    and, where a method asks for it, the map of one trunk stage ``[n, C, h, w]`` and
    ``[m, V, C, h, w]``; all with gradient, in float32 at least.
    """

    source: Domain
    target: Domain
    f_s: Tensor
    f_t: Tensor
    logits_s: Tensor
    logits_t: Tensor
    map_s: Tensor | None = None
    map_t: Tensor | None = None

    @property
    def pseudo_labels(self) -> Tensor:
        """``[m]`` the classifier's choice for each target row; no gradient."""
        return self.logits_t.detach().argmax(1)

    @property
    def offsets(self) -> tuple[int, int]:
        """Positions of the first source and target row in their global batches."""
        return self.source.offset, self.target.offset


class TwoDomains(Method):
    """Base of methods that add alignment terms to the source classification loss.

    A config with ``adversarial_weight`` above 0 gets a discriminator on the embedding.
    """

    streams = {  # noqa: RUF012
        "source_images": StreamNeed("image", labelled=True),
        "target_shapes": StreamNeed("shape", labelled=False),
    }

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self.network = RetrievalNetwork(
            network, num_classes, discriminator=self.embedding_discriminator
        )

    @property
    def embedding_discriminator(self) -> bool:
        """Whether the network has a domain discriminator on the embedding."""
        return getattr(self.config, "adversarial_weight", 0) > 0

    def losses(self, batch: dict[str, Domain], now: Now) -> Losses:
        pair = self.encode(batch["source_images"], batch["target_shapes"])
        losses = Losses()
        losses.add("classification", cross_entropy(pair.logits_s, pair.source.labels))
        self.align(losses, pair, now)
        self.observe(
            losses,
            now,
            source=(pair.f_s, pair.logits_s, pair.source),
            target=(pair.f_t, pair.logits_t, pair.target),
        )
        return losses

    @property
    def map_stage(self) -> str | None:
        """Trunk stage whose map :meth:`align` is given."""
        return None

    def encode(self, source: Domain, target: Domain) -> Pair:
        """Embeddings and class logits of both domains, and the map of :attr:`map_stage`."""
        stage, joint = self.map_stage, self.config.forward == "joint"
        keep, offsets = () if stage is None else (stage,), (source.offset, target.offset)
        with self.autocast(source.pixels.device):
            of_source, of_target = self.network.encode(
                source.pixels, target.pixels, joint=joint, offsets=offsets, keep=keep
            )
        assert of_source is not None
        assert of_target is not None
        f_s, f_t = full_precision(of_source.embedding), full_precision(of_target.embedding)
        classify = self.network.classify
        maps = [full_precision(e.maps[stage]) for e in (of_source, of_target) if stage is not None]
        return Pair(source, target, f_s, f_t, classify(f_s), classify(f_t), *maps)

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        """Add the method's own terms and health signals."""
        raise TypeError(f"{type(self).__name__} does not define align()")

    def add_domain_loss(self, losses: Losses, pair: Pair, now: Now) -> None:
        """Add DANN's term on the embedding; nothing where its weight is 0."""
        if not self.embedding_discriminator:
            return
        lam = ramp(now.p) * self.config.adversarial_weight
        d_s, d_t = self.network.discriminate(
            reverse_gradient(pair.f_s, lam), reverse_gradient(pair.f_t, lam), pair.offsets
        )
        losses.add("domain", adversarial(d_s, d_t, reduction=self.config.domain_loss))
        losses.health["discriminator_accuracy"] = domain_accuracy(d_s, d_t)

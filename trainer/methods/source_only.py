"""Source only: cross-entropy on labelled images, no adaptation (the papers' lower baseline)."""

from __future__ import annotations

from typing import Any

from trainer.losses import accuracy, cross_entropy
from trainer.methods.base import Domain, Losses, Method, MethodConfig, Now, StreamNeed
from trainer.networks import NetworkConfig, RetrievalNetwork


class SourceOnlyConfig(MethodConfig):
    """Source-only has no options of its own."""


class SourceOnly(Method):
    name = "source-only"
    paper = "baseline of every paper"
    streams = {"source_images": StreamNeed("image", labelled=True)}  # noqa: RUF012
    Config = SourceOnlyConfig

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self.network = RetrievalNetwork(network, num_classes)

    def losses(self, batch: dict[str, Domain], now: Now) -> Losses:
        source = batch["source_images"]
        f, _ = self.embed(source, None)
        logits = self.network.classify(f)
        losses = Losses()
        losses.add("classification", cross_entropy(logits, source.labels))
        losses.health["source_accuracy"] = accuracy(logits, source.labels)
        return losses

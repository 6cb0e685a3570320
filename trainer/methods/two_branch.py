"""The base of the sketch-based methods: a network per modality, P x K batches.

Labelled sketches and labelled shapes come in batches of P classes x K samples, the same classes
in both streams (:mod:`dataio.loading` draws them).

Axis letters: n rows of a stream on this rank, D embedding width.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from trainer.losses import mmd, nearest_mean_accuracy
from trainer.methods.base import Domain, Losses, Method, MethodConfig, Now, StreamNeed
from trainer.networks import Backbone, MetricBranch, NetworkConfig
from trainer.synchronised import full_precision


class TwoBranchConfig(MethodConfig):
    """Two branches on P x K batches. They share nothing, so ``forward`` has no effect."""

    classes_per_batch: int = Field(default=16, ge=2, description="P, classes in a batch.")
    samples_per_class: int = Field(
        default=4, ge=2, description="K, sketches and shapes of each class in a batch."
    )
    metric_hidden: tuple[int, ...] = Field(
        default=(1024, 512, 256),
        description="Hidden widths of both metric networks, between the trunk's features and the "
        "embedding (network.embedding).",
    )
    metric_last_norm: bool = Field(
        default=False,
        description="Batch norm before the last layer's tanh too. DCA has it 'for all layers [...] "
        "except that the last layer uses tanh', which can be read both ways.",
    )


class TwoBranch(Method):
    """Base of the sketch-based methods; a subclass adds what it does with the embeddings."""

    streams = {  # noqa: RUF012
        "source_images": StreamNeed("image", labelled=True),
        "source_shapes": StreamNeed("shape", labelled=True),
    }
    balanced = True
    has_classifier = False
    two_trunks = True

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self._pretrained = network.pretrained
        metric: dict[str, Any] = {
            "hidden": config.metric_hidden,
            "last_norm": config.metric_last_norm,
        }
        self.sketch = MetricBranch(network.of("image"), **metric)
        self.shape = MetricBranch(network.of("shape"), **metric)

    @property
    def pretrained(self) -> bool:
        return self._pretrained

    def trunk_of(self, modality: Literal["image", "shape"]) -> Backbone:
        return (self.sketch if modality == "image" else self.shape).trunk

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            f"{name}.{part}": list(getattr(branch, part).parameters())
            for name, branch in (("sketch", self.sketch), ("shape", self.shape))
            for part in ("trunk", "metric")
        }

    def embed_branch(self, branch: MetricBranch, rows: Domain) -> Tensor:
        """Embeddings ``[n, D]`` of ``rows``; only the trunk runs in reduced precision."""
        with self.autocast(rows.pixels.device):
            features = branch.features(rows.pixels, offset=rows.offset)
        return branch.metric(full_precision(features))

    def observe_retrieval(
        self,
        losses: Losses,
        now: Now,
        sketches: tuple[Tensor, Tensor],
        shapes: tuple[Tensor, Tensor],
    ) -> None:
        """Add health signals on logged steps: the share of sketches whose nearest class mean of the
        batch's shapes is their own class's, and the MMD between sketches and shapes.

        Both arguments are retrieval embeddings and labels."""
        if now.logged:
            losses.health["domain_mmd"] = mmd(sketches[0].detach(), shapes[0].detach())
            losses.health["cross_modal_accuracy"] = nearest_mean_accuracy(
                *sketches, *shapes, num_classes=self.num_classes
            )

    def trace(self, image: Tensor, view: Tensor) -> None:
        self.embed_queries(image)
        self.embed_gallery(view[:, None])

    def embed_queries(self, pixels: Tensor) -> Tensor:
        return self.sketch(pixels)

    def embed_gallery(self, pixels: Tensor) -> Tensor:
        return self.shape(pixels)

"""The network of all retrieval methods: trunk, gates, bottleneck, classifier, discriminator.

A shape is a set of views (MVCNN, Su et al., ICCV 2015). Every view goes through the same network;
the views' embeddings, taken after the bottleneck, are pooled element-wise.

Axis letters: n images or shapes on this rank (may be 0), V views, H×W pixels, D embedding width,
K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.networks.backbones import build_backbone
from trainer.networks.dropout import row_positions
from trainer.networks.gates import AdaptiveGates, Plasticity
from trainer.networks.heads import Bottleneck, Classifier, Discriminator
from trainer.networks.options import NetworkConfig
from trainer.networks.weights import NetworkError

# Positions of different streams never overlap, so their dropout masks are independent.
_STREAM = 1 << 40


@dataclass(frozen=True)
class Encoding:
    """Outputs of the network for the rows of one stream.

    Attributes:
        embedding: ``[n, D]``.
        views: embeddings of the single views, ``[n, V, D]``; None for images.
        maps: outputs of the kept stages, ``[n, C, h, w]``, or ``[n, V, C, h, w]`` for shapes.
    """

    embedding: Tensor
    views: Tensor | None = None
    maps: dict[str, Tensor] = field(default_factory=dict)


class RetrievalNetwork(nn.Module):
    """One trunk for images and shapes, with the heads that methods train on it.

    New weights are drawn from torch's default generator: seed it first, the same on every rank.

    Args:
        config: trunk, embedding and pooling.
        num_classes: K; None: no classifier, where another network's is shared.
        gated_stages: trunk stages that get an adaptive gate, one parameter each.
        plasticity, gate_start: see `AdaptiveGates`.
        discriminator: whether there is a domain discriminator on the embedding.

    Raises:
        NetworkError: unknown stage, or weights that cannot be had or do not fit.
    """

    def __init__(
        self,
        config: NetworkConfig,
        num_classes: int | None,
        *,
        gated_stages: Sequence[str] = (),
        plasticity: Plasticity = "decay",
        gate_start: float = 0.0,
        discriminator: bool = False,
    ) -> None:
        super().__init__()
        unknown = [stage for stage in gated_stages if stage not in config.stages]
        if unknown:
            raise NetworkError(
                f"gated_stages: {config.backbone} has no stage {', '.join(unknown)}; "
                f"known: {', '.join(config.stages)}"
            )
        self.config = config
        self.trunk = build_backbone(config)
        self.gates = None
        if gated_stages:
            self.gates = AdaptiveGates(gated_stages, plasticity=plasticity, start=gate_start)
            self.trunk.gate(self.gates)
        self.bottleneck = Bottleneck(self.trunk.width, config.embedding)
        self.classifier = None
        if num_classes is not None:
            self.classifier = Classifier(config.embedding, num_classes)
        self.discriminator = (
            Discriminator(config.embedding, dropout=config.discriminator_dropout)
            if discriminator
            else None
        )

    @property
    def pretrained(self) -> bool:
        """Whether the trunk started from weights trained elsewhere."""
        return self.config.pretrained

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the trunk; all others (gates, heads) are new layers."""
        return self.trunk.parameters()

    def embed_images(self, images: Tensor, *, offset: int = 0) -> Tensor:
        """Embeddings ``[n, D]`` of ``images [n, 3, H, W]``; ``offset`` as in :meth:`encode`."""
        return self._embed(images, _positions(images, offset), ())[0]

    def embed_shapes(self, shapes: Tensor, *, offset: int = 0) -> Tensor:
        """Embeddings ``[n, D]`` of ``shapes [n, V, 3, H, W]``, pooled over the views."""
        positions = _view_positions(shapes, offset)
        views = embed_views(shapes, lambda x: self._embed(x, positions, ())[0])
        return pool_views(views, self.config.pool)

    def embed(
        self,
        images: Tensor,
        shapes: Tensor | None,
        *,
        joint: bool = True,
        offsets: tuple[int, int] = (0, 0),
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings ``[n, D]`` of images and shapes; arguments as in :meth:`encode`."""
        f, g = self.encode(images, shapes, joint=joint, offsets=offsets)
        assert f is not None
        return f.embedding, None if g is None else g.embedding

    def encode(
        self,
        images: Tensor | None,
        shapes: Tensor | None,
        *,
        joint: bool = True,
        offsets: tuple[int, int] = (0, 0),
        keep: Collection[str] = (),
    ) -> tuple[Encoding | None, Encoding | None]:
        """Embeddings with those of the views, and inner maps.

        Args:
            images: ``[n, 3, H, W]`` or None.
            shapes: ``[m, V, 3, H, W]`` or None.
            joint: one pass of the trunk for both streams; matters for batch statistics only.
            offsets: positions of the first image and the first shape in their global batches,
                on which dropout masks depend.
            keep: trunk stages whose output is returned.
        """
        parts: list[tuple[Tensor, Tensor]] = []
        if images is not None:
            parts.append((images, _positions(images, offsets[0])))
        if shapes is not None:
            parts.append((shapes.flatten(0, 1), _view_positions(shapes, offsets[1])))
        done = self._embed_parts(parts, keep, joint=joint)
        f = None if images is None else Encoding(done[0][0], None, done[0][1])
        if shapes is None:
            return f, None
        views, maps = done[-1]
        views = views.unflatten(0, shapes.shape[:2])
        folded = {stage: m.unflatten(0, shapes.shape[:2]) for stage, m in maps.items()}
        return f, Encoding(pool_views(views, self.config.pool), views, folded)

    def _embed_parts(
        self, parts: list[tuple[Tensor, Tensor]], keep: Collection[str], *, joint: bool
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """Embeddings and maps of each part ``(images, positions)``, in one pass or one by one."""
        if not joint or len(parts) == 1:
            return [self._embed(x, positions, keep) for x, positions in parts]
        sizes = [len(x) for x, _ in parts]
        f, maps = self._embed(
            torch.cat([x for x, _ in parts]), torch.cat([p for _, p in parts]), keep
        )
        split = {stage: m.split(sizes) for stage, m in maps.items()}
        return [
            (rows, {stage: m[i] for stage, m in split.items()})
            for i, rows in enumerate(f.split(sizes))
        ]

    def _embed(
        self, x: Tensor, positions: Tensor, keep: Collection[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with row_positions(positions):
            features, maps = self.trunk.features(x, keep=keep)
        return self.bottleneck(features), maps

    def forward(
        self,
        images: Tensor,
        shapes: Tensor | None = None,
        *,
        joint: bool = True,
        offsets: tuple[int, int] = (0, 0),
    ) -> tuple[Tensor, Tensor | None]:
        """The same as :meth:`embed`."""
        return self.embed(images, shapes, joint=joint, offsets=offsets)

    def trace(self, image: Tensor) -> None:
        """Pass ``image [1, 3, H, W]`` through trunk, bottleneck and all heads, to count costs."""
        f = self.embed_images(image)
        if self.classifier is not None:
            self.classify(f)
        if self.discriminator is not None:
            self.discriminator(f)

    def classify(self, f: Tensor) -> Tensor:
        """Class logits ``[n, K]`` of embeddings ``f [n, D]``."""
        assert self.classifier is not None, "built without a classifier"
        return self.classifier(f)

    @property
    def class_weight(self) -> Tensor:
        """Rows w_k of the classifier, ``[K, D]``."""
        assert self.classifier is not None, "built without a classifier"
        return self.classifier.weight

    def discriminate(
        self, source: Tensor, target: Tensor, offsets: tuple[int, int] = (0, 0)
    ) -> tuple[Tensor, Tensor]:
        """Domain logits ``[n]`` and ``[m]`` of embeddings ``[n, D]`` and ``[m, D]``.

        ``offsets`` are the positions of the first rows in their global batches.
        """
        assert self.discriminator is not None, "built without a discriminator"
        positions = torch.cat(
            [_positions(source, offsets[0]), _positions(target, offsets[1]) + _STREAM]
        )
        with row_positions(positions):
            logits = self.discriminator(torch.cat([source, target]))
        return logits[: len(source)], logits[len(source) :]

    def set_gate_progress(self, q: float) -> None:
        """Set the gates' progress of training, in [0, 1]; nothing to do without gates."""
        if self.gates is not None:
            self.gates.set_progress(q)

    def gate_values(self) -> dict[str, Tensor]:
        """ψ of every gated stage, scalars without gradient."""
        return {} if self.gates is None else self.gates.values()


def embed_views(x: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
    """Embeddings ``[n, V, D]`` of the single views ``x [n, V, 3, H, W]``; n may be 0.

    Args:
        embed: maps images ``[n·V, 3, H, W]`` to embeddings ``[n·V, D]``.
    """
    assert x.dim() == 5, f"views of shapes are [n, V, 3, H, W], not {list(x.shape)}"
    return embed(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1]))


def pool_views(views: Tensor, how: Literal["max", "mean"]) -> Tensor:
    """Shape embeddings ``[n, D]`` from those of the views ``[n, V, D]``.

    Equal maxima, as a symmetric shape has them, share the gradient evenly.
    """
    return views.amax(dim=1) if how == "max" else views.mean(dim=1)


class TrunkFeatures(nn.Module):
    """A trunk whose features are the embedding, without any head.

    Args:
        config: trunk and pooling.

    Raises:
        NetworkError: weights that cannot be had or do not fit.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = build_backbone(config)

    @property
    def pretrained(self) -> bool:
        """Whether the trunk started from weights trained elsewhere."""
        return self.config.pretrained

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the trunk, which are all there are."""
        return self.trunk.parameters()

    def trace(self, image: Tensor) -> None:
        """Pass ``image [1, 3, H, W]`` through the trunk, to count costs."""
        self.trunk(image)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[n, F]`` of images ``[n, 3, H, W]``, and ``[n, V, F]`` of the single views of
        shapes ``[n, V, 3, H, W]``."""
        return embed_views(x, self.trunk) if x.dim() == 5 else self.trunk(x)


def _positions(rows: Tensor, offset: int) -> Tensor:
    return torch.arange(offset, offset + len(rows), device=rows.device)


def _view_positions(shapes: Tensor, offset: int) -> Tensor:
    n, views = shapes.shape[:2]
    first, last = offset * views, (offset + n) * views
    return torch.arange(first, last, device=shapes.device) + _STREAM

"""What a method is: networks, the streams it needs, and one global loss per batch.

Axis letters: n rows of a domain on this rank, V views, H×W pixels, D embedding width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from trainer.networks.dropout import dropout_rows
from trainer.networks.network import RetrievalNetwork
from trainer.networks.options import NetworkConfig

__all__ = ["Domain", "Losses", "Method", "MethodConfig", "StreamNeed"]


@dataclass(frozen=True)
class StreamNeed:
    """One stream that a method trains on."""

    modality: Literal["image", "shape"]
    labelled: bool


@dataclass(frozen=True)
class Domain:
    """This rank's part of one stream's global batch, ready for the network.

    ``pixels`` is float ``[n, 3, H, W]`` for images and ``[n, V, 3, H, W]`` for shapes; ``labels
    [n]`` is -1 where hidden; ``offset`` is the position of the first row in the global batch.
    """

    pixels: Tensor
    labels: Tensor
    offset: int = 0
    keys: tuple[str, ...] = ()


@dataclass
class Losses:
    """Global loss terms of one step, unmultiplied, with the weight each has in the total.

    ``health`` holds signals that are logged but not trained on.
    """

    terms: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    health: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, *, weight: float = 1.0) -> None:
        self.terms[name] = value
        self.weights[name] = weight

    @property
    def total(self) -> Tensor:
        """The weighted sum, a scalar with gradient; the one loss that is stepped on."""
        return torch.stack([self.terms[n] * w for n, w in self.weights.items()]).sum()


class MethodConfig(BaseModel):
    """Fields that every method has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forward: Literal["joint", "separate"] = Field(
        default="joint",
        description="Images and shapes in one forward pass of the trunk or in two. The same for "
        "networks without batch statistics; with global batch norm it changes the results.",
    )


class Method(nn.Module):
    """Base of all methods: owns every learnable part, so that DDP and DeepSpeed see it.

    A subclass sets ``name``, ``paper``, ``streams`` and ``Config``, builds its parts in
    ``__init__`` and turns a batch into :class:`Losses` in :meth:`losses`.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    streams: ClassVar[dict[str, StreamNeed]]
    Config: ClassVar[type[MethodConfig]]

    config: Any
    network: RetrievalNetwork

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.seed = seed
        self.autocast_dtype: torch.dtype | None = None

    def forward(self, batch: dict[str, Domain], *, step: int, progress: float) -> Losses:
        """Losses of one global batch.

        Args:
            batch: this rank's rows by stream name.
            step: 0-based global step, from which dropout masks follow.
            progress: share of training done, p in [0, 1].
        """
        with dropout_rows(seed=self.seed, step=step):
            return self.losses(batch, min(progress, 1.0))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters, each once: ``trunk`` and ``new``, whose learning rates may differ."""
        trunk = list(self.network.trunk_parameters())
        inside = {id(p) for p in trunk}
        return {"trunk": trunk, "new": [p for p in self.parameters() if id(p) not in inside]}

    def losses(self, batch: dict[str, Domain], progress: float) -> Losses:
        raise TypeError(f"{type(self).__name__} does not define losses()")

    def embed(self, images: Domain, shapes: Domain | None) -> tuple[Tensor, Tensor | None]:
        """Embeddings ``[n, D]`` of images and shapes in fp32 (fp64 when training in fp64)."""
        views = None if shapes is None else shapes.pixels
        joint = self.config.forward == "joint"
        offsets = (images.offset, 0 if shapes is None else shapes.offset)
        with self.autocast(images.pixels.device):
            f, g = self.network.embed(images.pixels, views, joint=joint, offsets=offsets)
        return _full(f), None if g is None else _full(g)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Mixed precision of the trunk; losses stay outside it."""
        return torch.autocast(
            device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None
        )

    def embed_queries(self, pixels: Tensor) -> Tensor:
        """Retrieval embedding ``[n, D]`` of query images ``[n, 3, H, W]``."""
        return _full(self.network.embed_images(pixels))

    def embed_gallery(self, pixels: Tensor) -> Tensor:
        """Retrieval embedding ``[n, D]`` of gallery shapes ``[n, V, 3, H, W]``."""
        return _full(self.network.embed_shapes(pixels))


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()

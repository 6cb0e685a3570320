"""What a method is: networks, the streams it needs, and one global loss per batch.

Axis letters: n rows of a domain on this rank, V views, H×W pixels, D embedding width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from trainer.losses import accuracy, mmd
from trainer.networks import (
    Backbone,
    NetworkConfig,
    NetworkError,
    RetrievalNetwork,
    dropout_rows,
)
from trainer.synchronised import PseudoLabels, all_reduce_sum, full_precision


@dataclass(frozen=True)
class StreamNeed:
    """One stream that a method trains on."""

    modality: Literal["image", "shape"]
    labelled: bool


@dataclass(frozen=True)
class Domain:
    """This rank's part of one stream's global batch, ready for the network.

    ``pixels`` is float ``[n, 3, H, W]`` for images and ``[n, V, 3, H, W]`` for shapes, or what the
    frozen stages of the trunk have made of them (``[n, A, B, C]`` and ``[n, V, A, B, C]``);
    ``labels [n]`` is -1 where hidden; ``offset`` is the position of the first row in the global
    batch; ``samples [n]`` are the rows' places in the whole stream, in [0, size), for per-sample
    state.
    """

    pixels: Tensor
    labels: Tensor
    offset: int = 0
    keys: tuple[str, ...] = ()
    samples: Tensor | None = None
    size: int = 0


Walk = Callable[[str], Iterator[Domain]]
"""A pass over one stream by name: this rank's part, each sample once over all ranks, in stream
order, not augmented, all views. Every rank gets the same number of parts, the last ones may be
empty. Labels of an unlabelled stream are -1."""


@dataclass(frozen=True)
class Now:
    """Where training stands: 0-based global ``step``, share done ``p`` in [0, 1]; ``logged``
    says, the same on every rank, whether this step's health signals will be read."""

    step: int
    p: float
    logged: bool = True


@dataclass(frozen=True)
class Update:
    """One optimiser step on a batch, and the groups of parameters that learn in it.

    All other parameters are frozen while its losses are computed.
    """

    name: str
    groups: tuple[str, ...]


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
    """Fields that every method has.

    A subclass may override a field's default alone, as in ``samples_per_class: int = 8``: the field
    keeps the description and the bounds that it has in the base class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    forward: Literal["joint", "separate"] = Field(
        default="joint",
        description="Images and shapes in one forward pass of the trunk or in two. The same for "
        "networks without batch statistics; with global batch norm it changes the results.",
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        changed = False
        for name, info in cls.model_fields.items():
            bases = (b.model_fields for b in cls.__mro__[1:] if issubclass(b, MethodConfig))
            inherited = next((fields[name] for fields in bases if name in fields), None)
            if inherited is None or info.description is not None:
                continue
            info.description = inherited.description
            if not info.metadata and info.annotation == inherited.annotation:
                info.metadata = list(inherited.metadata)
            changed = True
        if changed:  # the validator was built before
            cls.model_rebuild(force=True)


class Method(nn.Module):
    """Base of all methods: owns every learnable part, so that DDP and DeepSpeed see it.

    A subclass sets the class attributes, builds its parts in ``__init__`` and turns a batch into
    :class:`Losses` in :meth:`losses`. What else a method may have, all optional: several updates
    per batch, rounds over the whole training set, and a last fit when training is done.

    Attributes:
        name: what configurations call it.
        paper: authors, venue, year.
        streams: what it trains on.
        Config: its options.
        defaults: the paper's settings, by section and key as in a run description; a description
            that is silent about a key gets them.
        balanced: whether its batches are P classes x K samples, the same classes in every stream;
            its Config then has ``classes_per_batch`` and ``samples_per_class``.
        walked: streams that are only walked (in rounds or at the end), never drawn for a step.
        has_classifier: whether it learns a classifier, so that :meth:`class_logits` works.
        two_trunks: whether images and shapes have a trunk each.
        trains: whether it takes steps; a method that takes none is only fitted (:meth:`finish`),
            and its trunk is frozen.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    streams: ClassVar[dict[str, StreamNeed]]
    Config: ClassVar[type[MethodConfig]]
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    balanced: ClassVar[bool] = False
    walked: ClassVar[frozenset[str]] = frozenset()
    has_classifier: ClassVar[bool] = True
    two_trunks: ClassVar[bool] = False
    trains: ClassVar[bool] = True

    config: Any
    network: RetrievalNetwork

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.seed = seed
        self.autocast_dtype: torch.dtype | None = None
        drawn = "target_shapes" in self.streams and "target_shapes" not in self.walked
        self.last_pseudo_labels = PseudoLabels() if drawn else None

    def use_classes(self, classes: Sequence[str]) -> None:
        """Take note of the class names, in order of their ids; called once, after it is built,
        where they are known."""

    def forward(self, batch: dict[str, Domain], now: Now, update: str = "all") -> Losses:
        """Losses of one update on one global batch; ``batch`` has this rank's rows by stream."""
        with dropout_rows(seed=self.seed, step=now.step):
            return self.update_losses(update, batch, now)

    def losses(self, batch: dict[str, Domain], now: Now) -> Losses:
        """The method's losses; what most methods define."""
        raise TypeError(f"{type(self).__name__} does not define losses()")

    def update_losses(self, update: str, batch: dict[str, Domain], now: Now) -> Losses:
        """Losses of one of several updates; defined by methods that have :meth:`updates`."""
        return self.losses(batch, now)

    def updates(self, step: int) -> tuple[Update, ...]:
        """The optimiser steps on the batch of ``step``, in order; one of everything by default, and
        none where nothing is trained."""
        return (Update("all", tuple(self.parameter_groups())),) if self.trains else ()

    @property
    def alternates(self) -> bool:
        """Whether some update leaves parameters out."""
        return type(self).updates is not Method.updates

    def rounds(self, steps: int) -> int:
        """How many rounds ``steps`` steps are cut into; 0 for methods without rounds."""
        return 0

    def start_round(self, number: int, total: int, walk: Walk) -> dict[str, Tensor]:
        """Renew per-round state at the start of round ``number`` (0-based), in evaluation mode
        without gradient; returns health signals, which every record of the round carries."""
        return {}

    def finish(self, walk: Walk) -> None:
        """A last fit on the whole training set, after the last step; no gradient."""

    @property
    def pretrained(self) -> bool:
        """Whether the trunk, or one of two, started from weights trained elsewhere."""
        return self.network.pretrained

    def trunk_of(self, modality: Literal["image", "shape"]) -> Backbone:
        """The trunk of one modality; the same one unless :attr:`two_trunks`."""
        return self.network.trunk

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters, each once, by group. Groups whose name ends in ``trunk`` learn at the
        base rate, the others at a multiple of it where the trunk is pre-trained."""
        trunk = list(self.network.trunk_parameters())
        inside = {id(p) for p in trunk}
        return {"trunk": trunk, "new": [p for p in self.parameters() if id(p) not in inside]}

    def embed(self, images: Domain, shapes: Domain | None) -> tuple[Tensor, Tensor | None]:
        """Embeddings ``[n, D]`` of images and shapes in fp32 (fp64 when training in fp64)."""
        views = None if shapes is None else shapes.pixels
        joint = self.config.forward == "joint"
        offsets = (images.offset, 0 if shapes is None else shapes.offset)
        with self.autocast(images.pixels.device):
            f, g = self.network.embed(images.pixels, views, joint=joint, offsets=offsets)
        return full_precision(f), None if g is None else full_precision(g)

    @torch.no_grad()
    def observe(
        self,
        losses: Losses,
        now: Now,
        *,
        source: tuple[Tensor, Tensor, Domain],
        target: tuple[Tensor, Tensor, Domain],
    ) -> None:
        """Add the health signals that every adaptation method has.

        ``source`` and ``target`` are embeddings ``[n, D]``, class logits ``[n, K]`` and the rows
        they belong to. Added are the classifier's accuracy on the source, the MMD between the
        domains (on logged steps), the share of classes with a target pseudo-label in the batch
        (coverage) and the share of target samples that kept the pseudo-label of the pass before.
        """
        (f_s, logits_s, rows_s), (f_t, logits_t, rows_t) = source, target
        health, pseudo = losses.health, logits_t.argmax(1)
        health["source_accuracy"] = accuracy(logits_s, rows_s.labels)
        classes = torch.arange(self.num_classes, device=pseudo.device)
        counts = all_reduce_sum((pseudo[:, None] == classes).sum(0))  # bincount waits for a GPU
        health["pseudo_label_coverage"] = (counts > 0).to(f_t.dtype).mean()
        if rows_t.samples is not None and self.last_pseudo_labels is not None:
            health["pseudo_label_agreement"] = self.last_pseudo_labels.update(
                rows_t.samples, pseudo, rows_t.size
            )
        if now.logged:
            health["domain_mmd"] = mmd(f_s, f_t)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Mixed precision of the trunk; losses stay outside it."""
        return torch.autocast(
            device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None
        )

    def trace(self, image: Tensor, view: Tensor) -> None:
        """Pass ``image [1, 3, H, W]`` through the network, to count costs. Where shapes have a
        network of their own, ``view``, of the size that it takes, goes through that one as a
        shape's only view."""
        self.network.trace(image)

    def embed_queries(self, pixels: Tensor) -> Tensor:
        """Retrieval embedding ``[n, D]`` of query images ``[n, 3, H, W]``."""
        return full_precision(self.network.embed_images(pixels))

    def embed_gallery(self, pixels: Tensor) -> Tensor:
        """Retrieval embedding ``[n, D]`` of gallery shapes ``[n, V, 3, H, W]``."""
        return full_precision(self.network.embed_shapes(pixels))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Retrieval embedding ``[n, D]`` of ``texts``, to be compared with those of shapes.

        Raises:
            NetworkError: the embedding is not one of texts too; says why, and the remedy.
        """
        raise NetworkError(
            f"{self.name} embeds pictures and shapes where no text tower embeds texts; search by "
            "text in a run of method zero-shot on a trunk open_clip/NAME, without prompts"
        )

    def class_logits(self, pixels: Tensor) -> Tensor:
        """Class logits ``[n, K]`` of one side's samples: images ``[n, 3, H, W]`` as queries, shapes
        ``[n, V, 3, H, W]`` as the gallery; only of methods with :attr:`has_classifier`."""
        shapes = pixels.dim() == 5
        f = self.embed_gallery(pixels) if shapes else self.embed_queries(pixels)
        return full_precision(self.network.classify(f))

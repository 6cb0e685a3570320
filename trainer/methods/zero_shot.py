"""Zero-shot: the features of a pre-trained trunk as they are, nothing is trained.

    f(image) = φ(x) / ‖φ(x)‖        g(shape) = pool_v φ(x_v) / ‖φ(x_v)‖

With ``centre`` each domain's mean over the training set is subtracted. With ``prompts`` the
embedding holds class probabilities instead: softmax over classes k of s · cos(φ(x), t_k), where t_k
is the mean of the text embeddings of class k's name in every prompt and s the model's own scale
(Radford et al., section 3.1). Of a shape the cosines of its views are pooled.

Axis letters: n rows, V views, F trunk features, K classes, D = F, or K with prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from dataio.records import DataError
from trainer.methods.base import Method, MethodConfig, StreamNeed, Walk
from trainer.methods.shallow import FittedState
from trainer.networks import ClipTexts, NetworkConfig, NetworkError, TrunkFeatures, pool_views
from trainer.synchronised import all_reduce_sum, full_precision

_SIDES: dict[str, Literal["image", "shape"]] = {"source_images": "image", "target_shapes": "shape"}


class ZeroShotConfig(MethodConfig):
    """A pre-trained trunk without training."""

    normalise: bool = Field(
        default=True,
        description="Scale the features of each picture, and of each view before views are pooled, "
        "to length 1, so that no view counts more for its length alone.",
    )
    centre: bool = Field(
        default=False,
        description="Subtract the mean embedding of source_images from those of pictures, and that "
        "of target_shapes from those of shapes; no label is read.",
    )
    prompts: tuple[str, ...] = Field(
        default=(),
        description='Sentences with {} in the place of a class name, such as "a photo of a {}"; '
        "open_clip trunks only. The embedding is then the softmax of the similarities to the "
        "classes' names. Empty: the trunk's features.",
    )

    @model_validator(mode="after")
    def _usable(self) -> ZeroShotConfig:
        for prompt in self.prompts:
            if "{}" not in prompt:
                raise ValueError(f"prompts: '{prompt}' has no {{}} for the class name; add it")
        if self.prompts and self.centre:
            raise ValueError(
                "centre: with prompts pictures are compared with texts, whose mean is another one; "
                "set centre=false, or leave prompts out"
            )
        return self


class ZeroShot(Method):
    name = "zero-shot"
    paper = "Radford et al., ICML 2021 (prompts); any pre-trained trunk"
    streams = {  # noqa: RUF012
        "source_images": StreamNeed("image", labelled=False),
        "target_shapes": StreamNeed("shape", labelled=False),
    }
    walked = frozenset(streams)
    Config = ZeroShotConfig
    defaults = {"network": {"train": "head"}, "training": {"steps": 0}}  # noqa: RUF012
    has_classifier = False
    trains = False

    network: TrunkFeatures  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self.network = TrunkFeatures(network)
        self.texts = ClipTexts(network)
        self.classes: tuple[str, ...] = ()
        self.fit_result = FittedState()
        if config.prompts:
            self.texts.require("method.prompts")

    def use_classes(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    @torch.no_grad()
    def finish(self, walk: Walk) -> None:
        """Take both domains' means, or embed the class names.

        Raises:
            DataError: a stream has no sample, or no class has a name.
        """
        if self.config.centre:
            self.fit_result.store({f"{_SIDES[s]}_mean": self._mean(walk, s) for s in _SIDES})
        elif self.config.prompts:
            self.fit_result.store({"class_texts": self._embed_classes()})

    def _mean(self, walk: Walk, stream: str) -> Tensor:
        """Mean embedding ``[F]`` of a whole stream in float64, on every rank."""
        place = next(self.network.parameters()).device
        total = torch.zeros(self.network.trunk.width, dtype=torch.float64, device=place)
        count = torch.zeros((), dtype=torch.float64, device=place)
        for part in walk(stream):
            total += self._pooled(self._features(part.pixels)).double().sum(0)
            count += len(part.pixels)
        total, count = all_reduce_sum(total), all_reduce_sum(count)
        if count == 0:
            raise DataError(
                f"data.{stream}: no sample to take the mean of; choose a split that has some, or "
                "set method.centre=false"
            )
        return total / count

    def _embed_classes(self) -> Tensor:
        """Directions ``[K, F]`` of the class names, each the mean over all prompts."""
        if not self.classes:
            raise DataError(
                "data.classes: the training streams name no class that method.prompts could speak "
                "of; set data.classes"
            )
        names = [name.replace("_", " ") for name in self.classes]
        of_prompts = [
            self.texts([prompt.replace("{}", name) for name in names])
            for prompt in self.config.prompts
        ]
        return normalize(torch.stack(of_prompts).mean(0), dim=1)

    def embed_queries(self, pixels: Tensor) -> Tensor:
        """Retrieval embedding ``[n, D]`` of query images ``[n, 3, H, W]``."""
        return self._embedding(pixels, "image")

    def embed_gallery(self, pixels: Tensor) -> Tensor:
        """Retrieval embedding ``[n, D]`` of gallery shapes ``[n, V, 3, H, W]``."""
        return self._embedding(pixels, "shape")

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Retrieval embedding ``[n, F]`` of texts, of length 1.

        Raises:
            NetworkError: there is no text tower, or the embeddings of shapes lie elsewhere.
        """
        if self.config.prompts:
            raise NetworkError(
                "method.prompts: this run's embeddings are class probabilities, and a text has "
                "none; train a run without method.prompts"
            )
        if self.config.centre:
            raise NetworkError(
                "method.centre: this run's embeddings are centred, and texts, far from pictures "
                "and shapes in CLIP's space, have no mean here; train a run with "
                "method.centre=false"
            )
        return full_precision(self.texts(texts))

    def class_logits(self, pixels: Tensor) -> Tensor:
        """Class logits ``[n, K]`` as of every method; only with prompts."""
        assert self.config.prompts, "without prompts there are no classes"
        if not self.fit_result:  # before the last fit
            self.fit_result.store({"class_texts": self._embed_classes()})
        f = self._features(pixels)
        cosines = f @ self.fit_result["class_texts"].to(f.dtype).T
        return self.texts.scale.to(f.dtype) * self._pooled(cosines)

    def _embedding(self, pixels: Tensor, side: Literal["image", "shape"]) -> Tensor:
        if self.config.prompts:
            return self.class_logits(pixels).softmax(dim=1)
        f = self._pooled(self._features(pixels))
        if not self.fit_result:  # nothing to subtract, or not known before the last fit
            return f
        return (f.double() - self.fit_result[f"{side}_mean"]).to(f.dtype)

    def _features(self, pixels: Tensor) -> Tensor:
        """Features ``[n, F]`` of images and ``[n, V, F]`` of shapes' views."""
        f = full_precision(self.network(pixels))
        return normalize(f, dim=-1) if self.config.normalise or self.config.prompts else f

    def _pooled(self, x: Tensor) -> Tensor:
        """Rows ``[n, ...]`` of images as they are, those of views ``[n, V, ...]`` pooled."""
        return pool_views(x, self.network.config.pool) if x.dim() == 3 else x

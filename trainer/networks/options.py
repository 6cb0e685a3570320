"""Which network: the one configuration section of this package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from dataio.loading import Preprocessing
from dataio.names import nearest
from trainer.networks import library
from trainer.networks.library import TrunkFacts
from trainer.networks.preprocessing import PreprocessingOptions, written_into
from trainer.networks.trunk import FEATURES, NetworkError

_CONV_STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
OWN = {
    "tiny": TrunkFacts(64, _CONV_STAGES[:4], batch_norm=False),
    "alexnet": TrunkFacts(227, _CONV_STAGES, batch_norm=False),
    "alexnet-tv": TrunkFacts(224, _CONV_STAGES, batch_norm=False),
    "resnet18": TrunkFacts(224, _RESNET_STAGES, batch_norm=True),
    "resnet34": TrunkFacts(224, _RESNET_STAGES, batch_norm=True),
    "resnet50": TrunkFacts(224, _RESNET_STAGES, batch_norm=True),
}
"""The trunks of this package."""

Modality = Literal["image", "shape"]
_MODALITIES: tuple[Modality, Modality] = ("image", "shape")
_OWN_KEYS = ("backbone", "weights", "preprocessing", "train")
TWO_TRUNK_KEYS = (
    "image_backbone",
    "shape_backbone",
    "image_weights",
    "shape_weights",
    "image_preprocessing",
    "shape_preprocessing",
    "shape_train",
)
"""The keys that only methods with a trunk for images and one for shapes have."""


class LoraOptions(BaseModel):
    """Low-rank adapters on a trunk that is frozen otherwise (Hu et al., ICLR 2022)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=8, ge=1, description="Rank of each adapter's product.")
    alpha: float = Field(default=16, gt=0, description="The product is scaled by alpha / rank.")
    targets: tuple[str, ...] | None = Field(
        default=None,
        description="Last part of the names of the adapted layers; null: attention's linear layers "
        "(qkv and proj, in open_clip attn), in convolutional trunks the linear layers.",
    )


class NetworkConfig(BaseModel):
    """Trunk, embedding and how the views of a shape are pooled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = Field(
        default="tiny",
        description="tiny: GroupNorm CNN for 64x64 inputs; alexnet: Caffe layout (grouped, LRN); "
        "alexnet-tv: torchvision's AlexNet; resnet18, resnet34, resnet50; timm/NAME[.TAG] and "
        "open_clip/NAME: any trunk of these libraries (extras timm, clip).",
    )
    image_backbone: str | None = Field(
        default=None,
        description="The trunk of images, in methods that have two; null: as backbone.",
    )
    shape_backbone: str | None = Field(
        default=None,
        description="The trunk of shapes, in methods that have two; null: as backbone.",
    )
    weights: str = Field(
        default="none",
        min_length=1,
        description="none: from scratch; imagenet: the library's own, downloaded at run time; a "
        "tag of the library's registry (lvd142m, laion2b_s34b_b79k), downloaded too; "
        "package:efficientnet-lite0, -lite1 or -lite2: from the Python package (extra weights); "
        "else the path of a state dict (.pt, .pth, .safetensors).",
    )
    image_weights: str | None = Field(
        default=None,
        min_length=1,
        description="The same for the trunk of images, in methods that have two; null: as weights. "
        "Those of one trunk do not fit another, so beside image_backbone only none and imagenet "
        "are taken from there.",
    )
    shape_weights: str | None = Field(
        default=None,
        min_length=1,
        description="The same for the trunk of shapes, in methods that have two; null: as weights.",
    )
    preprocessing: PreprocessingOptions | None = Field(
        default=None,
        description="What the weights were trained on, said by hand: in part, or as a whole where "
        "the weights do not say it; null: the weights' own.",
    )
    image_preprocessing: PreprocessingOptions | None = Field(
        default=None,
        description="The same for the trunk of images, in methods that have two; null: as "
        "preprocessing, of which a trunk with other weights takes size, interpolation and crop.",
    )
    shape_preprocessing: PreprocessingOptions | None = Field(
        default=None,
        description="The same for the trunk of shapes, in methods that have two.",
    )
    embedding: int = Field(default=256, ge=1, description="Width D of the embedding.")
    pool: Literal["max", "mean"] = Field(
        default="max", description="How the embeddings of a shape's views become one, element-wise."
    )
    pool_tokens: Literal["class", "mean", "both"] | None = Field(
        default=None,
        description="How the tokens of a transformer become features: the class token, the mean of "
        "the others, or both one after the other; null: as the library does. Of two trunks it "
        "concerns those that have tokens.",
    )
    train: str = Field(
        default="all",
        description="What is trained of the trunk. all; head: nothing, only what stands on it; "
        "last:N: the last N stages; lora: low-rank adapters. The outputs of frozen stages are "
        "computed once and kept (training.feature_store).",
    )
    shape_train: str | None = Field(
        default=None,
        description="The same for the trunk of shapes, in methods that have two; null: as train.",
    )
    lora: LoraOptions = Field(default=LoraOptions(), description="Adapters of train=lora.")
    batch_norm: Literal["global", "frozen"] = Field(
        default="global",
        description="Trunks with batch normalisation only. global: statistics over the batch of "
        "all workers; frozen: the running statistics of the loaded weights, which then stay as "
        "they are. Frozen stages and trunks with adapters always have frozen ones.",
    )
    image_size: int | None = Field(
        default=None,
        ge=16,
        description="Side of the network's input in pixels; null: as the weights were trained, "
        "from scratch 64 for tiny, 227 for alexnet, 224 for the others.",
    )
    dropout: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Dropout after AlexNet's fc6 and fc7; the others have none.",
    )
    discriminator_dropout: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Dropout after both hidden layers of a domain discriminator.",
    )
    tiny_width: int = Field(
        default=16,
        ge=8,
        multiple_of=8,
        description="Channels of tiny's first stage; the others have 2, 4 and 6 times as many.",
    )

    # What the keys of one modality are called where they were said; see `of`.
    _names: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _as_said(cls, values: Any) -> Any:
        """``network.preprocessing=caffe`` stands for ``{like: caffe}``."""
        if not isinstance(values, dict):
            return values
        keys = ("preprocessing", "image_preprocessing", "shape_preprocessing")
        said = {key: {"like": values[key]} for key in keys if isinstance(values.get(key), str)}
        return {**values, **said}

    @model_validator(mode="after")
    def _names_that_exist(self) -> NetworkConfig:
        self._require_trunk("backbone", self.backbone, self.weights)
        for modality in _MODALITIES:
            self._require_own_trunk(modality)
        self._require_training("train", self.of("image").backbone)
        shapes = "train" if self.shape_train is None else "shape_train"
        self._require_training(shapes, self.of("shape").backbone)
        self._require_preprocessing_of_a_trunk()
        self._require_tokens()
        return self

    def _require_tokens(self) -> None:
        if self.pool_tokens is None:
            return
        if not self.two and self.backbone in OWN:
            raise ValueError(f"pool_tokens: {self.backbone} has no tokens; leave it out")
        if self.two and not any(_facts(each.backbone).tokens for each in self.modalities):
            raise ValueError(f"pool_tokens: no trunk has tokens ({self.trunk_names}); leave it out")

    def _require_trunk(self, key: str, backbone: str, weights: str) -> None:
        if backbone in OWN:
            return
        try:
            library.require_name(backbone, own=OWN, weights=weights)
        except ValueError as err:
            raise ValueError(f"{key}{str(err).removeprefix('backbone')}") from None

    def _require_own_trunk(self, modality: Modality) -> None:
        """Check the trunk that ``modality`` has of its own, if it has one."""
        backbone: str | None = getattr(self, f"{modality}_backbone")
        weights: str | None = getattr(self, f"{modality}_weights")
        if backbone is None:
            return
        self._require_trunk(f"{modality}_backbone", backbone, weights or self.weights)
        if backbone == self.backbone or weights is not None:
            return
        if self.weights not in ("none", "imagenet"):
            raise ValueError(
                f"{modality}_weights: network.weights={self.weights} are of {self.backbone}, not "
                f"of {backbone}; say those of {backbone}, imagenet or none"
            )

    def _require_preprocessing_of_a_trunk(self) -> None:
        if self.preprocessing is None or not self.preprocessing.of_weights:
            return
        if not any(self._shares_weights(modality) for modality in _MODALITIES):
            raise ValueError(
                f"preprocessing: {', '.join(self.preprocessing.of_weights)} belong to weights, and "
                "both trunks have others; use image_preprocessing and shape_preprocessing"
            )

    def _require_training(self, key: str, backbone: str) -> None:
        value = getattr(self, key)
        if value in (None, "all", "head", "lora"):
            return
        match = re.fullmatch(r"last:(\d+)", value)
        if match is None:
            choices = ("all", "head", "last:N", "lora")
            raise ValueError(f"{key}: '{value}' is none of its values{nearest(value, choices)}")
        stages = _facts(backbone).stages
        most = len(stages)
        if not 1 <= int(match[1]) <= most:
            raise ValueError(
                f"{key}: {backbone} has {most} stages ({', '.join(stages)}), so N is in "
                f"[1, {most}]; 'head' trains none"
            )

    # ---- two trunks

    def of(self, modality: Modality) -> NetworkConfig:
        """The network of images or of shapes, without the keys of either.

        Errors that :meth:`naming` passes on name the keys under which this one was said.
        """
        if not self.two:
            return self
        said = {key: getattr(self, f"{modality}_{key}", None) for key in _OWN_KEYS}
        update = {key: value for key, value in said.items() if value is not None}
        names = {key: f"{modality}_{key}" for key in update}
        if not self._shares_weights(modality):
            names |= {key: f"{modality}_{key}" for key in ("weights", "preprocessing")}
            if "preprocessing" not in update and self.preprocessing is not None:
                update["preprocessing"] = self.preprocessing.without_weights
        backbone = update.get("backbone", self.backbone)
        if self.pool_tokens is not None and not _facts(backbone).tokens:
            update["pool_tokens"] = None
        own = self.model_copy(update={**dict.fromkeys(TWO_TRUNK_KEYS), **update})
        own._names = names
        return own

    @property
    def two(self) -> bool:
        """Whether something is said of one of two trunks alone."""
        return any(getattr(self, key) is not None for key in TWO_TRUNK_KEYS)

    def _shares_weights(self, modality: Modality) -> bool:
        """Whether the trunk of ``modality`` is ``backbone`` with ``weights``."""
        backbone, weights = (getattr(self, f"{modality}_{key}") for key in ("backbone", "weights"))
        return backbone in (None, self.backbone) and weights in (None, self.weights)

    def trained_on(self, images: Preprocessing, shapes: Preprocessing) -> NetworkConfig:
        """The same network with the preprocessings said by hand, one of each modality."""
        said = [PreprocessingOptions.of(preprocessing) for preprocessing in (images, shapes)]
        if not self.two:
            return self.model_copy(update={"preprocessing": said[0]})
        own = {"image_preprocessing": said[0], "shape_preprocessing": said[1]}
        return self.model_copy(update=own)

    def said_as(self, key: str) -> str:
        """The full name under which ``key`` of one modality's network was said, or would be."""
        return f"network.{self._names.get(key, key)}"

    @contextmanager
    def naming(self) -> Iterator[None]:
        """In this block a :class:`NetworkError` names the keys that were said."""
        try:
            yield
        except NetworkError as err:
            if not self._names:
                raise
            text = re.sub(
                r"network\.(backbone|weights|preprocessing|train)\b",
                lambda found: self.said_as(found[1]),
                str(err),
            )
            raise NetworkError(text) from err

    # ---- what follows from the keys

    @property
    def facts(self) -> TrunkFacts:
        """What is known of the trunk before it is built."""
        return _facts(self.backbone)

    @property
    def resolved_preprocessing(self) -> Preprocessing:
        """How pictures become the trunk's input.

        Raises:
            NetworkError: the weights do not say it, and neither does ``network.preprocessing``.
        """
        options = self.preprocessing or PreprocessingOptions()
        with self.naming():
            found = options.over(self._own_preprocessing())
            if found is None:
                raise NetworkError(
                    f"network.preprocessing: nothing says which pictures {self.weights} was "
                    "trained on, and with others it finds less without a word; set it to imagenet, "
                    "half, clip or caffe, or give mean and std (network.preprocessing.mean=[...])"
                )
        return found

    def _own_preprocessing(self) -> Preprocessing | None:
        """What is known without being told."""
        if self.backbone not in OWN:
            known = library.preprocessing(self.backbone, self.weights)
        else:
            known = Preprocessing(size=self.facts.size)
            if self.weights == "imagenet":
                known = replace(known, crop=224 / 256)  # torchvision's transforms of these weights
        if library.is_file(self.weights):
            tagged = known if library.tag_of(self.backbone) else None
            return written_into(self.weights) or tagged
        return known

    @property
    def input_size(self) -> int:
        """Side of the network's square input in pixels."""
        return self.image_size or self.resolved_preprocessing.size

    @property
    def frozen(self) -> int:
        """How many stages, from the first on, are frozen; the tail counts as one more."""
        count = len(self.facts.stages)
        if self.train == "head":
            return count + 1
        return count - int(self.train[5:]) if self.train.startswith("last:") else 0

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the trunk's stages in order that are not frozen, or ``("features",)`` where all
        are; a gate may stand after each."""
        return self.facts.stages[self.frozen :] or (FEATURES,)

    @property
    def modalities(self) -> tuple[NetworkConfig, ...]:
        """The networks of images and of shapes; one where they are the same."""
        return tuple(self.of(modality) for modality in _MODALITIES) if self.two else (self,)

    @property
    def trunk_names(self) -> str:
        """The trunk's name, or those of images and shapes: ``resnet34 + resnet18``."""
        return " + ".join(dict.fromkeys(each.backbone for each in self.modalities))

    @property
    def reads_features(self) -> bool:
        """Whether training reads the outputs of frozen stages in place of pictures."""
        return any(each.frozen > 0 for each in self.modalities)

    @property
    def batch_statistics(self) -> bool:
        """Whether a picture's trunk features depend, in training, on the rest of the batch."""
        return self.batch_norm == "global" and any(
            each.facts.batch_norm and (each.train == "all" or each.train.startswith("last:"))
            for each in self.modalities
        )

    @property
    def weights_files(self) -> dict[str, Path]:
        """The files that the weights come from, by the key that names each."""
        keys = ("weights", "image_weights", "shape_weights")
        said = {key: getattr(self, key) for key in keys}
        return {key: Path(w) for key, w in said.items() if w is not None and library.is_file(w)}

    @property
    def downloads(self) -> bool:
        """Whether a run fetches its weights over the network, unless they are in a cache."""
        return any(
            each.weights == "imagenet" or library.is_tag(each.weights) for each in self.modalities
        )

    @property
    def pretrained(self) -> bool:
        """Whether the trunk, or one of two, starts from weights trained elsewhere."""
        return any(each.weights != "none" for each in self.modalities)


def _facts(backbone: str) -> TrunkFacts:
    return OWN.get(backbone) or library.trunk_facts(backbone)

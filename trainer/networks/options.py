"""Which network: the one configuration section of this package."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    weights: str = Field(
        default="none",
        min_length=1,
        description="none: from scratch; imagenet: the library's own, downloaded at run time; a "
        "tag of the library's registry (lvd142m, laion2b_s34b_b79k), downloaded too; "
        "package:efficientnet-lite0, -lite1 or -lite2: from the Python package (extra weights); "
        "else the path of a state dict (.pt, .pth, .safetensors).",
    )
    preprocessing: PreprocessingOptions | None = Field(
        default=None,
        description="What the weights were trained on, said by hand: in part, or as a whole where "
        "the weights do not say it; null: the weights' own.",
    )
    embedding: int = Field(default=256, ge=1, description="Width D of the embedding.")
    pool: Literal["max", "mean"] = Field(
        default="max", description="How the embeddings of a shape's views become one, element-wise."
    )
    pool_tokens: Literal["class", "mean", "both"] | None = Field(
        default=None,
        description="How the tokens of a transformer become features: the class token, the mean of "
        "the others, or both one after the other; null: as the library does.",
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

    @model_validator(mode="before")
    @classmethod
    def _as_said(cls, values: Any) -> Any:
        """``network.preprocessing=caffe`` stands for ``{like: caffe}``."""
        if isinstance(values, dict) and isinstance(values.get("preprocessing"), str):
            return {**values, "preprocessing": {"like": values["preprocessing"]}}
        return values

    @model_validator(mode="after")
    def _names_that_exist(self) -> NetworkConfig:
        if self.backbone not in OWN:
            library.require_name(self.backbone, own=OWN, weights=self.weights)
        for key in ("train", "shape_train"):
            self._require_training(key)
        if self.pool_tokens is not None and self.backbone in OWN:
            raise ValueError(f"pool_tokens: {self.backbone} has no tokens; leave it out")
        return self

    def _require_training(self, key: str) -> None:
        value = getattr(self, key)
        if value in (None, "all", "head", "lora"):
            return
        match = re.fullmatch(r"last:(\d+)", value)
        if match is None:
            choices = ("all", "head", "last:N", "lora")
            raise ValueError(f"{key}: '{value}' is none of its values{nearest(value, choices)}")
        most = len(self.facts.stages)
        if not 1 <= int(match[1]) <= most:
            raise ValueError(
                f"{key}: {self.backbone} has {most} stages ({', '.join(self.facts.stages)}), so N "
                f"is in [1, {most}]; 'head' trains none"
            )

    @property
    def facts(self) -> TrunkFacts:
        """What is known of the trunk before it is built."""
        return OWN.get(self.backbone) or library.trunk_facts(self.backbone)

    @property
    def resolved_preprocessing(self) -> Preprocessing:
        """How pictures become the trunk's input.

        Raises:
            NetworkError: the weights do not say it, and neither does ``network.preprocessing``.
        """
        options = self.preprocessing or PreprocessingOptions()
        found = options.over(self._own_preprocessing())
        if found is None:
            raise NetworkError(
                f"network.preprocessing: nothing says which pictures {self.weights} was trained "
                "on, and with others it finds less without a word; set it to imagenet, half, clip "
                "or caffe, or give mean and std (network.preprocessing.mean=[...])"
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
    def for_shapes(self) -> NetworkConfig:
        """The same for the trunk of shapes, in methods that have two."""
        if self.shape_train is None:
            return self
        return self.model_copy(update={"train": self.shape_train, "shape_train": None})

    @property
    def reads_features(self) -> bool:
        """Whether training reads the outputs of frozen stages in place of pictures."""
        return self.frozen > 0 or self.for_shapes.frozen > 0

    @property
    def batch_statistics(self) -> bool:
        """Whether a picture's trunk features depend, in training, on the rest of the batch."""
        trained = any(
            c.train == "all" or (c.train.startswith("last:")) for c in (self, self.for_shapes)
        )
        return self.facts.batch_norm and self.batch_norm == "global" and trained

    @property
    def weights_file(self) -> Path | None:
        """The file that the weights come from, if they come from one."""
        return Path(self.weights) if library.is_file(self.weights) else None

    @property
    def downloads(self) -> bool:
        """Whether a run fetches its weights over the network, unless they are in a cache."""
        return self.weights == "imagenet" or library.is_tag(self.weights)

    @property
    def pretrained(self) -> bool:
        """Whether the trunk starts from weights trained elsewhere."""
        return self.weights != "none"

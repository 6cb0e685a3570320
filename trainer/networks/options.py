"""Which network: the one configuration section of this package."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

BackboneName = Literal["tiny", "alexnet", "alexnet-tv", "resnet18", "resnet34", "resnet50"]

_CONV_STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")

# Name -> (side of the input in pixels, stages in order).
_FACTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "tiny": (64, _CONV_STAGES[:4]),
    "alexnet": (227, _CONV_STAGES),
    "alexnet-tv": (224, _CONV_STAGES),
    "resnet18": (224, _RESNET_STAGES),
    "resnet34": (224, _RESNET_STAGES),
    "resnet50": (224, _RESNET_STAGES),
}


class NetworkConfig(BaseModel):
    """Trunk, embedding and how the views of a shape are pooled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: BackboneName = Field(
        default="tiny",
        description="tiny: GroupNorm CNN for 64x64 inputs; alexnet: Caffe layout (grouped, LRN); "
        "alexnet-tv: torchvision's AlexNet; resnet18, resnet34, resnet50.",
    )
    weights: str = Field(
        default="none",
        min_length=1,
        description="imagenet: torchvision's weights, downloaded at run time; none: from scratch; "
        "else the path of a state dict.",
    )
    embedding: int = Field(default=256, ge=1, description="Width D of the embedding.")
    pool: Literal["max", "mean"] = Field(
        default="max", description="How the embeddings of a shape's views become one, element-wise."
    )
    batch_norm: Literal["global", "frozen"] = Field(
        default="global",
        description="ResNets only. global: statistics over the batch of all workers; frozen: the "
        "running statistics of the loaded weights, which then stay as they are.",
    )
    image_size: int | None = Field(
        default=None,
        ge=16,
        description="Side of the network's input in pixels; null: 64 for tiny, 227 for alexnet, "
        "224 for the others.",
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

    @property
    def input_size(self) -> int:
        """Side of the network's square input in pixels."""
        return _FACTS[self.backbone][0] if self.image_size is None else self.image_size

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the trunk's stages in order; a gate may stand after each."""
        return _FACTS[self.backbone][1]

    @property
    def batch_statistics(self) -> bool:
        """Whether a picture's trunk features depend, in training, on the rest of the batch."""
        return self.backbone.startswith("resnet") and self.batch_norm == "global"

    @property
    def pretrained(self) -> bool:
        """Whether the trunk starts from weights trained elsewhere."""
        return self.weights != "none"

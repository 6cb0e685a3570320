"""From pixels to what a trunk was trained on: mean, scale, channel order, size and crop.

These numbers belong to the weights of a trunk. A network that gets others finds less, and says
nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dataio.shards import Interpolation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become the input of a trunk: ``(pixels - mean) / std``, channel by channel.

    Attributes:
        mean, std: in the order of ``channels``, for pixels in [0, ``range``].
        channels: order of the colours.
        range: the largest pixel value, 1 or 255.
        size: side of the input in pixels that the weights were trained for.
        interpolation: how pictures are resized.
        crop: share of a resized picture's side that is kept, at its centre; 1 keeps all. Pictures
            that are augmented are cropped by the augmentation instead.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    channels: Literal["rgb", "bgr"] = "rgb"
    range: Literal[1, 255] = 1
    size: int = 224
    interpolation: Interpolation = "bilinear"
    crop: float = 1.0

    def decoded(self, size: int) -> int:
        """Side in pixels of the picture whose centre of ``size`` pixels is kept."""
        return math.floor(size / self.crop)

    def describe(self) -> str:
        """``rgb in [0, 1], mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5); ...``: one line."""
        mean, std = (", ".join(f"{x:.6g}" for x in part) for part in (self.mean, self.std))
        kept = "whole picture" if self.crop == 1 else f"centre {self.crop:.4g} of the side"
        return (
            f"{self.channels} in [0, {self.range}], mean ({mean}), std ({std}); "
            f"{self.interpolation}, {kept}, made for {self.size} pixels"
        )


IMAGENET = Preprocessing()

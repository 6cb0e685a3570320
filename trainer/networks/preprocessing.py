"""Which preprocessing goes with which weights, and where it is not known.

A file of weights says nothing of the pictures that they were trained on, unless its author wrote it
into the file (``img2shape weights convert`` does) or the trunk's name has the tag of a library's
registry. Else the user has to say it, and the program refuses to guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dataio.loading import Preprocessing
from dataio.shards import Interpolation
from trainer.networks.trunk import NetworkError

METADATA_KEY = "img2shape.preprocessing"  # in the header of a .safetensors file

KNOWN: dict[str, Preprocessing] = {
    "imagenet": Preprocessing(interpolation="bilinear", crop=224 / 256),
    "half": Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic"),
    "clip": Preprocessing(
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        interpolation="bicubic",
    ),
    # The mean of Caffe's ilsvrc_2012_mean.npy over all positions.
    "caffe": Preprocessing(
        mean=(104.00698793, 116.66876762, 122.67891434),
        std=(1.0, 1.0, 1.0),
        channels="bgr",
        range=255,
        size=227,
        crop=227 / 256,
    ),
}


class PreprocessingOptions(BaseModel):
    """What is said by hand about the pictures that the weights were trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    like: Literal["imagenet", "half", "clip", "caffe"] | None = Field(
        default=None,
        description="Where the other keys come from. imagenet: torchvision's; half: mean and std "
        "0.5; clip: OpenAI's; caffe: BGR, 0-255, mean subtracted. null: the weights' own.",
    )
    mean: tuple[float, float, float] | None = Field(
        default=None, description="Mean by channel, in the order of channels."
    )
    std: tuple[float, float, float] | None = Field(
        default=None, description="Standard deviation by channel."
    )
    channels: Literal["rgb", "bgr"] | None = Field(default=None, description="Order of colours.")
    range: Literal[1, 255] | None = Field(default=None, description="Largest pixel value.")
    size: int | None = Field(
        default=None, ge=16, description="Side of the input in pixels; network.image_size wins."
    )
    interpolation: Interpolation | None = Field(
        default=None, description="How pictures are resized."
    )
    crop: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the side that is kept at the centre of pictures that are not "
        "augmented; 1: all.",
    )

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> PreprocessingOptions:
        """All of it said by hand."""
        return cls(**asdict(preprocessing))

    @property
    def of_weights(self) -> list[str]:
        """Names of the keys that are said and belong to weights; other trunks' are others."""
        keys = ("like", "mean", "std", "channels", "range")
        return [key for key in keys if getattr(self, key) is not None]

    @property
    def without_weights(self) -> PreprocessingOptions:
        """What is said of any weights: size, interpolation and crop."""
        return self.model_copy(update=dict.fromkeys(self.of_weights))

    def over(self, known: Preprocessing | None) -> Preprocessing | None:
        """These over what is ``known``; None where mean and std are neither known nor said."""
        base = known if self.like is None else KNOWN[self.like]
        said = {f.name: getattr(self, f.name) for f in fields(Preprocessing)}
        said = {name: value for name, value in said.items() if value is not None}
        if base is None and not {"mean", "std"} <= said.keys():
            return None
        return replace(base or Preprocessing(), **said)


def parsed(values: Mapping[str, Any], *, where: str) -> Preprocessing:
    """A preprocessing that was written into a file.

    Raises:
        NetworkError: ``where`` holds something else.
    """
    try:
        return TypeAdapter(Preprocessing).validate_python(dict(values))
    except ValidationError as err:
        first = err.errors()[0]
        raise NetworkError(
            f"network.weights: {where}: its {METADATA_KEY} is damaged "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']})"
        ) from None


def written_into(path: str | Path) -> Preprocessing | None:
    """The preprocessing in the header of a ``.safetensors`` file; None where it has none.

    Raises:
        NetworkError: the file is missing or damaged.
    """
    if Path(path).suffix != ".safetensors":
        return None
    text = safetensors_metadata(path).get(METADATA_KEY)
    return None if text is None else parsed(json.loads(text), where=str(path))


def header(preprocessing: Preprocessing) -> dict[str, str]:
    """The texts for the header of a ``.safetensors`` file that :func:`written_into` reads."""
    return {METADATA_KEY: json.dumps(asdict(preprocessing))}


def safetensors_metadata(path: str | Path) -> dict[str, str]:
    """The texts in the header of a ``.safetensors`` file.

    Raises:
        NetworkError: the file is missing or damaged, or the library is.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise NetworkError(
            f"network.weights: {path}: reading it needs the package safetensors; "
            "pip install 'img2shape[weights]'"
        ) from None
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise NetworkError(
            f"network.weights: {path}: no such file; the other choices are imagenet and none"
        ) from None
    except (SafetensorError, OSError) as err:
        raise NetworkError(f"network.weights: {path}: no safetensors file ({err})") from None

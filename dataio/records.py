"""What a dataset adapter yields: one record per image, sketch or shape, and no pixels."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Stream = Literal["image", "sketch", "shape"]
Split = Literal["train", "val", "test"]
UpAxis = Literal["+z", "+y"]
STREAMS: tuple[str, ...] = get_args(Stream)
SPLITS: tuple[str, ...] = get_args(Split)

_SAFE = re.compile(r"[a-z0-9_-]+")
_UNSAFE_RUN = re.compile(r"[^a-z0-9_-]+")


class DataError(ValueError):
    """Bad input data; the one-line message names the file or option and the remedy."""


@dataclass(frozen=True)
class Record:
    """One sample of a data set, before packing.

    Exactly one of `image`, `views` and `mesh` is set: images and sketches have `image`, shapes have
    `views` (already rendered, in ring order) or `mesh` (rendered while packing). `crop` and `mask`
    are for images only.
    """

    key: str  # unique in the data set, stable between runs, of [a-z0-9_-] only
    stream: str  # one of STREAMS
    split: str  # one of SPLITS
    label: str | None  # class name; ids are assigned by sorted name in the manifest
    image: Path | None = None
    views: tuple[Path, ...] | None = None
    mesh: Path | None = None
    source_path: str = ""  # relative posix path of the file or folder under the data set's root
    crop: tuple[float, float, float, float] | None = None  # x0, y0, x1, y1 in pixels, see drawn_on
    mask: Path | None = None  # picture of the image's size; where it is black the image turns white
    drawn_on: tuple[int, int] | None = None  # width, height that crop and mask are for, which may
    # be those of the pixels as stored, before EXIF turns them; None = the upright image
    up_axis: UpAxis = "+z"  # of the mesh, once it is turned by `rotation`
    up_because: str = "as the data set has them"  # why that axis
    up_certain: bool = True  # False: taken because the format has no axis of its own
    extra: Mapping[str, Any] = field(default_factory=dict)  # JSON-serialisable
    rotation: tuple[float, ...] | None = None  # of the mesh: 3x3, row by row; vertex v becomes R v
    instance: str = ""  # the object it shows, by one name in picture and shape; "" = not known

    def __post_init__(self) -> None:
        if not _SAFE.fullmatch(self.key):
            raise DataError(f"record key {self.key!r} is not of [a-z0-9_-]; build it with slug()")
        if self.stream not in STREAMS:
            raise DataError(f"record {self.key}: stream {self.stream!r} is not one of {STREAMS}")
        if self.split not in SPLITS:
            raise DataError(f"record {self.key}: split {self.split!r} is not one of {SPLITS}")
        content = [x for x in (self.image, self.views, self.mesh) if x is not None]
        if len(content) != 1:
            raise DataError(
                f"record {self.key}: expected one of image, views, mesh; {len(content)} are given"
            )
        if (self.stream == "shape") is not (self.image is None):
            raise DataError(
                f"record {self.key}: a shape needs views or a mesh, image and sketch need an image"
            )
        if self.image is None and (self.crop, self.mask) != (None, None):
            raise DataError(f"record {self.key}: crop and mask are for images, not for shapes")
        if self.rotation is not None and len(self.rotation) != 9:
            raise DataError(f"record {self.key}: rotation is {self.rotation}, not nine numbers")


def slug(raw: str) -> str:
    """A tar-safe key part for any raw name: characters of [a-z0-9_-] only, never empty.

    A safe name is returned as it is. Any other is lower-cased, its other characters become `_`, and
    8 hex digits of the SHA-1 of the raw name are appended, so two raw names that look alike after
    the cleaning (`Bed`, `bed`; `a b`, `a.b`) keep different keys.
    """
    if _SAFE.fullmatch(raw):
        return raw
    cleaned = _UNSAFE_RUN.sub("_", raw.lower()).strip("_")
    digest = hashlib.sha1(raw.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{cleaned}-{digest}" if cleaned else digest

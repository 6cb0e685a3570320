"""Section ``transfer``: which data set to learn from, and which one to retrieve in.

    transfer: {source: shrec14, target: pix3d, classes: [bed, chair, sofa, table]}

is short for the selections of section ``data``, which may still override any of them. A domain is a
data set's images (or sketches) with its shapes. Source streams read from ``source``, target streams
and the gallery from ``target``. Queries are the target's, except for methods that learn from source
images and target shapes alone: their queries are the source's test images.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from trainer.sections import Section

SKETCH_SETS = ("shrec13", "shrec14")
Picture = Literal["image", "sketch"]


class Transfer(Section):
    """Section ``transfer`` of a run description."""

    source: str | tuple[str, ...] = Field(
        description="Data set with labels: its folder under transfer.folder, or a path or URL. "
        "Several: their union, as [imagenet, shapenet-v2] gives photos and shapes."
    )
    target: str | tuple[str, ...] = Field(
        description="Data set without labels, in which shapes are retrieved; or several."
    )
    classes: tuple[str, ...] | None = Field(
        default=None, description="The closed label space; null: all classes that both have."
    )
    mapping: dict[str, tuple[str, ...]] = Field(
        default={}, description="Class -> other names for it; sofa = couch and the like are known."
    )
    protocol: Literal["transductive", "inductive"] = Field(
        default="transductive",
        description="transductive: all target samples are adapted to (without labels), queried and "
        "searched, as the papers seem to do; inductive: adapt on split train, evaluate on test.",
    )
    source_pictures: Picture | None = Field(
        default=None,
        description="image | sketch; null: sketch for shrec13 and shrec14, else image.",
    )
    target_pictures: Picture | None = Field(
        default=None,
        description="image | sketch; null: sketch for shrec13 and shrec14, else image.",
    )
    folder: str = Field(default="data", description="Where the data sets' folders are.")

    def data(self, streams: Collection[str]) -> dict[str, Any]:
        """The values of section ``data`` for a method that trains on ``streams``."""
        source, target = (self._root(name) for name in (self.source, self.target))
        source_kind = self.source_pictures or _pictures(self.source)
        target_kind = self.target_pictures or _pictures(self.target)
        pairs = "source_shapes" in streams or "target_images" in streams
        everything = self.protocol == "transductive"
        adapted, searched = ("all", "all") if everything else ("train", "test")
        selections = {
            # Where queries are the source's own, its test images are not for training.
            "source_images": (source_kind, "all" if pairs else "train", source),
            "source_shapes": ("shape", "all", source),
            "target_images": (target_kind, adapted, target),
            "target_shapes": ("shape", adapted, target),
            "queries": (target_kind, searched, target) if pairs else (source_kind, "test", source),
            "gallery": ("shape", searched, target),
        }
        chosen = {
            name: dict(zip(("stream", "split", "root"), values, strict=True))
            for name, values in selections.items()
            if name in streams or name in ("queries", "gallery")
        }
        return {
            "dataset": f"{_short(self.source)}-{_short(self.target)}",
            "root": source if isinstance(source, str) else source[0],
            "classes": self.classes,
            "mapping": self.mapping,
            "restrict": True,
            **chosen,
        }

    def _root(self, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not isinstance(names, str):
            return tuple(str(self._root(name)) for name in names)
        return names if "/" in names else f"{self.folder}/{names}"


def _short(names: str | tuple[str, ...]) -> str:
    if not isinstance(names, str):
        return "+".join(map(_short, names))
    return names.rstrip("/").rsplit("/", 1)[-1]


def _pictures(names: str | tuple[str, ...]) -> Picture:
    several = (names,) if isinstance(names, str) else names
    return "sketch" if any(_short(name) in SKETCH_SETS for name in several) else "image"

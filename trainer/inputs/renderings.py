"""Whether the shapes that a run trains on were rendered as those that it searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataio.records import DataError
from dataio.shards import shown
from trainer.inputs.open_data import OpenData, training_selections
from trainer.sections import Selection

_NO_MATTER = ("name", "size")  # a network sees one size


def differing_renderings(data: OpenData) -> list[str]:
    """One line for each data set of training shapes that looks otherwise than the gallery does.

    By the descriptions of the rendering in the manifests; data sets without one, such as views that
    others rendered, are not compared, and neither is one that is not there yet.
    """
    config = data.config
    searched = list(_shapes(data, "gallery", config.data.gallery))
    trained = [
        one
        for name, selection in training_selections(config).items()
        for one in _shapes(data, name, selection)
    ]
    found = []
    for name, about in [*trained, *searched[1:]]:
        others = differences(about, searched[0][1]) if searched else []
        if others:
            found.append(
                f"{name} and {searched[0][0]} were rendered differently: {', '.join(others)}; "
                "render both alike"
            )
    return list(dict.fromkeys(found))


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """How two descriptions of a rendering differ, `ground 0 / 1`, as far as both say it."""
    left, right = one.get("spec", {}), other.get("spec", {})
    found = [
        f"{name.removesuffix('_degrees')} {_value(left[name])} / {_value(right[name])}"
        for name in left
        if name in right and name not in _NO_MATTER and left[name] != right[name]
    ]
    ups, downs = one.get("up_axis", {}), other.get("up_axis", {})
    for suffix in sorted(ups.keys() & downs.keys()):
        axes = ups[suffix]["axis"], downs[suffix]["axis"]
        if axes[0] != axes[1]:
            found.append(f"up axis of {suffix} {axes[0]} / {axes[1]}")
    return found


def _shapes(
    data: OpenData, name: str, selection: Selection
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What to call each data set of a stream of shapes, and how its views were rendered."""
    if selection.stream != "shape":
        return
    try:
        manifest = data.manifest(selection)
    except DataError:  # a gallery may come later than the training
        return
    parts = manifest.metadata.get("union", [manifest.metadata])
    for root, part in zip(manifest.root.split(" + "), parts, strict=True):
        if part.get("render"):
            yield f"{name} ({shown(root)})", part["render"]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

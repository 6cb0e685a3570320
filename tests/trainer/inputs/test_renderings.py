"""Shapes of training and gallery that were rendered differently are told apart."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from dataio.meshes import described, preset
from trainer.inputs.renderings import differences, differing_renderings
from trainer.sections import Selection


def about(name: str = "mvcnn_v1", up: str = "+z", suffix: str = ".off", **changes: Any):
    axes = {suffix: {"axis": up, "because": "a reason"}}
    return json.loads(json.dumps(described(preset(name, **changes), axes)))  # as in a manifest


def test_the_differences_are_listed_by_field():
    assert differences(about("mvcnn_pt"), about()) == [
        "fov 0 / 12", "margin 0.05 / 0.1", "max_area 1 / 0.3", "shading phong / flat",
        "ambient 0.25 / 0.3", "diffuse 0.7 / 0.6", "light [-0.3, 0.6, 0.75] / [0.0, 0.0, 1.0]",
        "ground 0 / 1",
    ]  # fmt: skip
    assert differences(about(up="+y"), about()) == ["up axis of .off +y / +z"]
    assert differences(about(size=64), about(size=96)) == []
    assert differences(about(up="+y", suffix=".obj"), about()) == []  # each kind has its own
    assert differences({}, about()) == []
    older = about()
    del older["up_axis"]
    assert differences(older, about(up="+y")) == []


def opened(training: dict[str, Any], gallery: list[Any]) -> Any:
    """Data of a method on labelled pictures and these shapes, by root."""
    shapes = Selection(stream="shape", split="train")
    data = SimpleNamespace(
        source_images=Selection(stream="image", split="train"),
        target_shapes=shapes,
        gallery=Selection(stream="shape", split="test"),
    )
    config = SimpleNamespace(data=data, method_name="dann")

    def manifest(selection: Selection) -> Any:
        parts = gallery if selection.split == "test" else list(training.items())
        held = [{"render": one} for _, one in parts]
        metadata = held[0] if len(held) == 1 else {"union": held}
        return SimpleNamespace(root=" + ".join(root for root, _ in parts), metadata=metadata)

    return SimpleNamespace(config=config, manifest=manifest)


def test_training_shapes_are_compared_with_the_gallery():
    assert differing_renderings(opened({"white": about()}, [("white", about())])) == []
    assert differing_renderings(opened({"lying": about(up="+y")}, [("white", about())])) == [
        "target_shapes (lying) and gallery (white) were rendered differently: "
        "up axis of .off +y / +z; render both alike"
    ]
    dark = about(ground=0.0)
    assert differing_renderings(
        opened({"a": about(), "b": dark}, [("c", about()), ("d", dark)])
    ) == [
        "target_shapes (b) and gallery (c) were rendered differently: ground 0 / 1; render both "
        "alike",
        "gallery (d) and gallery (c) were rendered differently: ground 0 / 1; render both alike",
    ]
    assert differing_renderings(opened({"a": None}, [("c", about())])) == []

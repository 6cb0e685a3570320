"""What is said of a run whose trunk costs more than is mostly wanted."""

from __future__ import annotations

import pytest

from trainer.building import trunk_cautions
from trainer.config import load_config


def said(*settings: str) -> list[str]:
    plain = ["training.precision=float32", *settings]
    return ["; ".join(pair) for pair in trunk_cautions(load_config("procedural/dann", plain))]


@pytest.mark.parametrize(
    ("backbone", "remedy"),
    [
        ("resnet50", "network.weights=imagenet; see"),
        ("alexnet", "network.weights=FILE of `img2shape weights convert`; see"),
        ("timm/vit_small_patch14_dinov2", "network.weights=lvd142m; see"),
        ("timm/tf_efficientnet_lite0", "package:efficientnet-lite0 or in1k"),
        ("open_clip/ViT-B-32", "openai, laion400m_e31, laion400m_e32 (`img2shape weights list"),
    ],
)
def test_a_trunk_that_has_weights_is_not_trained_from_scratch_without_a_word(backbone, remedy):
    (line,) = said(f"network.backbone={backbone}")
    assert line.startswith(f"network.weights: none trains {backbone} from scratch")
    assert remedy in line
    assert "docs/guides/weights.md" in line


def test_nothing_is_said_of_weights_that_are_given_or_come_from_a_run_or_that_nobody_has():
    assert said() == []
    assert said("network.backbone=resnet50", "network.weights=imagenet") == []
    assert said("network.backbone=resnet50", "training.init_from=runs/photos") == []
    assert said("training.precision=float64") == []


def test_float64_in_a_large_trunk_that_is_trained_is_named():
    large = ("network.backbone=resnet50", "network.weights=imagenet", "training.precision=float64")
    (line,) = said(*large)
    assert line.startswith("training.precision: float64 in resnet50")
    assert line.endswith("; training.precision=float32")
    assert said(*large, "network.train=head") == []
    assert len(said(*large, "network.train=last:1")) == 1

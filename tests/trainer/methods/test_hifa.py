"""HIFA: its losses against plain loops, the fakes, T against its definition, the total of eq. 7."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.spawn import run_processes
from tests.trainer.losses.test_losses import numeric_gradient
from trainer.losses import jensen_shannon_mutual_information, mutual_information
from trainer.losses.mutual_information import pair_accuracy, roll_rows
from trainer.methods.base import Domain, Now
from trainer.methods.hifa import Hifa, HifaConfig
from trainer.networks.local_discriminator import LocalDiscriminator, map_channels
from trainer.networks.network import RetrievalNetwork
from trainer.networks.options import NetworkConfig
from trainer.networks.weights import NetworkError

N, V, C, P, D = 5, 2, 3, 4, 6
COUNTS = {1: [5], 2: [5, 0], 3: [2, 0, 3], 4: [0, 1, 0, 4]}


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps ``[N, V, C, P]`` and projected embeddings ``[N, V, C]``."""
    g = torch.Generator().manual_seed(seed)
    maps = torch.randn(N, V, C, P, dtype=torch.float64, generator=g)
    return maps, torch.randn(N, V, C, dtype=torch.float64, generator=g)


def softplus(v: float) -> float:
    return math.log(1 + math.exp(v))


def slow_bce(real, fake) -> float:
    real, fake = real.flatten().tolist(), fake.flatten().tolist()
    positive = sum(softplus(-v) for v in real) / len(real)
    return (positive + sum(softplus(v) for v in fake) / len(fake)) / 2


def slow_jsd(maps, embeddings) -> float:
    maps, embeddings = maps.tolist(), embeddings.tolist()
    real, fake = [], []
    for i in range(N):
        for j in range(N):
            for v in range(V):
                for p in range(P):
                    u = sum(maps[i][v][c][p] * embeddings[j][v][c] for c in range(C))
                    (real if i == j else fake).append(softplus(-u if i == j else u))
    return sum(real) / len(real) + sum(fake) / len(fake) - 2 * math.log(2)


CASES = {
    "bce real": (
        lambda x: mutual_information(x, data(1)[1]),
        lambda x: slow_bce(x, data(1)[1]),
        1,
    ),
    "bce fake": (
        lambda x: mutual_information(data(1)[1], x),
        lambda x: slow_bce(data(1)[1], x),
        1,
    ),
    "jsd maps": (
        lambda x: jensen_shannon_mutual_information(x, data(1)[1], offset=0),
        lambda x: slow_jsd(x, data(1)[1]),
        0,
    ),
    "jsd embeddings": (
        lambda x: jensen_shannon_mutual_information(data(1)[0], x, offset=0),
        lambda x: slow_jsd(data(1)[0], x),
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_a_slow_computation(name):
    loss, slow, which = CASES[name]
    x = data()[which].requires_grad_()
    value = loss(x)
    value.backward()
    assert value.item() == pytest.approx(slow(x.detach()), rel=1e-12)
    np.testing.assert_allclose(x.grad, numeric_gradient(slow, x), atol=1e-8)
    assert torch.autograd.gradcheck(loss, data(2)[which].requires_grad_())


def on_rank(rank: int, world_size: int, name: str):
    """Loss and gradient of a global batch cut unevenly; the weights make every row its own."""
    counts = COUNTS[world_size]
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    maps, embeddings = (x[rows].clone().requires_grad_() for x in data(3))
    if name == "jsd":
        loss = jensen_shannon_mutual_information(maps, embeddings, offset=rows.start)
    else:
        real = torch.einsum("nvcp,nvc->nvp", maps, embeddings)
        fake = torch.einsum("nvcp,nvc->nvp", maps, roll_rows(embeddings))
        loss = mutual_information(real, fake) + pair_accuracy(real, fake)
    rolled = roll_rows(embeddings)
    loss.backward()
    gradients = [x.grad.numpy() / world_size for x in (maps, embeddings)]
    return loss.item(), *gradients, rolled.detach().numpy()


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("name", ["bce", "jsd"])
def test_uneven_and_empty_ranks_give_the_one_process_loss(name, world_size):
    value, *arrays = on_rank(0, 1, name)
    results = run_processes(on_rank, world_size, name)
    assert [r[0] for r in results] == pytest.approx([value] * world_size, rel=1e-12)
    for i, array in enumerate(arrays, start=1):
        together = np.concatenate([r[i] for r in results])
        np.testing.assert_allclose(together, array, rtol=1e-10, atol=1e-14)


def test_a_fake_is_the_next_sample_and_never_the_own_one():
    x = torch.arange(N, dtype=torch.float64)[:, None].requires_grad_()
    rolled = roll_rows(x)
    assert rolled[:, 0].tolist() == [1, 2, 3, 4, 0]
    (rolled[:, 0] * torch.tensor([1.0, 10, 100, 1000, 10000])).sum().backward()
    assert x.grad[:, 0].tolist() == [10000, 1, 10, 100, 1000]


def test_reference_values_of_both_forms():
    zero = torch.zeros(4, 3)
    assert mutual_information(zero, zero).item() == pytest.approx(math.log(2))
    maps = torch.eye(3).view(3, 1, 3, 1)
    nothing = jensen_shannon_mutual_information(maps, torch.zeros(3, 1, 3), offset=0)
    assert nothing.item() == pytest.approx(0, abs=1e-7)
    keys = (torch.eye(3) * 200 - 100).view(3, 1, 3)
    everything = jensen_shannon_mutual_information(maps, keys, offset=0)
    assert everything.item() == pytest.approx(-2 * math.log(2))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_degenerate_batches_are_finite(n):
    """A lone sample is its own fake: then the least loss is that of no information."""
    maps, k = torch.randn(n, V, C, P).requires_grad_(), torch.ones(n, V, C).requires_grad_()
    real = torch.einsum("nvcp,nvc->nvp", maps, k)
    fake = torch.einsum("nvcp,nvc->nvp", maps, roll_rows(k))
    bce = mutual_information(real, fake)
    jsd = jensen_shannon_mutual_information(maps, k, offset=0)
    (bce + jsd).backward()
    assert torch.isfinite(bce + jsd)
    assert torch.isfinite(maps.grad).all()
    assert torch.isfinite(k.grad).all()
    if n == 1:
        assert bce >= math.log(2) - 1e-6
        assert jsd >= -1e-6


def test_local_discriminator_is_broadcast_concatenate_convolve():
    torch.manual_seed(0)
    t = LocalDiscriminator(C, D, hidden=8).double()
    maps, k, other = (torch.randn(s, dtype=torch.float64) for s in ((N, C, 2, 3), (N, D), (N, D)))
    for logits, embedding in zip(t(maps, k, other), (k, other), strict=True):
        joined = torch.cat([maps, embedding[:, :, None, None].expand(-1, -1, 2, 3)], 1)
        expected = t.last(t.second(t.first(joined).relu()).relu())[:, 0]
        torch.testing.assert_close(logits, expected)
    # 256-channel map, 256-wide embedding, 512 hidden: (512 + 1)·512 + (512 + 1)·512 + 513.
    default = LocalDiscriminator(256, 256)
    assert sum(p.numel() for p in default.parameters()) == 2 * 513 * 512 + 513


def test_map_channels_and_unknown_stage():
    network = RetrievalNetwork(NetworkConfig(tiny_width=8), 3)
    assert [map_channels(network, stage) for stage in network.trunk.stages] == [8, 16, 32, 48]
    with pytest.raises(NetworkError, match=r"map_stage: tiny has no stage conv9; known: conv1"):
        map_channels(network, "conv9")


def make(**options) -> Hifa:
    torch.manual_seed(0)
    network = NetworkConfig(tiny_width=8, embedding=D, image_size=32)
    return Hifa(HifaConfig(**options), network, num_classes=4, seed=5).double()


def batch(seed: int = 0) -> dict[str, Domain]:
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(N, 3, 32, 32, dtype=torch.float64, generator=g)
    shapes = torch.randn(4, V, 3, 32, 32, dtype=torch.float64, generator=g)
    return {
        "source_images": Domain(images, torch.tensor([0, 1, 1, 2, 0])),
        "target_shapes": Domain(shapes, torch.full((4,), -1)),
    }


@torch.no_grad()
def slow_terms(method: Hifa, rows: dict[str, Domain]) -> dict[str, float]:
    """Every term of eq. 7 sample by sample, view by view, position by position."""
    network, images, shapes = method.network, rows["source_images"], rows["target_shapes"].pixels
    maps_s, k_s = inner(network, images.pixels)
    parts = [inner(network, shape) for shape in shapes]
    maps_t, k_t = [m for m, _ in parts], [k for _, k in parts]
    f_s, f_t = k_s, torch.stack([k.max(0).values for k in k_t])

    def pairs(maps, k):
        joined = torch.cat([maps, k[:, None, None].expand(-1, *maps.shape[1:])])[None]
        t = method.discriminator
        return t.last(t.second(t.first(joined).relu()).relu())

    n, m = len(k_s), len(k_t)
    real_s = torch.cat([pairs(maps_s[i], k_s[i]) for i in range(n)])
    fake_s = torch.cat([pairs(maps_s[i], k_s[(i + 1) % n]) for i in range(n)])
    own = [(i, v) for i in range(m) for v in range(V)]
    real_t = torch.cat([pairs(maps_t[i][v], k_t[i][v]) for i, v in own])
    fake_t = torch.cat([pairs(maps_t[i][v], k_t[(i + 1) % m][v]) for i, v in own])
    pseudo = network.classify(f_t).argmax(1).tolist()
    local, classes = 0.0, 0
    for k in range(4):
        mine_s = [f_s[i] for i in range(n) if images.labels[i] == k]
        mine_t = [f_t[j] for j in range(m) if pseudo[j] == k]
        if mine_s and mine_t:
            difference = sum(mine_s) / len(mine_s) - sum(mine_t) / len(mine_t)
            local += sum(v**2 for v in difference.tolist())
            classes += 1
    radius, power = (
        method.config.radius,
        {"squared": 2, "absolute": 1}[method.config.global_penalty],
    )
    norms = [sum(math.hypot(*row) for row in f.tolist()) / len(f) for f in (f_s, f_t)]
    return {
        "mutual_information": (slow_bce(real_s, fake_s) + slow_bce(real_t, fake_t)) / 2,
        "global": sum(abs(norm - radius) ** power for norm in norms),
        "local": local / (classes * f_s.shape[1]),
    }


def inner(network: RetrievalNetwork, images: torch.Tensor):
    features, maps = network.trunk.features(images, keep=("conv4",))
    return maps["conv4"], network.bottleneck(features)


@pytest.mark.parametrize("penalty", ["squared", "absolute"])
def test_terms_equal_plain_loops_and_total_is_equation_7(penalty):
    method, rows = make(radius=2.0, global_penalty=penalty), batch()
    result = method(rows, Now(0, 0.25))
    terms = {k: v.item() for k, v in result.terms.items()}
    expected = slow_terms(method, rows)
    assert expected["local"] > 0
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=1e-10), name
    gamma = 2 / (1 + math.exp(-2.5)) - 1
    total = terms["classification"] + 0.05 * terms["mutual_information"] + terms["global"]
    assert result.total.item() == pytest.approx(total + gamma * terms["local"], rel=1e-12)


def test_running_centers_start_at_the_first_batch_and_then_move():
    method, centers = make(centers="running", theta=0.3, reduction="sum"), ({}, {})
    for step in range(2):
        rows = batch(step)
        loss = method(rows, Now(step, 0.5)).terms["local"].item()
        with torch.no_grad():
            f_s, f_t = method.embed(rows["source_images"], rows["target_shapes"])
            labels = rows["source_images"].labels, method.network.classify(f_t).argmax(1)
        for old, f, y in zip(centers, (f_s, f_t), labels, strict=True):
            for k in set(y.tolist()):
                mean = f[y == k].mean(0)
                old[k] = 0.3 * mean + 0.7 * old[k] if k in old else mean
        both = set(centers[0]) & set(centers[1])
        expected = sum((centers[0][k] - centers[1][k]).square().sum().item() for k in both)
        assert both
        assert loss == pytest.approx(expected, rel=1e-10)


def test_a_weight_of_zero_removes_a_part():
    whole = make()
    bare = make(mutual_information_weight=0, global_weight=0, local_weight=0, centers="running")
    assert not hasattr(bare, "discriminator")
    assert not hasattr(bare, "source_centers")
    assert set(bare(batch(), Now(0, 0.5)).terms) == {"classification"}
    assert set(whole(batch(), Now(0, 0.5)).terms) == {
        "classification",
        "mutual_information",
        "global",
        "local",
    }


def test_mutual_information_reaches_trunk_embedding_and_discriminator():
    for mi, head in (("bce", "discriminator"), ("jsd", "projections")):
        method = make(mi=mi)
        method(batch(), Now(0, 0.5)).terms["mutual_information"].backward()
        for module in (method.network.trunk, method.network.bottleneck, getattr(method, head)):
            for parameter in module.parameters():
                assert parameter.grad.abs().max() > 0
        assert method.network.classifier.weight.grad is None

"""Trunks applied in parts: the same losses and gradients as in one pass, from less memory."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.spawn import run_processes
from trainer import verify
from trainer.config import ConfigError, parse_config
from trainer.engines.strategy import refusals
from trainer.methods import METHODS
from trainer.networks.dropout import GlobalDropout, dropout_rows
from trainer.networks.metric_network import MetricBranch
from trainer.networks.network import RetrievalNetwork
from trainer.networks.options import NetworkConfig

SPREAD = ("astn", "dca", "hifa")  # gates; trunks frozen in turn; kept maps
verify.STRATEGIES["micro"] = {"micro_batch": 4}


def pictures(*shape: int, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, 3, size, size, generator=generator, dtype=torch.float64)


def network() -> RetrievalNetwork:
    """A small trunk with gates and, behind it, the dropout layers of AlexNet."""
    torch.manual_seed(0)
    config = NetworkConfig(image_size=32, tiny_width=8, embedding=6)
    found = RetrievalNetwork(config, 3, gated_stages=("conv1", "conv3"))
    trunk = found.trunk
    for number in (6, 7):
        trunk.add_module(f"drop{number}", GlobalDropout(0.5, layer=number))
    trunk.tail = (*trunk.tail, "drop6", "drop7")
    return found.double()


def step(net: RetrievalNetwork, *, images: Tensor, shapes: Tensor, joint: bool) -> list[Tensor]:
    """Loss and gradients of one batch; backward comes when dropout's blocks are over."""
    net.zero_grad()
    images, shapes = images.requires_grad_(), shapes.requires_grad_()
    images.grad = shapes.grad = None
    with dropout_rows(seed=3, step=11):
        f, g = net.encode(images, shapes, offsets=(5, 7), keep=("conv2",), joint=joint)
    assert f is not None
    assert g is not None
    loss = f.embedding.square().sum() + g.embedding.pow(3).sum() + f.maps["conv2"].sin().sum()
    loss = loss + g.maps["conv2"].square().sum()
    loss.backward()
    inputs = [x.grad for x in (images, shapes) if x.grad is not None]
    return [
        loss.detach(),
        *inputs,
        *(p.grad.clone() for p in net.parameters() if p.grad is not None),
    ]


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("counts", [(7, 3), (1, 1), (0, 2), (0, 0)])
@pytest.mark.parametrize("size", [1, 5, 100])
def test_value_and_gradient_are_those_of_one_pass(size, counts, joint):
    net, n, m = network(), *counts
    rows = {"images": pictures(n), "shapes": pictures(m, 4), "joint": joint}
    expected = step(net, **rows)
    net.trunk.micro_batch = size
    found = step(net, **rows)
    assert len(found) == len(expected)
    for a, b in zip(expected, found, strict=True):
        scale = float(a.abs().max()) if a.numel() else 1.0
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-12 * max(1.0, scale))


def test_dropout_is_right_in_a_backward_pass_of_another_thread():
    """On a GPU the second pass runs in a thread of autograd's own."""
    net, x = network(), pictures(7)

    def gradient(*, apart: bool) -> Tensor:
        net.zero_grad()
        with dropout_rows(seed=3, step=11):
            loss = net.embed_images(x, offset=5).square().sum()
        if apart:
            thread = threading.Thread(target=loss.backward)
            thread.start()
            thread.join()
        else:
            loss.backward()
        grad = net.trunk.get_parameter("conv1.weight").grad
        assert grad is not None
        return grad.clone()

    expected = gradient(apart=False)
    net.trunk.micro_batch = 3
    torch.testing.assert_close(gradient(apart=True), expected, rtol=1e-12, atol=1e-12)


def test_without_gradient_the_parts_are_cut_all_the_same():
    net, x = network().eval(), pictures(7)
    seen: list[int] = []
    net.trunk.get_submodule("conv1").register_forward_hook(lambda _m, i, _o: seen.append(len(i[0])))
    with torch.no_grad():
        expected = net.embed_images(x)
        net.trunk.micro_batch = 3
        torch.testing.assert_close(net.embed_images(x), expected, rtol=1e-12, atol=1e-12)
    assert seen == [7, 3, 3, 1]


class Peak(TorchDispatchMode):
    """Most bytes of tensors alive at a time, of those made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.most = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def peak_bytes(branch: MetricBranch, x: Tensor, micro_batch: int | None) -> int:
    branch.trunk.micro_batch = micro_batch
    branch.zero_grad()
    with Peak() as peak:
        branch.features(x).square().sum().backward()
    return peak.most


def test_memory_grows_with_the_part_and_not_with_the_batch():
    torch.manual_seed(0)
    branch = MetricBranch(NetworkConfig(image_size=32, tiny_width=16), (8,)).double()
    x = pictures(64, size=32)
    first_map = 16 * 16 * 16 * 8
    one_pass = peak_bytes(branch, x, None)
    assert one_pass > 64 * 2 * first_map, "the measure misses activations"
    # What stays whole: features and weights, with gradients.
    kept = 4 * 64 * branch.trunk.width * 8 + 4 * 8 * sum(p.numel() for p in branch.parameters())
    parts = {size: peak_bytes(branch, x, size) for size in (4, 16)}
    for size, most in parts.items():
        assert most < 1.5 * one_pass * size / 64 + kept
    assert parts[4] < parts[16] < one_pass


def probed(rank: int, world_size: int, root: Path, method: str, strategy: str) -> verify.Probe:
    return verify.probe(method, root=root, precision="float64", strategy=strategy)


def differences(
    rank: int, world_size: int, root: Path, method: str, reference: dict[str, dict[str, np.ndarray]]
) -> dict[str, float]:
    one = {k: {n: torch.from_numpy(v) for n, v in part.items()} for k, part in reference.items()}
    many = probed(rank, world_size, root, method, "micro")
    return {k: d.value for k, d in verify.compare(one, many).items()}


def arrays(probe: verify.Probe) -> dict[str, dict[str, np.ndarray]]:
    return {k: {n: v.numpy() for n, v in part.items()} for k, part in probe.items()}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_alike(benchmark, method):
    reference = arrays(probed(0, 1, benchmark, method, "ddp"))
    found = differences(0, 1, benchmark, method, reference)
    assert max(found.values()) < 1e-12, found


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("method", SPREAD)
def test_workers_with_other_numbers_of_parts_train_alike(benchmark, method, world_size):
    """Of 7 rows, uneven parts; of 2 rows, a third process has none."""
    reference = arrays(probed(0, 1, benchmark, method, "ddp"))
    for found in run_processes(differences, world_size, benchmark, method, reference):
        assert max(found.values()) < 1e-11, found


@pytest.mark.parametrize(
    ("network", "strategy", "named"),
    [
        ({"backbone": "resnet18"}, {"micro_batch": 8}, ("strategy.micro_batch", "batch_norm")),
        ({}, {"micro_batch": 8, "zero_stage": 3}, ("strategy.micro_batch", "zero_stage")),
        ({}, {"compile": True, "zero_stage": 3}, ("strategy.compile", "zero_stage")),
    ],
)
def test_what_cannot_be_cut_is_refused(network, strategy, named):
    if "zero_stage" in strategy:
        strategy = {"name": "deepspeed", **strategy}
    config = parse_config({"method": "source-only", "network": network, "strategy": strategy})
    assert any(all(name in reason for name in named) for reason in refusals(config))


def test_frozen_batch_norm_can_be_cut():
    network = {"backbone": "resnet18", "batch_norm": "frozen"}
    config = parse_config(
        {"method": "source-only", "network": network, "strategy": {"micro_batch": 8}}
    )
    assert refusals(config) == []


def test_zero_pictures_at_once_are_refused():
    with pytest.raises(ConfigError, match=r"strategy\.micro_batch"):
        parse_config({"method": "source-only", "strategy": {"micro_batch": 0}})

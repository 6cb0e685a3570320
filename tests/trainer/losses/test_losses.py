"""Each loss against a slow computation (value and gradient), gradcheck, degenerate batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.numeric import numeric_gradient
from tests.spawn import run_processes
from trainer.losses import (
    accuracy,
    adversarial,
    class_center_distance,
    cross_entropy,
    instance_alignment,
)
from trainer.losses.adversarial import domain_accuracy
from trainer.schedules import inverse_decay, ramp

LABELS = torch.tensor([0, 2, 1, 2, 0])
OTHER = torch.tensor([1, 1, 2])


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, 3, dtype=torch.float64, generator=g) for n in (5, 3, 3))


def slow_cross_entropy(logits, labels):
    return sum(
        math.log(sum(math.exp(v) for v in row)) - row[y]
        for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    ) / len(labels)


def slow_adversarial(source, target):
    def log_sigmoid(v):
        return -math.log(1 + math.exp(-v))

    s = sum(-log_sigmoid(v) for v in source.tolist()) / len(source)
    t = sum(-log_sigmoid(-v) for v in target.tolist()) / len(target)
    return (s + t) / 2


def slow_instances(features, labels, centers, mask):
    """Sum over the classes that take part of the mean distance of their samples."""
    total = 0.0
    for k, center in enumerate(centers.tolist()):
        own = [f for f, y in zip(features.tolist(), labels.tolist(), strict=True) if y == k]
        if mask[k] and own:
            total += sum(math.dist(f, center) for f in own) / len(own)
    return total


CASES = {
    "cross_entropy": (
        lambda x: cross_entropy(x, LABELS),
        lambda x: slow_cross_entropy(x, LABELS),
    ),
    "adversarial": (
        lambda x: adversarial(x[:2, 0], x[2:, 0]),
        lambda x: slow_adversarial(x[:2, 0], x[2:, 0]),
    ),
    "center_euclidean": (
        lambda x: class_center_distance(x[:3], data(1)[2], mask=torch.tensor([True, False, True])),
        lambda x: sum(math.dist(x[k].tolist(), data(1)[2][k].tolist()) for k in (0, 2)),
    ),
    "center_squared": (
        lambda x: class_center_distance(
            x[:3], data(1)[2], mask=torch.tensor([True, True, True]), phi="squared"
        ),
        lambda x: sum(math.dist(x[k].tolist(), data(1)[2][k].tolist()) ** 2 for k in range(3)),
    ),
    "center_mean": (
        lambda x: class_center_distance(
            x[:3], data(1)[2], mask=torch.tensor([True, False, True]), reduction="mean"
        ),
        lambda x: sum(math.dist(x[k].tolist(), data(1)[2][k].tolist()) for k in (0, 2)) / 2,
    ),
    "center_squared_mean": (
        lambda x: class_center_distance(
            x[:3],
            data(1)[2],
            mask=torch.tensor([True, False, True]),
            phi="squared",
            reduction="mean",
        ),
        lambda x: (
            sum(math.dist(x[k].tolist(), data(1)[2][k].tolist()) ** 2 for k in (0, 2))
            / (2 * x.shape[1])
        ),
    ),
    "instance": (
        lambda x: instance_alignment(x, LABELS, data(1)[2], mask=torch.tensor([True, False, True])),
        lambda x: slow_instances(x, LABELS, data(1)[2], [True, False, True]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_a_slow_computation(name):
    loss, slow = CASES[name]
    x = data()[0].requires_grad_()
    value = loss(x)
    value.backward()
    assert value.item() == pytest.approx(slow(x.detach()), rel=1e-12)
    np.testing.assert_allclose(x.grad, numeric_gradient(slow, x), atol=1e-8)
    assert torch.autograd.gradcheck(loss, data(2)[0].requires_grad_())


COUNTS = {2: ([5, 0], [1, 2]), 3: ([2, 0, 3], [0, 3, 0])}


def on_rank(rank: int, world_size: int, name: str):
    n, m = COUNTS.get(world_size, ([5], [3]))
    x, z, centers = data(3)
    x = x[sum(n[:rank]) : sum(n[: rank + 1])].clone().requires_grad_()
    y = LABELS[sum(n[:rank]) : sum(n[: rank + 1])]
    z = z[sum(m[:rank]) : sum(m[: rank + 1])]
    mask = torch.tensor([True, False, True])
    loss = {
        "cross_entropy": lambda: cross_entropy(x, y),
        "adversarial": lambda: adversarial(x[:, 0], z[:, 0]),
        "instance": lambda: instance_alignment(x, y, centers, mask=mask),
        "accuracy": lambda: accuracy(x, y) + x.sum() * 0,
        "domain_accuracy": lambda: domain_accuracy(x[:, 0], z[:, 0]) + x.sum() * 0,
    }[name]()
    loss.backward()
    return loss.item(), x.grad.numpy() / world_size


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(
    "name", ["cross_entropy", "adversarial", "instance", "accuracy", "domain_accuracy"]
)
def test_uneven_and_empty_ranks_give_the_one_process_loss(name, world_size):
    value, gradient = on_rank(0, 1, name)
    results = run_processes(on_rank, world_size, name)
    assert [r[0] for r in results] == pytest.approx([value] * world_size, rel=1e-12)
    together = np.concatenate([r[1] for r in results])
    np.testing.assert_allclose(together, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("phi", ["euclidean", "squared"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_one_sample_a_class_is_aligned_as_its_center_is(phi, reduction):
    x, _, centers = data()
    labels, how = torch.tensor([2, 0]), {"phi": phi, "reduction": reduction}
    mask = torch.tensor([True, True, True])
    instances = instance_alignment(x[:2], labels, centers, mask=mask, **how)
    present = torch.tensor([True, False, True])
    means = torch.stack([x[1], torch.zeros(3), x[0]])
    aligned = class_center_distance(means, centers, mask=present, **how)
    assert instances.item() == pytest.approx(aligned.item(), rel=1e-12)
    # How many samples a class has does not change its share.
    twice = instance_alignment(x[[0, 0, 1]], torch.tensor([2, 2, 0]), centers, mask=mask, **how)
    assert twice.item() == pytest.approx(instances.item(), rel=1e-12)


@pytest.mark.parametrize("x", [torch.zeros(4, 3), torch.ones(4, 3), torch.randn(1, 3)])
def test_degenerate_batches_are_finite(x):
    x = x.clone().requires_grad_()
    y = torch.zeros(len(x), dtype=torch.long)
    mask = torch.tensor([True, False, False])
    loss = (
        cross_entropy(x, y)
        + adversarial(x[:, 0], x[:0, 0])
        + instance_alignment(x, y, x.detach().mean(0).expand(3, 3), mask=mask)
        + class_center_distance(x[:1].expand(3, 3), x[:1].expand(3, 3), mask=mask)
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


def test_reductions_and_chance_level():
    zero = torch.zeros(3)
    assert adversarial(zero, zero).item() == pytest.approx(math.log(2))
    assert adversarial(zero, zero, reduction="sum").item() == pytest.approx(2 * math.log(2))
    assert domain_accuracy(torch.ones(4), torch.ones(2)).item() == 0.5


def test_schedules():
    assert ramp(0.0) == 0.0
    assert ramp(1.0) == pytest.approx(0.99990920)
    assert inverse_decay(0.0) == 1.0
    assert inverse_decay(1.0) == pytest.approx(11**-0.75)

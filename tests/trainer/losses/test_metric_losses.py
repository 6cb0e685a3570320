"""Pairwise and class-mean losses against plain loops, in one process and over uneven ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.numeric import numeric_gradient
from tests.spawn import run_processes
from trainer.losses import (
    batch_hard,
    class_mean_discrepancy,
    contrastive,
    generator_loss,
    nearest_mean_accuracy,
)

K, MARGIN = 5, 2.0
# Unsorted; class 3 has one sketch (no positive), class 4 no shape, class 0 no sketch.
LABELS = torch.tensor([2, 1, 3, 1, 2, 4, 1])
OTHER = torch.tensor([3, 1, 0, 2, 1])


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(n, 3, dtype=torch.float64, generator=g) for n in (7, 5))
    return x, z


def slow_batch_hard(x, labels, candidates=None, *, mean=True):
    points = x.tolist()
    others, names = (points, labels) if candidates is None else candidates
    terms = []
    for i, (point, label) in enumerate(zip(points, labels.tolist(), strict=True)):
        positives, negatives = [], []
        for j, (other, name) in enumerate(zip(others, names.tolist(), strict=True)):
            if name != label:
                negatives.append(math.dist(point, other))
            elif candidates is not None or i != j:
                positives.append(math.dist(point, other))
        if positives and negatives:
            terms.append(max(0.0, MARGIN + max(positives) - min(negatives)))
    return sum(terms) / (len(terms) if mean else 1) if terms else 0.0


def slow_contrastive(x, labels, candidates=None):
    points = x.tolist()
    others, names = (points, labels) if candidates is None else candidates
    same, different = [], []
    for i, (point, label) in enumerate(zip(points, labels.tolist(), strict=True)):
        for j, (other, name) in enumerate(zip(others, names.tolist(), strict=True)):
            d = sum(abs(a - b) for a, b in zip(point, other, strict=True))
            if name != label:
                different.append(10.0 * math.exp(-2.77 * d / 10.0))
            elif candidates is not None or i != j:
                same.append(d * d / 0.2)
    return sum(same) / len(same) + sum(different) / len(different)


def slow_discrepancy(x, labels, z, other):
    total = 0.0
    for k in set(labels.tolist()) & set(other.tolist()):
        a = [row for row, y in zip(x.tolist(), labels.tolist(), strict=True) if y == k]
        b = [row for row, y in zip(z.tolist(), other.tolist(), strict=True) if y == k]
        mean_a = [sum(column) / len(a) for column in zip(*a, strict=True)]
        mean_b = [sum(column) / len(b) for column in zip(*b, strict=True)]
        total += math.dist(mean_a, mean_b)
    return total


def slow_generator(logits, form):
    probabilities = [1 / (1 + math.exp(-v)) for v in logits.tolist()]
    terms = [math.log(1 - p) if form == "saturating" else -math.log(p) for p in probabilities]
    return sum(terms) / len(terms)


SCALES = {"positive_scale": 0.2, "negative_scale": 10.0}
# Name -> (loss of x, labels, z, other; the same by plain loops).
CASES = {
    "batch_hard": (
        lambda x, y, z, o: batch_hard(x, y, margin=MARGIN),
        lambda x, y, z, o: slow_batch_hard(x, y),
    ),
    "batch_hard_across": (
        lambda x, y, z, o: batch_hard(x, y, margin=MARGIN, candidates=(z, o)),
        lambda x, y, z, o: slow_batch_hard(x, y, (z.tolist(), o)),
    ),
    "batch_hard_sum": (
        lambda x, y, z, o: batch_hard(x, y, margin=MARGIN, candidates=(z, o), reduction="sum"),
        lambda x, y, z, o: slow_batch_hard(x, y, (z.tolist(), o), mean=False),
    ),
    "contrastive": (
        lambda x, y, z, o: contrastive(x, y, **SCALES),
        lambda x, y, z, o: slow_contrastive(x, y),
    ),
    "contrastive_across": (
        lambda x, y, z, o: contrastive(x, y, **SCALES, candidates=(z, o)),
        lambda x, y, z, o: slow_contrastive(x, y, (z.tolist(), o)),
    ),
    "discrepancy": (
        lambda x, y, z, o: class_mean_discrepancy(x, y, z, o, num_classes=K),
        slow_discrepancy,
    ),
    "discrepancy_mean": (
        lambda x, y, z, o: class_mean_discrepancy(x, y, z, o, num_classes=K, reduction="mean"),
        lambda x, y, z, o: slow_discrepancy(x, y, z, o) / len(set(y.tolist()) & set(o.tolist())),
    ),
    "saturating": (
        lambda x, y, z, o: generator_loss(x[:, 0]),
        lambda x, y, z, o: slow_generator(x[:, 0], "saturating"),
    ),
    "nonsaturating": (
        lambda x, y, z, o: generator_loss(x[:, 0], form="nonsaturating"),
        lambda x, y, z, o: slow_generator(x[:, 0], "nonsaturating"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_plain_loops(name):
    loss, slow = CASES[name]
    x, z = (t.requires_grad_() for t in data())
    value = loss(x, LABELS, z, OTHER)
    value.backward()
    x_, z_ = x.detach(), z.detach()
    assert value.item() == pytest.approx(slow(x_, LABELS, z_, OTHER), rel=1e-12)
    expected = numeric_gradient(lambda t: slow(t, LABELS, z_, OTHER), x_)
    np.testing.assert_allclose(x.grad, expected, atol=2e-7)
    assert np.abs(expected).max() > 0.01
    if z.grad is not None:
        expected = numeric_gradient(lambda t: slow(x_, LABELS, t, OTHER), z_)
        np.testing.assert_allclose(z.grad, expected, atol=2e-7)
    assert (z.grad is None) == (name in {"batch_hard", "contrastive"} or "saturating" in name)
    x, z = (t.requires_grad_() for t in data(1))
    assert torch.autograd.gradcheck(lambda a, b: loss(a, LABELS, b, OTHER) + 0 * b.sum(), (x, z))


COUNTS = {1: ([7], [5]), 2: ([7, 0], [2, 3]), 3: ([3, 0, 4], [0, 5, 0])}


def part(rows: torch.Tensor, counts: list[int], rank: int) -> torch.Tensor:
    return rows[sum(counts[:rank]) : sum(counts[: rank + 1])]


def on_rank(rank: int, world_size: int, name: str):
    n, m = COUNTS[world_size]
    full_x, full_z = data(3)
    x = part(full_x, n, rank).clone().requires_grad_()
    z = part(full_z, m, rank).clone().requires_grad_()
    loss = CASES[name][0](x, part(LABELS, n, rank), z, part(OTHER, m, rank))
    (loss + 0 * z.sum()).backward()
    return loss.item(), x.grad.numpy() / world_size, z.grad.numpy() / world_size


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_uneven_and_empty_ranks_give_the_one_process_loss(name, world_size):
    value, *gradients = on_rank(0, 1, name)
    results = run_processes(on_rank, world_size, name)
    assert [r[0] for r in results] == pytest.approx([value] * world_size, rel=1e-12)
    for i, gradient in enumerate(gradients, start=1):
        together = np.concatenate([r[i] for r in results])
        np.testing.assert_allclose(together, gradient, rtol=1e-10, atol=1e-14)


NONE = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
DEGENERATE = {
    "all zero": (torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])),
    "identical": (torch.ones(4, 3), torch.tensor([0, 1, 0, 1])),
    "one class": (torch.randn(4, 3), torch.zeros(4, dtype=torch.long)),
    "one sample": (torch.randn(1, 3), torch.zeros(1, dtype=torch.long)),
    "no row": NONE,
}


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("empty", [False, True], ids=["shapes", "no shape"])
@pytest.mark.parametrize("name", CASES)
def test_degenerate_batches_are_finite(name, kind, empty):
    x, labels = DEGENERATE[kind]
    x = x.clone().requires_grad_()
    z, other = NONE if empty else (torch.zeros(2, 3), torch.tensor([0, 1]))
    z = z.clone().requires_grad_()
    loss = CASES[name][0](x, labels, z, other)
    loss.backward()
    assert torch.isfinite(loss)
    for t in (x, z):
        assert t.grad is None or torch.isfinite(t.grad).all()
    if len(x) > 1 and kind in {"all zero", "identical"} and name == "batch_hard":
        assert loss.item() == pytest.approx(MARGIN)
        assert not x.grad.any()
    if name.startswith("batch_hard") and (kind in {"no row"} or (empty and "across" in name)):
        assert loss.item() == 0


def test_order_of_rows_does_not_matter():
    x, z = data(4)
    p, q = torch.tensor([3, 0, 6, 1, 5, 2, 4]), torch.tensor([4, 1, 0, 3, 2])
    for loss, _ in CASES.values():
        expected = loss(x, LABELS, z, OTHER)
        torch.testing.assert_close(loss(x[p], LABELS[p], z[q], OTHER[q]), expected)


def test_losses_upcast_half_precision_and_keep_float64():
    x = data()[0]
    assert batch_hard(x.bfloat16(), LABELS, margin=0.3).dtype == torch.float32
    assert contrastive(x, LABELS, **SCALES).dtype == torch.float64


def test_generator_is_finite_for_a_certain_discriminator():
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    for form in ("saturating", "nonsaturating"):
        loss = generator_loss(logits, form=form)
        assert loss.item() == pytest.approx(-100.0 if form == "saturating" else 100.0)


def nearest_on_rank(rank: int, world_size: int) -> float:
    x, z = data(5)
    n, m = COUNTS[world_size]
    return nearest_mean_accuracy(
        part(x, n, rank),
        part(LABELS, n, rank),
        part(z, m, rank),
        part(OTHER, m, rank),
        num_classes=K,
    ).item()


def test_nearest_mean_accuracy_counts_own_classes():
    x, z = data(5)
    means = {k: z[k == OTHER].mean(0).tolist() for k in sorted(set(OTHER.tolist()))}
    right = [
        min(means, key=lambda k, row=row: math.dist(row, means[k])) == y
        for row, y in zip(x.tolist(), LABELS.tolist(), strict=True)
    ]
    assert 0 < sum(right) < len(right)
    expected = sum(right) / len(right)
    for world_size in (1, 2, 3):
        found = run_processes(nearest_on_rank, world_size)
        assert found == pytest.approx([expected] * world_size)
    assert nearest_mean_accuracy(x, LABELS, z[:0], OTHER[:0], num_classes=K).item() == 0

"""FTSPL's transferable cross-entropy (eq. 4) against plain loops, for any number of ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.spawn import run_processes
from trainer.losses import (
    batch_spread_table,
    cross_entropy,
    shift_table,
    spread_table,
    transferable_cross_entropy,
)
from trainer.synchronised import class_covariances, class_sums

K, D = 4, 3


def given(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Logits, labels (class 3 absent), weight, shift, covariance."""
    g = torch.Generator().manual_seed(seed)
    logits, weight, shift, root = (
        torch.randn(*shape, dtype=torch.float64, generator=g)
        for shape in ((6, K), (K, D), (K, D), (K, D, D))
    )
    covariance = root @ root.transpose(1, 2)
    covariance[2] = 0
    return logits, torch.tensor([0, 2, 1, 1, 2, 0]), weight, shift, covariance


def slow_loss(logits, labels, weight, shift, covariance, strength):
    """Eq. 4 sample by sample."""
    total = 0.0
    for row, y in zip(logits, labels, strict=True):
        z = []
        for k in range(K):
            d = [weight[k][i] - weight[y][i] for i in range(D)]
            linear = sum(d[i] * shift[y][i] for i in range(D))
            quadratic = sum(d[i] * covariance[y][i][j] * d[j] for i in range(D) for j in range(D))
            z.append(row[k] + linear + strength / 2 * quadratic)
        total += math.log(sum(math.exp(v) for v in z)) - z[y]
    return total / len(labels)


def numeric(function, x: torch.Tensor, step: float = 1e-6) -> np.ndarray:
    flat, gradient = x.detach().reshape(-1), []
    for i in range(len(flat)):
        up, down = flat.clone(), flat.clone()
        up[i] += step
        down[i] -= step
        gradient.append((function(up.view_as(x)) - function(down.view_as(x))) / (2 * step))
    return np.reshape(gradient, x.shape)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_transferable_loss_value_and_gradient_equal_plain_loops(strength):
    logits, labels, weight, shift, covariance = given()
    inputs = [t.requires_grad_() for t in (logits, weight, shift, covariance)]
    value = transferable_cross_entropy(
        logits, labels, weight, shift=shift, covariance=covariance, strength=strength
    )
    value.backward()
    lists = [t.tolist() for t in (logits, labels, weight, shift, covariance)]
    assert value.item() == pytest.approx(slow_loss(*lists, strength), rel=1e-12)

    def slow(place):
        return lambda x: slow_loss(*lists[:place], x.tolist(), *lists[place + 1 :], strength)

    np.testing.assert_allclose(logits.grad, numeric(slow(0), logits), atol=1e-8)
    np.testing.assert_allclose(weight.grad, numeric(slow(2), weight), atol=1e-7)
    np.testing.assert_allclose(shift.grad, numeric(slow(3), shift), atol=1e-8)
    np.testing.assert_allclose(covariance.grad, numeric(slow(4), covariance), atol=1e-7)
    assert all(t.grad is not None for t in inputs)


def test_gradcheck():
    logits, labels, weight, shift, covariance = given(1)

    def loss(x, w):
        return transferable_cross_entropy(x, labels, w, shift=shift, covariance=covariance)

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), weight.requires_grad_()))


def test_it_bounds_the_expected_cross_entropy_of_drawn_features_from_above():
    """Eq. 2-3: Jensen's inequality, on drawn features f + Δμ + noise."""
    _, labels, weight, shift, covariance = given(2)
    g = torch.Generator().manual_seed(5)
    f = torch.randn(6, D, dtype=torch.float64, generator=g)
    bound = transferable_cross_entropy(
        f @ weight.T, labels, weight, shift=shift, covariance=covariance
    )
    root = torch.linalg.cholesky(covariance + 1e-12 * torch.eye(D))
    noise = torch.randn(4000, 6, D, 1, dtype=torch.float64, generator=g)
    drawn = f + shift[labels] + (root[labels] @ noise).squeeze(3)
    expected = cross_entropy((drawn @ weight.T).flatten(0, 1), labels.repeat(4000))
    assert expected < bound


def test_without_its_terms_it_is_cross_entropy():
    logits, labels, weight, shift, covariance = given()
    plain = cross_entropy(logits, labels)
    nothing = transferable_cross_entropy(logits, labels, weight, shift=None, covariance=None)
    zeros = transferable_cross_entropy(
        logits, labels, weight, shift=shift * 0, covariance=covariance * 0
    )
    assert torch.equal(nothing, plain)
    assert torch.equal(zeros, plain)
    for table in (shift_table(weight, shift), spread_table(weight, covariance)):
        assert table.diagonal().tolist() == [0.0] * K


def test_half_precision_is_computed_in_float32():
    logits, labels, weight, shift, covariance = given()
    value = transferable_cross_entropy(
        logits.bfloat16(), labels, weight.float(), shift=shift, covariance=covariance
    )
    assert value.dtype == torch.float32


@pytest.mark.parametrize("n", [0, 1])
def test_degenerate_inputs_are_finite(n):
    logits, weight = torch.zeros(n, K).requires_grad_(), torch.zeros(K, D).requires_grad_()
    value = transferable_cross_entropy(
        logits,
        torch.zeros(n, dtype=torch.long),
        weight,
        shift=torch.zeros(K, D),
        covariance=torch.zeros(K, D, D),
    )
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(weight.grad).all()


def loss_on_rank(rank: int, world_size: int):
    counts = {1: [6], 2: [6, 0], 3: [2, 0, 4]}[world_size]
    part = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    logits, labels, weight, shift, covariance = given(4)
    logits = logits[part].clone().requires_grad_()
    weight.requires_grad_()
    value = transferable_cross_entropy(
        logits, labels[part], weight, shift=shift, covariance=covariance
    )
    value.backward()
    return value.item(), logits.grad.numpy() / world_size, weight.grad.numpy() / world_size


@pytest.mark.parametrize("world_size", [2, 3])
def test_uneven_and_empty_ranks_give_the_one_process_loss(world_size):
    value, rows, weight = loss_on_rank(0, 1)
    results = run_processes(loss_on_rank, world_size)
    assert [r[0] for r in results] == pytest.approx([value] * world_size, rel=1e-12)
    together = np.concatenate([r[1] for r in results])
    np.testing.assert_allclose(together, rows, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(sum(r[2] for r in results), weight, rtol=1e-10, atol=1e-14)


# ---- the spread of a batch, without its covariances


def drawn_rows() -> tuple[torch.Tensor, ...]:
    """Features far from 0, labels (class 3 absent), which of them count, and the weight."""
    g = torch.Generator().manual_seed(3)
    features = 5 + torch.randn(9, D, dtype=torch.float64, generator=g)
    labels = torch.tensor([0, 2, 1, -1, 2, 0, 0, -1, 1])
    return features, labels, labels >= 0, torch.randn(K, D, dtype=torch.float64, generator=g)


def slow_spread(features, labels, weight):
    """The covariances of the classes one by one, and eq. 4's quadratic term with each."""
    features, labels, weight = (torch.as_tensor(x).numpy() for x in (features, labels, weight))
    table = np.zeros((K, K))
    for y in range(K):
        rows = features[labels == y]
        if len(rows):
            covariance = np.cov(rows.T, bias=True)
            for k in range(K):
                difference = weight[k] - weight[y]
                table[y, k] = difference @ covariance @ difference
    return table


def spread_on_rank(rank: int, world_size: int):
    counts = {1: [9], 2: [9, 0], 3: [1, 0, 8]}[world_size]
    part = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    features, labels, mask, weight = drawn_rows()
    features, labels, mask = features[part].clone(), labels[part], mask[part]
    features.requires_grad_()
    weight.requires_grad_()
    bins = labels.masked_fill(~mask, 0)
    (sums,) = class_sums((features[mask], labels[mask]), num_classes=K)
    table = batch_spread_table(weight, features, bins, sums, mask=mask)
    covariances = class_covariances(features, bins, sums, mask=mask)
    (table * torch.arange(K * K).view(K, K)).sum().backward()
    return (
        table.detach().numpy(),
        covariances.numpy(),
        features.grad.numpy() / world_size,
        weight.grad.numpy() / world_size,
    )


def test_a_batchs_spread_is_that_of_its_covariances():
    features, labels, _, weight = drawn_rows()
    table, covariances, by_features, by_weight = spread_on_rank(0, 1)
    expected = slow_spread(features, labels, weight)
    np.testing.assert_allclose(table, expected, rtol=1e-10, atol=1e-12)
    formed = spread_table(weight, torch.from_numpy(covariances))
    np.testing.assert_allclose(formed, expected, rtol=1e-10, atol=1e-12)
    factors = np.arange(K * K).reshape(K, K)

    def slow(f, w):
        return float((slow_spread(f, labels, w) * factors).sum())

    np.testing.assert_allclose(by_features, numeric(lambda x: slow(x, weight), features), atol=1e-5)
    np.testing.assert_allclose(by_weight, numeric(lambda x: slow(features, x), weight), atol=1e-5)
    assert not by_features[labels < 0].any()


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_batchs_spread_does_not_depend_on_the_ranks(world_size):
    table, covariances, by_features, by_weight = spread_on_rank(0, 1)
    results = run_processes(spread_on_rank, world_size)
    for result in results:
        np.testing.assert_allclose(result[0], table, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(result[1], covariances, rtol=1e-10, atol=1e-12)
    together = np.concatenate([r[2] for r in results])
    np.testing.assert_allclose(together, by_features, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(sum(r[3] for r in results), by_weight, rtol=1e-9, atol=1e-10)

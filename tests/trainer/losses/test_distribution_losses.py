"""MMD, joint MMD, CORAL, norms, entropy, conditional adversarial: against plain loops in float64.

Value and gradient against a slow computation, gradcheck, uneven and empty ranks against one
process, degenerate batches.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.numeric import numeric_gradient
from tests.spawn import run_processes
from trainer.losses import adversarial, coral, entropy, feature_norm, jmmd, mmd
from trainer.losses.conditional import (
    certainty,
    conditional_adversarial,
    multilinear_map,
    randomized_map,
)
from trainer.losses.norms import stepwise_feature_norm

N, M, D = 5, 4, 3
SCALES = (0.25, 0.5, 1, 2, 4)


def rows(count: int, seed: int, width: int = D) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, dtype=torch.float64, generator=g) + 0.3 * seed


def slow_bandwidth(pooled):
    pairs = [(a, b) for i, a in enumerate(pooled) for j, b in enumerate(pooled) if i != j]
    return sum(math.dist(a, b) ** 2 for a, b in pairs) / len(pairs)


def slow_jmmd(source_layers, target_layers, bandwidths, *, unbiased=False):
    """Means of products of summed Gaussian kernels, pair by pair."""

    def kernel(a, b):
        return math.prod(
            sum(math.exp(-(math.dist(x, y) ** 2) / (u * width)) for u in SCALES)
            for x, y, width in zip(a, b, bandwidths, strict=True)
        )

    def within(samples):
        values = [
            kernel(a, b)
            for i, a in enumerate(samples)
            for j, b in enumerate(samples)
            if i != j or not unbiased
        ]
        return sum(values) / len(values)

    s = list(zip(*(layer.tolist() for layer in source_layers), strict=True))
    t = list(zip(*(layer.tolist() for layer in target_layers), strict=True))
    across = [kernel(a, b) for a in s for b in t]
    return within(s) + within(t) - 2 * sum(across) / len(across)


def slow_coral(source, target):
    def covariance(samples):
        n, mean = len(samples), [sum(c) / len(samples) for c in zip(*samples, strict=True)]
        return [
            [sum((x[i] - mean[i]) * (x[j] - mean[j]) for x in samples) / (n - 1) for j in range(D)]
            for i in range(D)
        ]

    a, b = covariance(source.tolist()), covariance(target.tolist())
    gaps = [(a[i][j] - b[i][j]) ** 2 for i in range(D) for j in range(D)]
    return sum(gaps) / (4 * D**2)


def slow_norm(features):
    return (sum(math.hypot(*f) for f in features.tolist()) / len(features) - 2.5) ** 2


def slow_step(features, at):
    norms = zip(features.tolist(), at.tolist(), strict=True)
    return sum((math.hypot(*f) - math.hypot(*g) - 0.7) ** 2 for f, g in norms) / len(features)


def slow_row_entropy(row):
    total = sum(math.exp(v) for v in row)
    return -sum(math.exp(v) / total * math.log(math.exp(v) / total) for v in row)


def slow_entropy(logits):
    return sum(slow_row_entropy(row) for row in logits.tolist()) / len(logits)


def slow_conditional(source, target, w_s, w_t):
    s = sum(w * math.log1p(math.exp(-v)) for v, w in zip(source.tolist(), w_s, strict=True))
    t = sum(w * math.log1p(math.exp(v)) for v, w in zip(target.tolist(), w_t, strict=True))
    return (s / sum(w_s) + t / sum(w_t)) / 2


X, T, P_T = rows(N, 0), rows(M, 1), rows(M, 2).softmax(1)
WIDTH = slow_bandwidth(torch.cat([X, T]).tolist())
WIDTH_P = slow_bandwidth(torch.cat([X.softmax(1), P_T]).tolist())
W_S, W_T = [1.0, 1.5, 2.0, 1.2, 1.1], [1.9, 1.0, 1.4, 1.3]
WEIGHTS = tuple(torch.tensor(w, dtype=torch.float64) for w in (W_S, W_T))


def joint(x, t, p, **options):
    return jmmd([x, x.softmax(1)], [t, p], **options)


def conditional(x, t):
    return conditional_adversarial((x[:, 0], WEIGHTS[0]), (t[:, 0], WEIGHTS[1]))


# The bandwidth is detached: the slow gradient holds the one of the unmoved features.
CASES = {
    "mmd": (lambda x: mmd(x, T), lambda x: slow_jmmd([x], [T], [WIDTH])),
    "mmd_unbiased": (
        lambda x: mmd(x, T, estimator="unbiased"),
        lambda x: slow_jmmd([x], [T], [WIDTH], unbiased=True),
    ),
    "jmmd": (
        lambda x: joint(x, T, P_T),
        lambda x: slow_jmmd([x, x.softmax(1)], [T, P_T], [WIDTH, WIDTH_P]),
    ),
    "coral": (lambda x: coral(x, T), lambda x: slow_coral(x, T)),
    "feature_norm": (lambda x: feature_norm(x, radius=2.5), slow_norm),
    "feature_norm_absolute": (
        lambda x: feature_norm(x, radius=2.5, penalty="absolute"),
        lambda x: math.sqrt(slow_norm(x)),
    ),
    "stepwise": (lambda x: stepwise_feature_norm(x, delta=0.7), lambda x: slow_step(x, X)),
    "entropy": (entropy, slow_entropy),
    "conditional": (
        lambda x: conditional(x, T),
        lambda x: slow_conditional(x[:, 0], T[:, 0], W_S, W_T),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_a_slow_computation(name):
    loss, slow = CASES[name]
    x = X.clone().requires_grad_()
    value = loss(x)
    value.backward()
    assert value.item() == pytest.approx(slow(X), rel=1e-10)
    np.testing.assert_allclose(x.grad, numeric_gradient(slow, X), atol=1e-8)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, t: mmd(x, t, bandwidth=4.0),
        lambda x, t: mmd(x, t, bandwidth=4.0, estimator="unbiased"),
        lambda x, t: jmmd([x, x.softmax(1)], [t, t.softmax(1)], bandwidths=[4.0, 0.5]),
        coral,
        lambda x, t: feature_norm(x, radius=2.5) + feature_norm(t, radius=2.5, penalty="absolute"),
        lambda x, t: entropy(x) * entropy(t),
        conditional,
        lambda x, t: multilinear_map(x, t[:1].expand(N, D).softmax(1)),
        lambda x, t: randomized_map(x, x.softmax(1), maps=(t[:D], t[-D:])),
    ],
)
def test_gradcheck_in_both_arguments(loss):
    assert torch.autograd.gradcheck(loss, (X.clone().requires_grad_(), T.clone().requires_grad_()))


COUNTS = {1: ([5], [4]), 2: ([5, 0], [1, 3]), 3: ([2, 0, 3], [0, 4, 0])}


def on_rank(rank: int, world_size: int, name: str):
    n, m = COUNTS[world_size]
    mine, other = (
        slice(sum(counts[:rank]), sum(counts[: rank + 1])) for counts in COUNTS[world_size]
    )
    assert (sum(n), sum(m)) == (N, M)
    x, t = X[mine].clone().requires_grad_(), T[other].clone().requires_grad_()
    w_s, w_t = WEIGHTS[0][mine], WEIGHTS[1][other]
    loss = {
        "mmd": lambda: mmd(x, t),
        "mmd_unbiased": lambda: mmd(x, t, estimator="unbiased"),
        "jmmd": lambda: joint(x, t, t.softmax(1)),
        "coral": lambda: coral(x, t),
        "feature_norm": lambda: feature_norm(x, radius=2.5) + feature_norm(t, radius=2.5),
        "feature_norm_absolute": lambda: sum(
            feature_norm(rows, radius=2.5, penalty="absolute") for rows in (x, t)
        ),
        "stepwise": lambda: stepwise_feature_norm(x, delta=0.7) + t.sum() * 0,
        "entropy": lambda: entropy(x) + entropy(t),
        "conditional": lambda: conditional_adversarial((x[:, 0], w_s), (t[:, 0], w_t)),
    }[name]()
    loss.backward()
    return loss.item(), x.grad.numpy() / world_size, t.grad.numpy() / world_size


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_uneven_and_empty_ranks_give_the_one_process_loss(name, world_size):
    value, *gradients = on_rank(0, 1, name)
    results = run_processes(on_rank, world_size, name)
    assert [r[0] for r in results] == pytest.approx([value] * world_size, rel=1e-11)
    for i, gradient in enumerate(gradients):
        together = np.concatenate([r[1 + i] for r in results])
        np.testing.assert_allclose(together, gradient, rtol=1e-9, atol=1e-13)


DEGENERATE = {
    "zero": (torch.zeros(4, 3), torch.zeros(2, 3)),
    "identical": (torch.full((4, 3), 1000.1), torch.full((3, 3), 1000.1)),
    "one each": (torch.randn(1, 3), torch.randn(1, 3)),
    "no target": (torch.randn(3, 3), torch.zeros(0, 3)),
    "no source": (torch.zeros(0, 3), torch.randn(3, 3)),
    "nothing": (torch.zeros(0, 3), torch.zeros(0, 3)),
}


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_batches_are_finite(kind):
    x, t = (v.clone().requires_grad_() for v in DEGENERATE[kind])
    losses = {
        "mmd": mmd(x, t),
        "mmd_unbiased": mmd(x, t, estimator="unbiased"),
        "jmmd": joint(x, t, t.softmax(1)),
        "coral": coral(x, t),
        "norm": feature_norm(x, radius=1.0) + feature_norm(t, radius=1.0),
        "absolute norm": feature_norm(x, radius=1.0, penalty="absolute"),
        "step": stepwise_feature_norm(x, delta=1.0) + stepwise_feature_norm(t, delta=1.0),
        "entropy": entropy(x) + entropy(t),
        "conditional": conditional_adversarial(
            (x[:, 0], certainty(x)), (t[:, 0], certainty(t)), reduction="sum"
        ),
    }
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(v) for v in losses.values()), losses
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(t.grad).all()


@pytest.mark.parametrize("counts", [(0, 3), (3, 0)])
@pytest.mark.parametrize("loss", [mmd, coral, lambda a, b: joint(a, b, b.softmax(1))])
def test_an_empty_domain_pulls_nothing(loss, counts):
    x, t = rows(counts[0], 1).requires_grad_(), rows(counts[1], 2).requires_grad_()
    value = loss(x, t)
    value.backward()
    assert value.item() == 0
    assert x.grad.abs().sum() == 0
    assert t.grad.abs().sum() == 0


def test_mmd_ranges_and_low_precision():
    assert mmd(X, X).item() == pytest.approx(0, abs=1e-12)
    assert mmd(X, X, estimator="unbiased").item() < 0
    far = mmd(X, X + 1e4, bandwidth=1.0).item()
    same = mmd(torch.zeros(N, D), torch.full((M, D), 1e4), bandwidth=1.0).item()
    assert 0 < far < same == pytest.approx(2 * len(SCALES))
    half = X.bfloat16()
    assert mmd(half, T.bfloat16()).dtype == torch.float32
    # An offset that float32 distances in Gram form would drown in.
    moved = mmd((X + 1000).float(), (T + 1000).float()).item()
    assert moved == pytest.approx(mmd(X, T).item(), rel=1e-3)


def test_coral_does_not_cancel_far_from_the_origin():
    moved = coral((X + 1000).float(), (T + 1000).float()).item()
    assert moved == pytest.approx(coral(X, T).item(), rel=1e-3)


def test_entropy_of_a_certain_row_is_zero_with_a_finite_gradient():
    x = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    value = entropy(x)
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(x.grad).all()
    assert entropy(torch.zeros(2, 4)).item() == pytest.approx(math.log(4))


def test_conditional_parts():
    p = X.softmax(1)
    outer = [[f * q for f in row for q in other] for row, other in zip(X, p, strict=True)]
    np.testing.assert_allclose(multilinear_map(X, p), outer)
    expected = [1 + math.exp(-slow_row_entropy(row)) for row in X.tolist()]
    np.testing.assert_allclose(certainty(X), expected)
    # The randomised map keeps inner products of the multilinear map on average.
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(2, D, 200_000, dtype=torch.float64, generator=g)
    small, full = randomized_map(X, p, maps=(maps[0], maps[1])), multilinear_map(X, p)
    np.testing.assert_allclose(small @ small.T, full @ full.T, atol=0.06)
    # Equal weights are no weights.
    d_s, d_t = X[:, 0], T[:, 0]
    equal = conditional_adversarial((d_s, torch.full((N,), 1.7)), (d_t, torch.ones(M)))
    assert equal.item() == pytest.approx(adversarial(d_s, d_t).item())

"""Clusters, matching, selection and moments of a spread data set, against plain loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tests.spawn import run_processes
from trainer.synchronised.clustering import distances, kmeans, log_odds, match_clusters, select
from trainer.synchronised.moments import class_moments, standardised

N, K, D = 23, 4, 5
# How many of the N rows each rank holds: uneven, and some none.
SPLITS = {1: [23], 2: [23, 0], 3: [4, 0, 19], 4: [1, 9, 0, 13]}


def rows(seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    """Rows around K far points, in mixed order."""
    g = torch.Generator().manual_seed(seed)
    points = 4 * torch.randn(K, D, dtype=torch.float64, generator=g)
    noise = spread * torch.randn(N, D, dtype=torch.float64, generator=g)
    return points[torch.arange(N) % K] + noise


def initial(seed: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(K, D, dtype=torch.float64, generator=g)


def mine(rank: int, world_size: int) -> slice:
    counts = SPLITS[world_size]
    return slice(sum(counts[:rank]), sum(counts[: rank + 1]))


def slow_kmeans(points, centers, iterations):
    centers = [list(c) for c in centers]
    for _ in range(iterations):
        members = [[] for _ in centers]
        for x in points:
            far = [math.dist(x, c) for c in centers]
            members[far.index(min(far))].append(x)
        for k, xs in enumerate(members):
            if xs:
                centers[k] = [sum(column) / len(xs) for column in zip(*xs, strict=True)]
    return centers


@pytest.mark.parametrize("iterations", [1, 2, 100])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kmeans_equals_plain_loops(seed, iterations):
    x, start = rows(seed, spread=3.0), initial(seed + 7)
    expected = slow_kmeans(x.tolist(), start.tolist(), min(iterations, 30))
    np.testing.assert_allclose(kmeans(x, start, iterations=iterations), expected, rtol=1e-12)


def test_an_emptied_cluster_keeps_its_center_and_ties_go_to_the_first():
    x = torch.tensor([[1.0], [10.0]])
    start = torch.tensor([[0.0], [2.0], [100.0], [11.0]])
    centers = kmeans(x, start, iterations=1)
    assert centers.tolist() == [[1.0], [2.0], [100.0], [10.0]]
    assert centers.dtype == torch.float64


def test_one_repeated_row_and_no_row_are_finite():
    same = torch.ones(6, D)
    assert torch.equal(kmeans(same, torch.ones(K, D)), torch.ones(K, D).double())
    assert torch.equal(kmeans(same[:0], initial()), initial())


def test_matching_is_the_best_of_all_permutations():
    for seed in range(5):
        centers, classes = initial(seed), initial(seed + 50)
        matched = match_clusters(centers, classes).tolist()
        cost = {
            p: sum(math.dist(classes[k], centers[c]) for k, c in enumerate(p))
            for p in itertools.permutations(range(K))
        }
        assert cost[tuple(matched)] == pytest.approx(min(cost.values()), rel=1e-12)
        assert sorted(matched) == list(range(K))


def test_log_odds_are_those_of_softmax_and_survive_where_it_rounds_to_one():
    scores = torch.randn(9, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, odds = log_odds(scores)
    for row, label, value in zip(scores.tolist(), labels.tolist(), odds.tolist(), strict=True):
        p = [math.exp(v) / sum(math.exp(u) for u in row) for v in row]
        assert label == p.index(max(p))
        assert value == pytest.approx(math.log(max(p) / (1 - max(p))), rel=1e-9)
    sure = torch.tensor([[50.0, 0.0], [60.0, 0.0]], dtype=torch.float64)
    assert sure.softmax(1)[:, 0].tolist() == [1.0, 1.0]
    assert log_odds(sure)[1].tolist() == [50.0, 60.0]
    assert log_odds(torch.zeros(2, 1))[1].tolist() == [math.inf] * 2
    assert log_odds(torch.zeros(1, 3))[0].tolist() == [0]


def slow_select(certainty, labels, samples, size, share):
    chosen = [-1] * size
    for k in set(labels):
        members = [(-c, s) for c, y, s in zip(certainty, labels, samples, strict=True) if y == k]
        count = max(1, len(members) * share[0] // share[1])
        for _, sample in sorted(members)[:count]:
            chosen[sample] = k
    return chosen


def scored(size: int = N) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Certainties with many ties, labels that leave out class 2, and shuffled places."""
    g = torch.Generator().manual_seed(3)
    certainty = torch.randint(0, 4, (size,), generator=g).double()
    labels = torch.tensor([0, 1, 1, 3])[torch.randint(0, 4, (size,), generator=g)]
    return certainty, labels, torch.randperm(size, generator=g)


@pytest.mark.parametrize("share", [(1, 20), (1, 5), (3, 5), (9, 10), (1, 1)])
def test_selection_equals_plain_loops(share):
    certainty, labels, samples = scored()
    chosen = select(certainty, labels, samples=samples, size=N, share=share, num_classes=K)
    lists = (certainty.tolist(), labels.tolist(), samples.tolist())
    assert chosen.tolist() == slow_select(*lists, N, share)


def test_the_share_is_taken_in_integers():
    """29 · 100 // 100 is 29, where int(0.29 · 100) is 28."""
    zeros = torch.zeros(100)
    chosen = select(
        zeros,
        zeros.long(),
        samples=torch.arange(100),
        size=100,
        share=(29, 100),
        num_classes=1,
    )
    assert chosen.tolist() == [0] * 29 + [-1] * 71


def slow_moments(points, labels, k):
    xs = [np.array(x) for x, y in zip(points, labels, strict=True) if y == k]
    if not xs:
        return 0, np.zeros(D), np.zeros((D, D))
    mean = sum(xs) / len(xs)
    return len(xs), mean, sum(np.outer(x - mean, x - mean) for x in xs) / len(xs)


def test_moments_equal_plain_loops():
    x = rows().float() + 100  # far from 0, where Σxxᵀ/n - μμᵀ would lose digits
    labels = torch.tensor([0] * 12 + [1] * 10 + [3])
    moments = class_moments(x, labels, num_classes=K)
    for k in range(K):
        count, mean, covariance = slow_moments(x.double().tolist(), labels.tolist(), k)
        assert moments.counts[k] == count
        np.testing.assert_allclose(moments.means[k], mean, rtol=1e-12, atol=0)
        np.testing.assert_allclose(moments.covariances[k], covariance, rtol=1e-10, atol=1e-12)
    assert moments.present.tolist() == [True, True, False, True]
    assert not moments.covariances[3].any(), "one row has no spread"
    assert torch.linalg.eigvalsh(moments.covariances).min() > -1e-12


def on_rank(rank: int, world_size: int):
    part = mine(rank, world_size)
    x, (certainty, labels, samples) = rows(spread=3.0), scored()
    centers = kmeans(x[part], initial())
    chosen = select(
        certainty[part],
        labels[part],
        samples=samples[part],
        size=N,
        share=(2, 5),
        num_classes=K,
    )
    moments = class_moments(x[part], labels[part], num_classes=K)
    return {
        "centers": centers.numpy(),
        "matched": match_clusters(centers, initial()).numpy(),
        "chosen": chosen.numpy(),
        "counts": moments.counts.numpy(),
        "means": moments.means.numpy(),
        "covariances": moments.covariances.numpy(),
    }


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_uneven_and_empty_ranks_give_the_one_process_results(world_size):
    expected = on_rank(0, 1)
    results = run_processes(on_rank, world_size)
    for result in results:
        for name, value in expected.items():
            np.testing.assert_allclose(result[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
            np.testing.assert_array_equal(result[name], results[0][name])


def test_distances_do_not_depend_on_the_other_rows():
    x, centers = rows().float(), initial().float()
    together = distances(x, centers)
    alone = torch.cat([distances(row[None], centers) for row in x])
    assert torch.equal(together, alone)
    assert together.dtype == torch.float64


def standardised_on_rank(rank: int, world_size: int, kind: str):
    return standardised(100 + rows()[mine(rank, world_size)], kind).numpy()


@pytest.mark.parametrize("kind", ["none", "center", "zscore"])
def test_standardised_rows_are_those_of_one_process(kind):
    x = 100 + rows().numpy()
    expected = {"none": x, "center": x - x.mean(0), "zscore": (x - x.mean(0)) / x.std(0)}[kind]
    for world_size in (1, 2, 3, 4):
        parts = run_processes(standardised_on_rank, world_size, kind)
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-10, atol=1e-12)


def test_a_constant_feature_becomes_zero():
    x = torch.full((3, 2), 0.1, dtype=torch.float64)
    assert standardised(x, "zscore").abs().max() == 0
    assert standardised(x[:0], "zscore").shape == (0, 2)

"""Even samples, t-SNE and the proxy A-distance."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from evalsuite.statistics.domain_distance import even_sample, proxy_a_distance, tsne


def test_even_sample_fills_small_classes_first() -> None:
    labels = ["big"] * 50 + ["middle"] * 6 + ["small"] * 2
    drawn = even_sample(labels, 14, seed=3)
    assert Counter(labels[row] for row in drawn) == {"big": 6, "middle": 6, "small": 2}
    assert np.array_equal(drawn, np.unique(drawn))
    assert drawn.dtype == np.int64


def test_even_sample_takes_all_when_there_are_few() -> None:
    assert even_sample(["a", "b", "a"], 10).tolist() == [0, 1, 2]


def test_even_sample_depends_on_the_seed_alone() -> None:
    labels = [f"class {row % 4}" for row in range(200)]
    assert np.array_equal(even_sample(labels, 20, seed=1), even_sample(labels, 20, seed=1))
    assert not np.array_equal(even_sample(labels, 20, seed=1), even_sample(labels, 20, seed=2))


def test_tsne_repeats_exactly_and_separates_clusters() -> None:
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 70) * 12, 20, axis=0)
    vectors = centres + random.normal(size=centres.shape) * 0.2
    points = tsne(vectors)
    assert points.shape == (60, 2)
    assert np.array_equal(points, tsne(vectors))
    cluster = np.repeat(np.arange(3), 20)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert np.array_equal(cluster[distance.argmin(axis=1)], cluster)


@pytest.mark.parametrize("vectors", [np.ones((3, 5)), np.ones((30, 5))])
def test_tsne_of_nothing_to_arrange_is_zero(vectors: np.ndarray) -> None:
    assert np.array_equal(tsne(vectors), np.zeros((len(vectors), 2)))


def test_tsne_of_one_dimension() -> None:
    assert np.isfinite(tsne(np.arange(20.0)[:, None])).all()


def test_a_distance_of_one_distribution_is_near_zero() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(size=(2, 400, 8))
    assert 0 <= proxy_a_distance(first, second) < 0.25
    assert 0 <= proxy_a_distance(first, first) < 0.25


def test_a_distance_of_separate_domains_is_near_two() -> None:
    random = np.random.default_rng(2)
    first, second = random.normal(size=(2, 200, 8))
    assert proxy_a_distance(first, second + 5) > 1.95


def test_a_distance_matches_the_best_linear_rule() -> None:
    """Two Gaussians d apart: the best rule errs with probability Phi(-d / 2)."""
    random = np.random.default_rng(3)
    first, second = random.normal(size=(2, 1000, 4))
    second[:, 0] += 1.5
    expected = 2 * (1 - 2 * 0.2266)
    assert proxy_a_distance(first, second) == pytest.approx(expected, abs=0.12)


def test_a_distance_is_measured_on_unseen_items() -> None:
    """With more dimensions than items any labelling is separable, but it does not generalise."""
    first, second = np.random.default_rng(4).normal(size=(2, 40, 500))
    assert proxy_a_distance(first, second) < 0.6


def test_a_distance_repeats_and_ignores_scale() -> None:
    random = np.random.default_rng(5)
    first, second = random.normal(size=(90, 6)), random.normal(size=(140, 6)) + 0.4
    value = proxy_a_distance(first, second, seed=8)
    assert value == proxy_a_distance(first, second, seed=8)
    assert value == pytest.approx(proxy_a_distance(first * 1e4, second * 1e4, seed=8), abs=0.05)


def test_a_distance_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match="needs 4 items"):
        proxy_a_distance(np.ones((3, 2)), np.ones((9, 2)))
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        proxy_a_distance(np.ones((9, 2)), np.ones((9, 3)))

"""Top-k agrees with a full stable sort of the canonical distances, ties and all."""

from __future__ import annotations

import numpy as np
import pytest

from evalsuite import Embeddings, EvaluationError, evaluate
from evalsuite.scoring.canonical_distances import distances, prepare_features, split_limbs
from evalsuite.search.exact import FlatIndex, SearchedGallery


def embeddings(vectors, prefix="g"):
    return Embeddings([f"{prefix}{i}" for i in range(len(vectors))], ["x"] * len(vectors), vectors)


def full_sort(gallery, queries, k, *, features, metric):
    q, g = (split_limbs(prepare_features(e.vectors, features)) for e in (queries, gallery))
    table = distances(q, g, metric=metric)
    order = np.argsort(table, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(table, order, axis=1)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("features", ["raw", "l2", "clamp-l2"])
@pytest.mark.parametrize("kind", ["spread", "duplicates", "constant", "zeros", "close"])
def test_top_k_is_the_stable_full_sort(kind, features, metric):
    rng = np.random.default_rng(0)
    g = rng.standard_normal((700, 12)).astype(np.float32)
    if kind == "duplicates":
        g = np.repeat(g[:7], 100, axis=0)[rng.permutation(700)]
    elif kind == "constant":
        g[:] = g[0]
    elif kind == "zeros":
        g[::2] = 0
    elif kind == "close":
        g = (100 + 1e-4 * g).astype(np.float32)
    gallery = embeddings(g)
    queries = embeddings(np.concatenate([g[:5], rng.standard_normal((20, 12))]), "q")
    index = FlatIndex(gallery, features=features, metric=metric)
    for k in (1, 10, 650, 700, 5000):
        found = index.search(queries, k)
        order, values = full_sort(gallery, queries, k, features=features, metric=metric)
        np.testing.assert_array_equal(found.indices, order)
        shown = values if metric == "euclidean" else (1.0 + values.astype(float)).astype(np.float32)
        np.testing.assert_array_equal(found.distances, shown)
        assert found.indices.shape == (25, min(k, 700))
        assert (found.indices >= 0).all()


def test_a_duplicate_of_the_query_has_distance_zero():
    vectors = np.random.default_rng(0).standard_normal((200, 64))
    found = FlatIndex(embeddings(vectors)).search(embeddings(vectors, "q"), 1)
    assert (found.distances == 0).all()
    assert found.indices[:, 0].tolist() == list(range(200))


def test_vectors_beyond_the_range_of_squared_float32_are_still_sorted():
    g = np.float32([[3e30, 0], [1e30, 0], [2e30, 0], [1e-30, 0]])
    found = FlatIndex(embeddings(np.tile(g, (50, 1)))).search(embeddings([[0.0, 0.0]], "q"), 120)
    assert (found.indices[0, :50] % 4 == 3).all()
    assert (found.indices[0, 50:100] % 4 == 1).all()


def test_the_first_neighbour_is_what_nn_scores():
    rng = np.random.default_rng(1)
    labels = [f"c{i % 3}" for i in range(60)]
    gallery = Embeddings([f"g{i}" for i in range(60)], labels, rng.integers(0, 3, (60, 3)))
    queries = Embeddings([f"q{i}" for i in range(30)], labels[:30], rng.integers(0, 3, (30, 3)))
    first = FlatIndex(gallery).search(queries, 1).indices[:, 0]
    hits = [labels[item] == label for item, label in zip(first, queries.labels, strict=True)]
    assert evaluate(queries, gallery).per_query["NN"].to_pylist() == [float(hit) for hit in hits]


def test_repeated_and_missing_candidates_do_not_count():
    gallery = SearchedGallery(embeddings(np.array([[0.0], [1.0], [1.0], [3.0]])))
    candidates = np.array([[2, -1, 2, 1, 2], [3, 3, 3, 3, 3], [-1, 0, -1, 3, -1], [-1] * 5])
    rows, numbers, full = gallery.rerank(split_limbs(np.zeros((4, 1), np.float32)), candidates, 2)
    assert full.tolist() == [True, False, True, False]
    assert rows[full].tolist() == [[1, 2], [0, 3]]
    assert numbers[full].tolist() == [[1, 1], [0, 3]]


def test_bad_requests():
    gallery = embeddings(np.eye(3))
    index = FlatIndex(gallery)
    assert len(index) == 3
    with pytest.raises(EvaluationError, match="k=0"):
        index.search(gallery, 0)
    with pytest.raises(EvaluationError, match="components"):
        index.search(embeddings(np.eye(2)), 1)
    with pytest.raises(EvaluationError, match="'g1'"):
        index.search(embeddings([[1, 0, 0], [np.nan, 0, 0]]), 1)
    with pytest.raises(EvaluationError, match="'g0'"):
        FlatIndex(embeddings([[np.inf, 0]]))
    with pytest.raises(EvaluationError, match="metric='dot'"):
        FlatIndex(gallery, metric="dot")

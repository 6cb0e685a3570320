"""Tiles: the same bits wherever a pair stands, near the true distances, and honest refusals."""

from __future__ import annotations

import numpy as np
import pytest

from evalsuite import Embeddings, EvaluationError, evaluate, evaluate_distances
from evalsuite.scoring import arithmetic as arithmetic_module
from evalsuite.scoring.arithmetic import PRODUCT, arithmetic, like_places


def vectors(rows: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def whole(name: str, metric: str, q: np.ndarray, g: np.ndarray) -> np.ndarray:
    """All compared numbers [Q, G], tile by tile from the first item on."""
    used = arithmetic(name, metric, width=q.shape[1])
    kept, parts = used.keep(g), []
    for first in range(0, len(q), used.query_tile):
        queries = used.queries(q[first : first + used.query_tile])
        row = []
        for at in range(0, len(g), used.item_tile):
            items = used.items(kept, slice(at, at + used.item_tile))
            row.append(used.tile(queries, items)[:, used.places(items)])
        parts.append(np.concatenate(row, axis=1))
    return np.concatenate(parts)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", ["exact", "float32"])
@pytest.mark.parametrize("width", [1, 7, 256])
def test_a_pair_has_the_same_bits_in_every_place(name, metric, width):
    q, g = vectors(101, width, 0), vectors(4500, width, 1)
    wanted = whole(name, metric, q, g)
    random = np.random.default_rng(2)
    for _ in range(3):
        i, j = random.permutation(101), random.permutation(4500)
        np.testing.assert_array_equal(whole(name, metric, q[i], g[j]), wanted[i][:, j])
    used = arithmetic(name, metric, width=width)
    rows = np.array([4499, 3, 17, 0, 4200])
    items = used.items(used.keep(g), rows)
    tile = used.tile(used.queries(q[5:9]), items)[:, used.places(items)]
    np.testing.assert_array_equal(tile, wanted[5:9][:, rows])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("width", [1, 5, 300])
def test_float32_orders_as_the_true_distances_up_to_its_rounding(metric, width):
    q, g = vectors(20, width, 3), vectors(90, width, 4)
    found = whole("float32", metric, q, g).astype(np.float64)
    a, b = q.astype(np.float64), g.astype(np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(found, -(a @ b.T) / norms, atol=1e-6)
    else:
        found += (a**2).sum(axis=1)[:, None]
        true = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        np.testing.assert_allclose(found, true, atol=1e-6 * true.max())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("ties", ["index", "expected"])
def test_metrics_are_those_of_the_float32_matrix(metric, ties):
    """Given the same distances: through shards and counts as through the matrix."""
    random = np.random.default_rng(5)
    q, g = random.integers(-2, 3, (70, 4)), random.integers(-2, 3, (600, 4))
    labels = [f"c{c}" for c in random.integers(0, 9, 70)]
    gallery = [f"c{c}" for c in random.integers(0, 8, 600)]
    queries = Embeddings([f"q{i}" for i in range(70)], labels, q)
    items = Embeddings([f"g{i}" for i in range(600)], gallery, g)
    matrix = whole("float32", metric, queries.vectors, items.vectors)
    wanted = evaluate_distances(matrix, labels, gallery, ties=ties)
    found = evaluate(queries, items, metric=metric, ties=ties, arithmetic="float32", shards=3)
    assert wanted.ties.pairs > 0
    assert found.variants == wanted.variants
    np.testing.assert_array_equal(found.curve_hits, wanted.curve_hits)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_rows_that_are_not_finite_are_marked_alike(metric):
    q, g = vectors(6, 3, 6), vectors(600, 3, 7)
    q[1, 0], q[2, 1], g[5, 2], g[550, 0], g[7] = np.nan, np.inf, np.nan, -np.inf, 0.0
    exact, fast = (whole(name, metric, q, g) for name in ("exact", "float32"))
    np.testing.assert_array_equal(np.isnan(fast), np.isnan(exact))
    np.testing.assert_array_equal(np.isinf(fast), np.isinf(exact))


def test_vectors_beyond_float32_are_refused_not_misplaced():
    long = np.full((3, 4), 1e19, dtype=np.float32)
    used = arithmetic("float32", "euclidean", width=4)
    with pytest.raises(EvaluationError, match="arithmetic='exact'"):
        used.keep(long)
    with pytest.raises(EvaluationError, match="arithmetic='exact'"):
        used.queries(long)
    assert np.isfinite(whole("float32", "cosine", long, long)).all()


class Edgy:
    """NumPy with a matrix product whose edges are added in another order."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    def __getattr__(self, name):
        return getattr(np, name)

    def matmul(self, a, b, *, out):
        np.matmul(a, b, out=out)
        out[:, : self.columns] = np.float32(1.0000002) * out[:, : self.columns]


def test_places_that_round_otherwise_are_not_used(monkeypatch):
    like_places.cache_clear()
    monkeypatch.setattr(arithmetic_module, "np", Edgy(100))
    rows, columns = like_places(9)
    assert len(rows) > 0
    assert columns.min() >= 100
    like_places.cache_clear()


def test_a_library_that_rounds_by_place_everywhere_is_refused(monkeypatch):
    class Unruly(Edgy):
        def matmul(self, a, b, *, out):
            out[:] = np.arange(PRODUCT[0] * PRODUCT[1]).reshape(PRODUCT)

    like_places.cache_clear()
    monkeypatch.setattr(arithmetic_module, "np", Unruly(0))
    with pytest.raises(EvaluationError, match="arithmetic='exact'"):
        arithmetic("float32", "euclidean", width=8)
    like_places.cache_clear()


def test_unknown_choices_name_the_option():
    with pytest.raises(EvaluationError, match="arithmetic='fp8'"):
        arithmetic("fp8", "euclidean", width=8)
    with pytest.raises(EvaluationError, match="metric='manhattan'"):
        arithmetic("exact", "manhattan", width=8)

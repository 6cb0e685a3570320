"""Indexes of every kind: canonical answers, enough of them, and refusals with a remedy."""

from __future__ import annotations

import numpy as np
import pytest

from evalsuite.scoring.canonical_distances import distances, prepare_features, split_limbs
from evalsuite.scoring.evaluation import evaluate
from evalsuite.search.index_parameters import KINDS, PARAMETERS, choose_parameters
from evalsuite.search.indexes import build_index
from evalsuite.vectors.embeddings import Embeddings, EvaluationError

APPROXIMATE = [kind for kind in KINDS if kind != "flat"]


def clusters(count, prefix, *, width=30, classes=8, seed=1):
    """Points of eight classes with four clusters each."""
    centres = np.random.default_rng(0).standard_normal((4 * classes, width)) * 3
    rng = np.random.default_rng(seed)
    which = rng.integers(0, len(centres), count)
    vectors = centres[which] + rng.standard_normal((count, width))
    labels = [f"class-{cluster // 4}" for cluster in which]
    return Embeddings([f"{prefix}{i}" for i in range(count)], labels, vectors)


@pytest.fixture(scope="module")
def gallery():
    return clusters(1500, "g")


@pytest.fixture(scope="module")
def queries():
    return clusters(40, "q", seed=2)


def compared(queries, gallery, *, features="raw", metric="euclidean"):
    q, g = (split_limbs(prepare_features(e.vectors, features)) for e in (queries, gallery))
    return distances(q, g, metric=metric)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("features", ["raw", "clamp-l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_true_distances_in_canonical_order(kind, features, metric, gallery, queries):
    index = build_index(gallery, kind, features=features, metric=metric)
    found = index.search(queries, 10)
    table = compared(queries, gallery, features=features, metric=metric)
    values = np.take_along_axis(table, found.indices, axis=1)
    shown = values if metric == "euclidean" else (1.0 + values.astype(float)).astype(np.float32)
    np.testing.assert_array_equal(found.distances, shown)
    for rows, numbers in zip(found.indices, values, strict=True):
        assert len(set(rows.tolist())) == 10
        assert sorted(zip(numbers.tolist(), rows.tolist(), strict=True)) == list(
            zip(numbers.tolist(), rows.tolist(), strict=True)
        )
    exact = np.sort(table, axis=1)[:, 9:10]
    assert (values <= exact).mean() >= (1.0 if kind == "flat" else 0.9)


@pytest.mark.parametrize("kind", KINDS)
def test_duplicates_come_in_gallery_order_and_the_first_is_what_nn_scores(kind):
    unique = clusters(200, "u", width=8)
    order = np.random.default_rng(3).permutation(800) % 200
    labels = [f"class-{i % 5}" for i in range(800)]
    gallery = Embeddings([f"g{i}" for i in range(800)], labels, unique.vectors[order])
    queries = Embeddings([f"q{i}" for i in range(200)], labels[:200], unique.vectors)
    everything = {"ivf": {"nprobe": 20}, "ivfpq": {"nprobe": 20, "subspaces": 8}}
    found = build_index(gallery, kind, parameters=everything.get(kind)).search(queries, 4)
    assert (found.distances == 0).all()
    for query, rows in enumerate(found.indices):
        assert rows.tolist() == np.flatnonzero(order == query).tolist()
    hits = [gallery.labels[r] == queries.labels[q] for q, r in enumerate(found.indices[:, 0])]
    assert evaluate(queries, gallery).per_query["NN"].to_pylist() == [float(hit) for hit in hits]


@pytest.mark.parametrize("k", [1, 700, 1500, 9999])
@pytest.mark.parametrize("kind", KINDS)
def test_k_answers_whatever_the_index_found(kind, k, gallery, queries):
    narrow = {
        "ivf": {"nlist": 38, "nprobe": 1},
        "hnsw": {"links": 2, "ef_construction": 2, "ef_search": 1},
        "ivfpq": {"nlist": 38, "nprobe": 1, "subspaces": 2, "bits": 4},
    }
    found = build_index(gallery, kind, parameters=narrow.get(kind)).search(queries, k)
    assert found.indices.shape == (40, min(k, 1500))
    assert found.indices.min() >= 0
    assert all(len(set(rows)) == len(rows) for rows in found.indices.tolist())
    assert np.isfinite(found.distances).all()
    if kind.startswith("ivf"):
        assert found.widened == (40 if k > 1 else 0)
    if k >= 1500:
        table = compared(queries, gallery)
        np.testing.assert_array_equal(found.indices, np.argsort(table, axis=1, kind="stable"))


def test_an_index_that_finds_nothing_still_answers(gallery, queries, monkeypatch):
    index = build_index(gallery, "ivf")
    nothing = np.full((len(queries), 52), -1)
    monkeypatch.setattr(
        index.searcher, "propose", lambda asked, count, **_: (None, nothing[: len(asked)])
    )
    expected = build_index(gallery).search(queries, 10)
    found = index.search(queries, 10)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)
    assert found.widened == len(queries)


@pytest.mark.parametrize("kind", ["ivf", "ivfpq"])
def test_the_seed_decides_the_training(kind, gallery, queries):
    def cells(seed):
        index = build_index(gallery, kind, parameters={"seed": seed}).searcher.index
        return index.quantizer.reconstruct_n(0, index.nlist)

    np.testing.assert_array_equal(cells(1), cells(1))
    assert not np.array_equal(cells(1), cells(2))


def test_codes_of_a_width_that_does_not_divide(queries, gallery):
    index = build_index(gallery, "ivfpq", parameters={"subspaces": 7})
    assert index.searcher.index.d == 35
    exact = build_index(gallery).search(queries, 5).distances[:, -1:]
    assert (index.search(queries, 5).distances <= exact).mean() > 0.9


@pytest.mark.parametrize(("items", "width"), [(78, 1), (3848, 256), (10**6, 256), (10**9, 2048)])
def test_defaults_suit_the_size(items, width):
    for kind in KINDS:
        if kind == "ivfpq" and items < 624:
            continue
        chosen = choose_parameters(kind, items=items, width=width)
        assert tuple(chosen) == PARAMETERS[kind]
        if "nlist" in chosen:
            assert 39 * chosen["nlist"] <= items
            assert 1 <= chosen["nprobe"] <= chosen["nlist"]
        if "bits" in chosen:
            assert 39 << chosen["bits"] <= items
            assert chosen["bits"] <= 8


@pytest.mark.parametrize(
    ("kind", "items", "given", "told"),
    [
        ("ivf", 77, {}, "78 items"),
        ("ivfpq", 623, {}, "flat or hnsw"),
        ("lsh", 1000, {}, "flat, ivf, hnsw, ivfpq"),
        ("flat", 1000, {"nlist": 4}, "no parameters"),
        ("hnsw", 1000, {"nprobe": 4}, "links"),
        ("ivf", 1000, {"nlist": 1001}, "1 to 1000"),
        ("ivf", 1000, {"nlist": 0}, "nlist=0"),
        ("ivf", 1000, {"nlist": 10, "nprobe": 11}, "nlist"),
        ("ivfpq", 1000, {"subspaces": 31}, "1 to 30"),
        ("ivfpq", 1000, {"bits": 10}, "bits=10"),
        ("hnsw", 1000, {"links": 1}, "links=1"),
    ],
)
def test_what_cannot_be_built_is_refused(kind, items, given, told):
    with pytest.raises(EvaluationError, match=told):
        choose_parameters(kind, items=items, width=30, given=given)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_vectors_that_overflow_are_refused_before_faiss_ends_the_process(kind, gallery):
    long = Embeddings(gallery.keys, gallery.labels, gallery.vectors * 1e20)
    with pytest.raises(EvaluationError, match="features l2"):
        build_index(long, kind)
    build_index(long, kind, features="l2")


@pytest.mark.parametrize("kind", KINDS)
def test_bad_requests(kind, gallery):
    index = build_index(gallery, kind)
    with pytest.raises(EvaluationError, match="k=0"):
        index.search(gallery, 0)
    with pytest.raises(EvaluationError, match="components"):
        index.search(clusters(3, "q", width=4), 1)
    with pytest.raises(EvaluationError, match="'q0'"):
        index.search(Embeddings(["q0"], ["x"], np.full((1, 30), np.nan)), 1)

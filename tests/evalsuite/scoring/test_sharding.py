"""The same bits for every split of the gallery and of the queries."""

from __future__ import annotations

import importlib
import json
import pickle

import numpy as np
import pytest

from evalsuite import (
    Embeddings,
    EvaluationError,
    GalleryShard,
    InProcess,
    evaluate,
    partition,
    split_gallery,
)
from evalsuite.scoring import arithmetic as arithmetic_module
from evalsuite.scoring.arithmetic import like_places


def problem(*, width: int, items: int, queries: int = 41, classes: int = 5, seed: int = 0):
    """Duplicates on purpose: within a class, across classes, of queries, and constant rows."""
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((items, width)).astype(np.float32)
    g[rng.integers(0, items, items // 3)] = g[rng.integers(0, items, items // 3)]
    q = rng.standard_normal((queries, width)).astype(np.float32)
    q[::7] = g[rng.integers(0, items, len(q[::7]))]
    gallery_labels = [f"c{c}" for c in rng.integers(0, classes, items)]
    query_labels = [f"c{c}" for c in rng.integers(0, classes + 1, queries)]
    query_labels[0] = gallery_labels[0]
    return (
        Embeddings([f"q{i}" for i in range(queries)], query_labels, q),
        Embeddings([f"g{i}" for i in range(items)], gallery_labels, g),
    )


def fingerprint(result) -> tuple:
    return json.dumps(result.to_json()), result.per_query.to_pydict()


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ["exact", "float32"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("width", "items"), [(1, 9), (3, 61), (128, 130), (256, 4700)])
def test_bit_identical_for_any_shards_query_block_and_tiles(
    monkeypatch, width, items, metric, arithmetic
):
    queries, gallery = problem(width=width, items=items)
    chosen = {"metric": metric, "arithmetic": arithmetic}
    wanted = evaluate(queries, gallery, **chosen)
    assert wanted.ties.pairs > 0
    options = [(1, 1), (2, 7), (3, 1024), (8, 5), (min(items, 61) + 4, 41)]
    for shards, block in options:
        found = evaluate(queries, gallery, shards=shards, query_block=block, **chosen)
        assert fingerprint(found) == fingerprint(wanted)
    if arithmetic == "exact":
        monkeypatch.setattr(arithmetic_module._Exact, "query_tile", 3)
        monkeypatch.setattr(arithmetic_module._Exact, "item_tile", 10)
    else:
        monkeypatch.setattr(arithmetic_module, "PRODUCT", (12, 96))
        monkeypatch.setattr(arithmetic_module, "ITEM_TILE", 192)
        like_places.cache_clear()
    found = evaluate(queries, gallery, shards=2, query_block=17, **chosen)
    again = evaluate(queries, gallery, shards=3, query_block=8, **chosen)
    assert fingerprint(again) == fingerprint(found)
    if arithmetic == "exact":  # in float32 another shape of product may round otherwise
        assert fingerprint(found) == fingerprint(wanted)
    like_places.cache_clear()


@pytest.mark.parametrize(
    "options", [{"ties": "expected"}, {"protocol": "shrec"}, {"features": "l2"}]
)
def test_bit_identical_under_other_options(options):
    queries, gallery = problem(width=4, items=90, seed=3)
    wanted = fingerprint(evaluate(queries, gallery, **options))
    for shards, block in [(2, 3), (8, 40)]:
        found = evaluate(queries, gallery, shards=shards, query_block=block, **options)
        assert fingerprint(found) == wanted


def test_bit_identical_with_nan_rows_ranked_last():
    queries, gallery = problem(width=3, items=40)
    gallery.vectors[::9] = np.nan
    queries.vectors[5, 1] = np.nan
    gallery.vectors[3, 0] = np.inf
    wanted = evaluate(queries, gallery, nan_policy="last")
    found = evaluate(queries, gallery, nan_policy="last", shards=4, query_block=6)
    assert fingerprint(found) == fingerprint(wanted)


def test_blocks_are_cut_by_relevant_pairs_too(monkeypatch):
    queries, gallery = problem(width=8, items=120)
    wanted = fingerprint(evaluate(queries, gallery))
    done = []
    module = importlib.import_module(
        "evalsuite.scoring.evaluation"
    )  # the package's name is the function
    monkeypatch.setattr(module, "PAIRS_IN_A_BLOCK", 50)
    found = evaluate(queries, gallery, progress=lambda d, n: done.append((d, n)))
    assert fingerprint(found) == wanted
    assert len(done) > 10
    assert done == sorted(done)
    assert done[-1] == (found.n_evaluated, found.n_evaluated)


class Remote:
    """What another process sees: everything pickled on the way in and out."""

    def __init__(self, shards):
        self.shards = shards

    def broadcast(self, method, *args):
        for arg in args:
            assert isinstance(arg, np.ndarray)
            assert arg.dtype != object
        sent = pickle.dumps(args)
        return [
            pickle.loads(pickle.dumps(getattr(shard, method)(*pickle.loads(sent))))
            for shard in self.shards
        ]


def test_any_transport_and_any_assignment_of_items_to_shards():
    queries, gallery = problem(width=16, items=70)
    wanted = fingerprint(evaluate(queries, gallery))
    rows = np.random.default_rng(1).permutation(70)
    labels = np.array(gallery.labels)
    shards = [
        GalleryShard(gallery.vectors[part], labels[part].tolist(), part)
        for part in np.array_split(rows, 5)
    ]
    assert fingerprint(evaluate(queries, gallery, transport=Remote(shards))) == wanted
    assert fingerprint(evaluate(queries, None, transport=Remote(shards))) == wanted


def test_counts_are_additive_and_nothing_of_size_queries_by_gallery_is_returned():
    queries, gallery = problem(width=4, items=100)
    labels = np.array(queries.labels)
    for shards in (1, 4):
        transport = InProcess(split_gallery(gallery, shards))
        parts = transport.broadcast("relevant", queries.vectors, labels)
        counts = np.sum([part[0] for part in parts], axis=0)
        assert counts.tolist() == [gallery.labels.count(label) for label in labels]
        assert sum(len(part[1]) for part in parts) == counts.sum()


def test_partition_groups_labels_and_covers_every_row_once():
    labels = ["b", "a", "c", "a", "b", "a", "c"]
    for shards in (1, 2, 3, 7, 10):
        parts = partition(labels, shards)
        assert len(parts) == shards
        assert sorted(np.concatenate(parts).tolist()) == list(range(7))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        shown = [sorted({labels[row] for row in part}) for part in parts if len(part)]
        assert shown == sorted(shown)
    with pytest.raises(EvaluationError, match="shards=0"):
        partition(labels, 0)


def test_shards_that_do_not_fit_are_refused():
    queries, gallery = problem(width=4, items=30)
    built = split_gallery(gallery, 2, features="l2")
    with pytest.raises(EvaluationError, match="features='l2'"):
        evaluate(queries, gallery, transport=InProcess(built))
    twice = split_gallery(gallery, 1) * 2
    with pytest.raises(EvaluationError, match="same index"):
        evaluate(queries, gallery, transport=InProcess(twice))
    with pytest.raises(EvaluationError, match="15 items, the gallery has 30"):
        evaluate(queries, gallery, transport=InProcess(split_gallery(gallery, 2)[:1]))
    with pytest.raises(EvaluationError, match="transport"):
        evaluate(queries, None)
    gallery.vectors[4] = np.nan
    with pytest.raises(EvaluationError, match=r"\[4\]"):
        evaluate(queries, None, transport=InProcess(split_gallery(gallery, 3)))

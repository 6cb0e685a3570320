"""Queries that are items of the gallery: left out of their own ranking, and warned of."""

from __future__ import annotations

import numpy as np
import pytest

from evalsuite import Embeddings, EvaluationError, evaluate
from evalsuite.scoring import own_items, require_own_items

# Not ANMRR: its window depends on the largest class, which is smaller by one for all queries here.
COLUMNS = ("NN", "FT", "ST", "E", "DCG", "AP", "n_relevant")


def items(count: int = 40, *, ties: bool = False, seed: int = 0) -> Embeddings:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (count, 3)) if ties else rng.normal(size=(count, 3))
    labels = [("chair", "sofa", "bed", "lamp")[k] for k in rng.permutation(np.arange(count) % 4)]
    return Embeddings([f"i{k}" for k in range(count)], labels, vectors.astype(np.float32))


def some(held: Embeddings, rows) -> Embeddings:
    return Embeddings(
        [held.keys[r] for r in rows], [held.labels[r] for r in rows], held.vectors[rows]
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rule", ["index", "expected"])
@pytest.mark.parametrize("shards", [1, 3])
def test_each_query_is_scored_against_all_others(ties, rule, shards):
    gallery = items(ties=ties)
    queries = some(gallery, np.random.default_rng(1).permutation(len(gallery)))
    own = own_items(queries, gallery)
    together = evaluate(queries, gallery, own=own, ties=rule, shards=shards, query_block=7)
    assert together.n_gallery == len(gallery) - 1
    rows = together.per_query.to_pylist()
    for number, at in enumerate(own.tolist()):
        others = some(gallery, np.delete(np.arange(len(gallery)), at))
        alone = evaluate(some(queries, [number]), others, ties=rule).per_query.to_pylist()[0]
        assert {c: rows[number][c] for c in COLUMNS} == pytest.approx(
            {c: alone[c] for c in COLUMNS}
        )


def test_a_query_without_a_finite_vector_is_left_out_too():
    gallery = items()
    gallery.vectors[5] = np.nan
    own = own_items(gallery, gallery)
    together = evaluate(gallery, gallery, own=own, nan_policy="last")
    others = some(gallery, np.delete(np.arange(len(gallery)), 7))
    alone = evaluate(some(gallery, [7]), others, nan_policy="last")
    row, expected = together.per_query.to_pylist()[7], alone.per_query.to_pylist()[0]
    assert {c: row[c] for c in COLUMNS} == pytest.approx({c: expected[c] for c in COLUMNS})


def test_the_only_item_of_a_class_is_left_out_with_a_warning():
    gallery = Embeddings(["a", "b", "c"], ["x", "x", "y"], np.eye(3))
    result = evaluate(gallery, gallery, own=own_items(gallery, gallery))
    assert (result.n_evaluated, result.missing_labels) == (2, ("y",))
    assert result.warnings[1] == "1 queries left out: no gallery item of class 'y'"


def test_own_items_must_be_there_in_the_same_class():
    gallery = items()
    queries = some(gallery, [3, 4])
    require_own_items(queries, gallery, own_items(queries, gallery))
    stranger = Embeddings(["i3", "new"], queries.labels, queries.vectors)
    with pytest.raises(EvaluationError, match=r"1 of 2 queries are not in the gallery .*'new'"):
        require_own_items(stranger, gallery, own_items(stranger, gallery))
    other = Embeddings(["i3", "i4"], ["stool", "stool"], queries.vectors)
    with pytest.raises(EvaluationError, match="'i3' is of class 'stool' among the queries"):
        require_own_items(other, gallery, own_items(other, gallery))


def test_one_vector_for_all_is_warned_of():
    gallery, zero = items(), np.zeros((6, 3), np.float32)
    queries = Embeddings(list("abcdef"), ["chair", "sofa"] * 3, zero)
    found = evaluate(queries, gallery).warnings
    assert (
        "all 6 queries have one and the same vector (zero): the network has collapsed or was not "
        "loaded"
    ) in found
    queries = Embeddings(list("abcdef"), ["chair", "sofa"] * 3, zero + 2)
    found = evaluate(gallery, queries).warnings
    assert any(w.startswith("all 6 gallery items have one and the same vector:") for w in found)
    one = Embeddings(["a"], ["chair"], zero[:1])
    assert not any("one and the same" in w for w in evaluate(one, gallery).warnings)


def test_missing_classes_are_named_with_the_nearest():
    gallery = Embeddings(list("abcd"), ["chair", "sofa", "", "bed"], np.eye(4))
    labels = ["chair", "Sofa", "sofa ", "zebra", "", " "]
    queries = Embeddings([f"q{k}" for k in range(6)], labels, np.ones((6, 4)))
    result = evaluate(queries, gallery)
    assert result.n_evaluated == 1
    assert list(result.warnings[-3:-1]) == [
        "2 queries left out: their label is empty",
        "3 queries left out: no gallery item of class 'Sofa', 'sofa ' (did you mean 'sofa'?), "
        "'zebra'",
    ]
    with pytest.raises(EvaluationError, match=r"'Sofa', 'sofa ' \(did you mean 'sofa'\?\)"):
        evaluate(queries, gallery, on_missing="error")
    many = Embeddings([f"q{k}" for k in range(9)], ["bed", *"stuvwxyz"], np.ones((9, 4)))
    assert any(w.endswith("and 3 more") for w in evaluate(many, gallery).warnings)

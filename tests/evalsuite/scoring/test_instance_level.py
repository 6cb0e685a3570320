"""The rank of a query's own object: against sorting the whole gallery, and for any sharding."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from evalsuite import (
    Embeddings,
    EvaluationError,
    GalleryShard,
    InProcess,
    evaluate_instance_arrays,
    evaluate_instances,
    instance_intervals,
)
from evalsuite.scoring import INSTANCE_METRICS
from evalsuite.statistics import resampling
from evalsuite.statistics.resampling import query_weights

RULES = ("index", "optimistic", "pessimistic", "expected")


def problem(seed: int = 0, *, queries: int = 37, items: int = 29, grid: int = 3, width: int = 2):
    """Points on a coarse grid, so that distances tie; objects with 0 to 4 shapes; none named."""
    random = np.random.default_rng(seed)
    vectors = [random.integers(0, grid, (n, width)).astype(np.float32) for n in (queries, items)]
    names = [
        [f"object-{k}" if k else "" for k in random.integers(0, 12, n)] for n in (queries, items)
    ]
    names[0][:3] = ["object-1", "nowhere", ""]
    names[1][0] = "object-1"
    return tuple(
        Embeddings([f"{side}{k}" for k in range(len(v))], ["c"] * len(v), v, instances=n)
        for side, v, n in zip("qg", vectors, names, strict=True)
    )


def whole_matrix(queries: Embeddings, gallery: Embeddings) -> np.ndarray:
    """Squared Euclidean distances [Q, G], exact for small whole numbers."""
    gaps = queries.vectors[:, None].astype(np.float64) - gallery.vectors[None]
    return (gaps**2).sum(axis=2)


def orders(distances: np.ndarray, right: np.ndarray, ties: str):
    """Every order of the gallery that a tie rule allows, as (probability, best right rank)."""
    items = np.arange(len(distances))
    if ties == "expected":
        level = distances == distances[right].min()
        before, group = int((distances < distances[right].min()).sum()), int(level.sum())
        places = itertools.combinations(range(group), int((level & right).sum()))
        chosen = list(places)
        for places in chosen:
            yield 1 / len(chosen), before + 1 + places[0]
        return
    within = {"index": items, "optimistic": ~right, "pessimistic": right}[ties]
    order = np.lexsort((items, within, distances))
    yield 1.0, 1 + int(right[order].argmax())


def slow(queries: Embeddings, gallery: Embeddings, ties: str) -> dict[str, float]:
    """All metrics by sorting every row of the distance matrix."""
    distances = whole_matrix(queries, gallery)
    held = np.array(gallery.instances)
    found: list[list[tuple[float, int]]] = []
    for row, name in enumerate(queries.instances):
        right = held == name
        if name and right.any():
            found.append(list(orders(distances[row], right, ties)))
    result = {
        f"R@{k}": sum(p for one in found for p, rank in one if rank <= k) / len(found)
        for k in (1, 5, 10)
    }
    result["MRR"] = sum(p / rank for one in found for p, rank in one) / len(found)
    ranks = sorted(sum(p * rank for p, rank in one) for one in found)
    half = len(ranks) // 2
    result["median_rank"] = ranks[half] if len(ranks) % 2 else (ranks[half - 1] + ranks[half]) / 2
    return result


def everything(result) -> str:
    columns = {name: column.tolist() for name, column in result.values.items()}
    return json.dumps([result.to_json(), result.ranks.tolist(), columns, result.keys])


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_equals_sorting_the_whole_distance_matrix(seed):
    queries, gallery = problem(seed)
    found = {
        ties: evaluate_instances(queries, gallery, ties=ties) for ties in ("index", "expected")
    }
    known = set(gallery.instances) - {""}
    named = [name for name in queries.instances if name]
    assert found["index"].n_evaluated == sum(name in known for name in named)
    assert found["index"].n_missing == sum(name not in known for name in named) > 0
    assert found["index"].n_unnamed == queries.instances.count("") > 0
    assert found["index"].ties.pairs > 0
    for ties in RULES:
        values = slow(queries, gallery, ties)
        assert set(values) == set(INSTANCE_METRICS)
        if ties in found:
            assert found[ties].headline == pytest.approx(values)
            assert list(found[ties].headline) == list(INSTANCE_METRICS)
        for other, result in found.items():
            if other != ties:
                assert result.ties.headlines[ties] == pytest.approx(values)


@pytest.mark.parametrize("arithmetic", ["exact", "float32"])
@pytest.mark.parametrize("seed", range(2))
def test_any_cut_of_the_gallery_gives_the_same_bits(seed, arithmetic):
    queries, gallery = problem(seed, queries=150, items=61, width=5)
    wanted = everything(evaluate_instances(queries, gallery, arithmetic=arithmetic))
    random = np.random.default_rng(seed)
    for parts in (1, 2, 3, 4):
        cuts = np.sort(random.integers(0, len(gallery) + 1, parts - 1))
        cuts[: parts // 3] = 0  # an empty part
        shards = [
            GalleryShard(
                gallery.vectors[rows],
                [gallery.labels[row] for row in rows],
                rows,
                instances=[gallery.instances[row] for row in rows],
                arithmetic=arithmetic,
            )
            for rows in np.split(random.permutation(len(gallery)), cuts)
        ]
        for block in (1, 7, 1024):
            result = evaluate_instances(
                queries, None, transport=InProcess(shards), query_block=block, arithmetic=arithmetic
            )
            assert everything(result) == wanted
    again = evaluate_instances(queries, gallery, shards=3, query_block=16, arithmetic=arithmetic)
    assert everything(again) == wanted


def test_many_objects_with_one_shape_each_fill_tiles_across_names():
    """Distances of a tile of many names are those of each pair by itself."""
    random = np.random.default_rng(3)
    g = random.standard_normal((500, 16)).astype(np.float32)
    q = (g + random.standard_normal(g.shape) / 2).astype(np.float32)
    order = random.permutation(500)
    names = [str(k) for k in range(500)]
    result = evaluate_instance_arrays(q[order], [names[k] for k in order], g, names)
    gaps = ((q[order][:, None].astype(np.float64) - g[None]) ** 2).sum(axis=2)
    own = gaps[np.arange(500), order]
    assert result.ranks.tolist() == (1 + (gaps < own[:, None]).sum(axis=1)).tolist()
    assert result.ranks.max() > 1


def test_of_several_right_shapes_the_best_rank_counts():
    gallery = np.array([[1.0], [2.0], [3.0], [4.0]])
    result = evaluate_instance_arrays([[0.0], [5.0]], ["b", "b"], gallery, ["a", "b", "c", "b"])
    assert result.ranks.tolist() == [2.0, 1.0]
    assert result.headline["R@1"] == 0.5
    assert result.headline["median_rank"] == 1.5


def test_one_query_and_one_shape():
    result = evaluate_instance_arrays([[0.0]], ["a"], [[7.0]], ["a"])
    assert set(result.headline.values()) == {1.0}
    found = instance_intervals(result, resamples=10)
    assert all((one.low, one.high) == (1.0, 1.0) for one in found.values())


def test_all_equally_far():
    """Rank k is the k-th shape's by gallery order; on average over orders it is (G + 1) / 2."""
    names = [f"o{k}" for k in range(8)]
    arrays = np.zeros((8, 3)), names, np.zeros((8, 3)), names
    result = evaluate_instance_arrays(*arrays)
    assert result.ranks.tolist() == list(range(1, 9))
    assert (result.ties.pairs, result.ties.share) == (8, 1.0)
    assert result.ties.headlines["optimistic"]["R@1"] == 1.0
    assert result.ties.headlines["pessimistic"]["R@5"] == 0.0
    expected = evaluate_instance_arrays(*arrays, ties="expected").headline
    harmonic = sum(1 / k for k in range(1, 9)) / 8
    assert expected == pytest.approx(
        {"R@1": 1 / 8, "R@5": 5 / 8, "R@10": 1.0, "MRR": harmonic, "median_rank": 4.5}
    )
    assert any("100.0% of the queries" in warning for warning in result.warnings)


def test_nan_ranks_last_and_behind_wrong_shapes_with_nan():
    nan = math.nan
    gallery = np.array([[nan], [1.0], [nan]])
    with pytest.raises(EvaluationError, match="NaN"):
        evaluate_instance_arrays([[0.0]], ["a"], gallery, ["a", "b", "c"])
    found = evaluate_instance_arrays(
        [[0.0], [nan]], ["a", "b"], gallery, ["a", "b", "c"], nan_policy="last"
    )
    assert found.ranks.tolist() == [3.0, 3.0]


def test_an_item_that_is_the_query_itself_does_not_count():
    queries, gallery = problem(5)
    both = Embeddings(
        [*queries.keys, *gallery.keys],
        [*queries.labels, *gallery.labels],
        np.concatenate([queries.vectors, gallery.vectors]),
        instances=[*queries.instances, *gallery.instances],
    )
    own = np.arange(len(queries))
    found = evaluate_instances(queries, both, own=own)
    distances = whole_matrix(queries, both)
    held = np.array(both.instances)
    ranks = []
    for row, name in enumerate(queries.instances):
        keep = np.arange(len(both)) != row
        right = (held == name)[keep]
        if name and right.any():
            ranks += [rank for _, rank in orders(distances[row][keep], right, "index")]
    assert found.ranks.tolist() == ranks
    assert found.n_gallery == len(both) - 1
    with pytest.raises(EvaluationError, match="another class or instance"):
        evaluate_instances(queries, both, own=np.roll(own, 1))


@pytest.mark.parametrize(
    ("query_names", "held"),
    [(["", ""], ["a", "b"]), (["a", "b"], ["", ""]), (["a", "b"], ["c", "d"])],
    ids=str,
)
def test_no_pair_is_an_error_that_says_how_pairs_come_about(query_names, held):
    with pytest.raises(EvaluationError, match=r"images/chair/oslo.jpg and meshes/chair/oslo.obj"):
        evaluate_instance_arrays(np.zeros((2, 1)), query_names, np.zeros((2, 1)), held)


def test_what_cannot_be_scored_is_refused():
    arrays = np.zeros((2, 1)), ["a", "b"], np.ones((1, 1)), ["a"]
    with pytest.raises(EvaluationError, match="gallery lacks the objects of 1 queries"):
        evaluate_instance_arrays(*arrays, on_missing="error")
    with pytest.raises(EvaluationError, match="query_block=0"):
        evaluate_instance_arrays(*arrays, query_block=0)
    with pytest.raises(EvaluationError, match="2 vectors and 1 instances"):
        evaluate_instance_arrays(np.zeros((2, 1)), ["a"], np.ones((1, 1)), ["a"])
    with pytest.raises(EvaluationError, match="1 components, the gallery has 2"):
        evaluate_instance_arrays(np.zeros((1, 1)), ["a"], np.ones((1, 2)), ["a"])


def test_one_object_in_two_unicode_forms_is_one_object():
    found = evaluate_instance_arrays([[0.0]], ["Stu\u0308hl"], [[1.0]], ["St\u00fchl"])
    assert found.n_evaluated == 1


@pytest.mark.parametrize("queries", [12, 13])
@pytest.mark.parametrize("ties", ["index", "expected"])
def test_intervals_equal_a_plain_loop_over_resamples(monkeypatch, queries, ties):
    monkeypatch.setattr(resampling, "WEIGHTS_AT_ONCE", 7 * queries)  # several blocks
    random = np.random.default_rng(queries)
    names = [f"o{k}" for k in range(queries)]
    vectors = [random.integers(0, 3, (queries, 2)) for _ in range(2)]
    result = evaluate_instance_arrays(vectors[0], names, vectors[1], names, ties=ties)
    draws: dict[str, list[float]] = {name: [] for name in INSTANCE_METRICS}
    for weights in query_weights(queries, resamples=40, seed=5):
        for counts in weights.astype(int):
            rows = np.repeat(np.arange(queries), counts)
            for name, column in result.values.items():
                draws[name].append(float(column[rows].mean()))
            draws["median_rank"].append(float(np.median(result.ranks[rows])))
    found = instance_intervals(result, resamples=40, seed=5, confidence=0.8)
    assert set(found) == set(INSTANCE_METRICS)
    for name, one in found.items():
        assert one.value == result.headline[name]
        low, high = np.quantile(draws[name], [0.1, 0.9])
        assert (one.low, one.high) == pytest.approx((low, high))
    assert found == instance_intervals(result, resamples=40, seed=5, confidence=0.8)
    with pytest.raises(EvaluationError, match="confidence=1"):
        instance_intervals(result, confidence=1.0)

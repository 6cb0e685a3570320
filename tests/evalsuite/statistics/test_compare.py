"""Paired differences between two evaluations: against a plain loop, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from evalsuite import EvaluationError, bootstrap_difference, bootstrap_mean
from evalsuite.scoring.evaluation import evaluate
from evalsuite.scoring.options import HEADLINES
from evalsuite.scoring.query_scores import read_scores, scores_of
from evalsuite.statistics.comparison import compare, compare_classes
from evalsuite.vectors.embeddings import Embeddings
from tests.evalsuite.statistics.test_intervals import GALLERY, QUERIES, plain_loop, scored


def cloud(side: str, count: int, *, noise: float, classes: int = 4, order=None) -> Embeddings:
    random = np.random.default_rng(len(side))
    centres = np.random.default_rng(0).normal(size=(classes, 6))
    labels = np.arange(count) % classes
    vectors = centres[labels] + noise * random.normal(size=(count, 6))
    order = np.arange(count) if order is None else order
    return Embeddings(
        [f"{side}-{i}" for i in order], [f"class-{labels[i]}" for i in order], vectors[order]
    )


def runs(*, order=None):
    """The same queries and shapes, embedded badly and better; the second one's in ``order``."""
    pairs = ((1.5, None), (1.2, order))
    return [
        scores_of(
            evaluate(cloud("query", 60, noise=n, order=o), cloud("shape", 90, noise=n)), name=str(n)
        )
        for n, o in pairs
    ]


def test_differences_equal_a_plain_loop_over_the_same_resamples():
    first, second = scored(0), scored(1)
    found = compare(scores_of(first[1]), scores_of(second[1]), resamples=40, seed=2)
    slow = [
        plain_loop(distances, QUERIES, GALLERY, resamples=40, seed=2)
        for distances, _ in (first, second)
    ]
    assert set(found.metrics) == set(HEADLINES)
    assert found.left_out == {}
    assert found.n_queries == len(QUERIES) - 1
    for name, difference in found.metrics.items():
        values = slow[1][name] - slow[0][name]
        bounds = np.quantile(values, [0.025, 0.975])
        assert (difference.low, difference.high) == pytest.approx(bounds, abs=1e-12), name
        assert difference.share_above_zero == pytest.approx((values > 1e-12).mean(), abs=0.05), name
        assert difference.first == first[1].headline[name]
        assert difference.second == second[1].headline[name]
        beyond = difference.low > 0 or difference.high < 0
        assert difference.beyond_queries == beyond


def test_queries_are_paired_by_key_whatever_their_order():
    straight = compare(*runs(), resamples=200)
    shuffled = compare(*runs(order=np.random.default_rng(3).permutation(60)), resamples=200)
    for name, difference in straight.metrics.items():
        other = shuffled.metrics[name]
        assert (other.low, other.high) == pytest.approx((difference.low, difference.high)), name
    assert straight.metrics["mAP"].beyond_queries
    assert straight.metrics["mAP"].difference > 0 > straight.metrics["ANMRR"].difference


def test_a_run_against_itself_differs_by_nothing():
    first, _ = runs()
    for difference in compare(first, first, resamples=20).metrics.values():
        assert (difference.low, difference.high, difference.share_above_zero) == (0, 0, 0)
        assert not difference.beyond_queries


def test_each_class_is_a_comparison_of_its_queries_alone():
    first, second = scored(0), scored(1)
    rows = compare_classes(scores_of(first[1]), scores_of(second[1]), resamples=30, seed=5)
    assert [row.label for row in rows] == ["bed", "car", "lamp", "vase"]
    for row in rows:
        own = [q for q, label in enumerate(QUERIES) if label == row.label]
        assert (row.n_queries, row.n_relevant) == (len(own), GALLERY.count(row.label))
        assert set(row.metrics) == set(HEADLINES) - {"AUC"}
        kept = [
            next(c for c in evaluation.per_class if c["label"] == row.label)
            for _, evaluation in (first, second)
        ]
        slow = [
            plain_loop(d[own], [row.label] * len(own), GALLERY, resamples=30, seed=5)
            for d, _ in (first, second)
        ]
        for name, difference in row.metrics.items():
            assert (difference.first, difference.second) == pytest.approx(
                (kept[0][name], kept[1][name])
            )
            bounds = np.quantile(slow[1][name] - slow[0][name], [0.025, 0.975])
            assert (difference.low, difference.high) == pytest.approx(bounds, abs=1e-12), name


def test_a_metric_that_one_side_lacks_is_left_out_with_the_reason(tmp_path):
    first, second = scored(0)[1], scored(1)[1]
    first.save(tmp_path)
    table = pq.read_table(tmp_path / "per_query.parquet")
    pq.write_table(table.drop_columns(["curve_hits"]), tmp_path / "per_query.parquet")
    found = compare(read_scores(tmp_path), scores_of(second), resamples=5)
    assert set(found.metrics) == set(HEADLINES) - {"AUC"}
    assert "no column curve_hits" in found.left_out["AUC"]


def test_another_search_is_said_and_compared():
    queries, gallery = cloud("query", 20, noise=1.0), cloud("shape", 30, noise=1.0)
    first = scores_of(evaluate(queries, gallery), name="A")
    second = scores_of(evaluate(queries, gallery, metric="cosine"), name="B")
    assert compare(first, second, resamples=5).notes == (
        "metric differs: euclidean in A, cosine in B",
    )


def test_what_cannot_be_paired_is_refused():
    base = scores_of(scored()[1], name="A")

    def refused(other, match: str) -> None:
        for call in (compare, compare_classes):
            with pytest.raises(EvaluationError, match=match) as error:
                call(base, other)
            assert "A and B were evaluated" in str(error.value)

    def with_(**changes):
        return scores_of(scored(**changes)[1], name="B")

    refused(with_(protocol="shrec"), "protocol mi3dor and shrec")
    refused(with_(ties="expected"), "ties index and expected")
    refused(with_(anmrr="window"), "anmrr tier and window")
    refused(with_(gallery=[*GALLERY, "bed"]), "galleries, numbers of shapes 40 and 41")
    refused(with_(gallery=["bed"] * 15 + GALLERY[15:]), "largest class 25 and 19")
    swapped = ["bed"] * 5 + ["car"] * 25 + ["vase"] * 9 + ["lamp"]
    refused(with_(gallery=swapped), "9 and 5 shapes of class bed")
    refused(with_(queries=[*QUERIES, "bed"]), r"queries: 1 only in B \(11\)")
    refused(with_(queries=["car", *QUERIES[1:]]), r"different classes of 1 queries \(0\)")


def test_galleries_that_differ_only_by_fingerprint_are_refused(tmp_path):
    folders = [tmp_path / name for name in "AB"]
    for folder in folders:
        scored()[1].save(folder, about={"gallery_fingerprint": folder.name})
    with pytest.raises(EvaluationError, match="fingerprints of keys and classes A and B"):
        compare(*map(read_scores, folders))
    content = json.loads((folders[1] / "metrics.json").read_text())
    del content["gallery_fingerprint"]  # an older evaluation has none
    (folders[1] / "metrics.json").write_text(json.dumps(content))
    assert compare(*map(read_scores, folders), resamples=5).metrics


def test_pairing_sees_a_difference_that_separate_intervals_hide():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    better = hard + 0.01 + 0.001 * rng.standard_normal(200)
    difference = bootstrap_difference(better, hard)
    assert 0 < difference.low < difference.value < difference.high
    assert bootstrap_mean(hard).high > bootstrap_mean(better).low


def test_pairs_need_equal_lengths():
    with pytest.raises(EvaluationError, match="2 queries, second 1"):
        bootstrap_difference([1, 2], [1])


@pytest.mark.parametrize("options", [{"confidence": 0.0}, {"resamples": 0}])
def test_bad_requests(options):
    first, second = runs()
    for call in (compare, compare_classes):
        with pytest.raises(EvaluationError, match=next(iter(options))):
            call(first, second, **options)

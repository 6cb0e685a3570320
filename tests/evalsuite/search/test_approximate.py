"""The report on an approximate index agrees with a slow count over its lists."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from evalsuite.scoring.distance_matrix import evaluate_distances
from evalsuite.scoring.evaluation import evaluate
from evalsuite.scoring.options import Options
from evalsuite.search.approximate import approximation_report
from evalsuite.search.exact import Neighbours
from evalsuite.search.indexes import build_index
from evalsuite.vectors.embeddings import Embeddings, EvaluationError
from tests.evalsuite.search.test_indexes import clusters

LISTED = {"NN", "FT", "ST", "F", "E", "DCG", "ANMRR"}


@pytest.fixture(scope="module")
def gallery():
    return clusters(900, "g", width=12)


@pytest.fixture(scope="module")
def queries():
    return clusters(60, "q", width=12, seed=2)


class Spoiled:
    """A flat index that forgets the gallery rows ``lost`` and answers with others instead."""

    def __init__(self, gallery, lost):
        self._flat = build_index(gallery)
        self.gallery, self.searcher = self._flat.gallery, self._flat.searcher
        self.kind, self.parameters, self._lost = "ivf", {}, lost
        self.asked = []

    def search(self, queries, k):
        self.asked.append(len(queries))
        every = self._flat.search(queries, len(self.gallery))
        kept = np.argsort(np.isin(every.indices, self._lost), axis=1, kind="stable")[:, :k]
        rows, distances = (
            np.take_along_axis(a, kept, axis=1) for a in (every.indices, every.distances)
        )
        return Neighbours(rows, distances, 7)


def slow_metrics(index, queries, gallery, k, **options):
    """Metrics of the lists, as a matrix: places in the list, the rest of the gallery far behind."""
    rows = index.search(queries, k).indices
    matrix = np.full((len(queries), len(gallery)), np.inf)
    np.put_along_axis(matrix, rows, np.arange(k, dtype=float)[None, :], axis=1)
    return evaluate_distances(matrix, queries.labels, gallery.labels, **options)


@pytest.mark.parametrize("protocol", ["mi3dor", "shrec"])
def test_metrics_of_the_list_and_their_change(protocol, queries, gallery):
    index = Spoiled(gallery, np.arange(0, 900, 3))
    report = approximation_report(index, queries, gallery, options=Options(protocol=protocol))
    n_max = max(np.unique(gallery.labels, return_counts=True)[1])
    assert report["k"] == 2 * n_max < 600
    assert report["widened"] == 7
    exact = evaluate(queries, gallery, protocol=protocol)
    listed = slow_metrics(index, queries, gallery, report["k"], protocol=protocol)
    given = LISTED - ({"DCG"} if protocol == "shrec" else set())
    assert set(report["metrics"]) == given
    assert set(report["not_given"]) == set(exact.headline) - given
    for names, before, after in (
        ("metrics", exact.headline, listed.headline),
        ("variants", exact.variants, listed.variants),
    ):
        for name, values in report[names].items():
            assert values["exact"] == before[name]
            assert values["approximate"] == pytest.approx(after[name], abs=1e-12)
            assert values["change"] == values["approximate"] - values["exact"]
    assert report["metrics"]["FT"]["change"] < -0.03
    assert "DCG_trunc_psb" in report["variants"]
    assert not any(name.startswith(("mAP", "AUC", "DCG_full")) for name in report["variants"])
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_recall_counts_equal_distances(queries, gallery):
    twice = Embeddings(
        [f"{side}{i}" for side in "ab" for i in range(900)],
        gallery.labels * 2,
        np.concatenate((gallery.vectors, gallery.vectors)),
    )
    # The lost copies have twins at the same distance: half of each list is gone beyond the first.
    report = approximation_report(Spoiled(twice, np.arange(900)), queries, twice)
    assert report["recall"] == {"1": 1.0, "10": 0.5, "100": 0.5}
    assert report["metrics"]["NN"]["change"] == 0


def test_an_exact_index_changes_nothing(queries, gallery):
    report = approximation_report(build_index(gallery), queries, gallery)
    assert set(report["recall"].values()) == {1.0}
    assert {values["change"] for values in report["variants"].values()} == {0.0}
    assert report["speed"]["flat_seconds"] > 0
    assert report["speed"]["k"] == 10


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "ivfpq"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_default_parameters_lose_little_on_clusters(kind, metric, queries, gallery):
    report = approximation_report(build_index(gallery, kind, metric=metric), queries, gallery)
    assert report["recall"]["1"] > 0.98
    assert report["recall"]["10"] > 0.95
    assert abs(report["metrics"]["NN"]["change"]) < 0.02
    assert abs(report["metrics"]["FT"]["change"]) < 0.05


def test_a_list_of_the_whole_gallery_gives_every_metric(queries):
    small = clusters(30, "g", width=12)
    one = replace(small, labels=["class-0"] * 20 + ["class-1"] * 10)
    report = approximation_report(build_index(one), queries, one)
    assert report["k"] == 30
    assert report["not_given"] == {}
    assert set(report["metrics"]) == LISTED | {"AUC", "mAP"}
    assert set(report["recall"]) == {"1", "10"}
    assert report["queries"] == sum(label in ("class-0", "class-1") for label in queries.labels)


def test_a_choice_of_queries(queries, gallery):
    index = Spoiled(gallery, np.arange(5))
    first = approximation_report(index, queries, gallery, most_queries=7)
    assert first["queries"] == 7
    assert set(index.asked) == {7}
    again = approximation_report(index, queries, gallery, most_queries=7)
    other = approximation_report(index, queries, gallery, most_queries=7, seed=1)
    assert again["variants"] == first["variants"] != other["variants"]
    with pytest.raises(EvaluationError, match="most_queries"):
        approximation_report(index, queries, gallery, most_queries=0)


def test_no_query_of_a_known_class(queries, gallery):
    strange = replace(queries, labels=["strange"] * len(queries))
    with pytest.raises(EvaluationError, match="label names"):
        approximation_report(build_index(gallery), strange, gallery)

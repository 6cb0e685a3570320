"""What a result says about itself, edge cases of the input, and the files it writes."""

from __future__ import annotations

import doctest
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalsuite import (
    Embeddings,
    EvaluationError,
    evaluate,
    evaluate_arrays,
    evaluate_distances,
    read_evaluation,
)
from evalsuite.scoring import evaluation as module
from evalsuite.scoring.options import HEADLINES, Options


def problem(*, items: int = 60, queries: int = 12, classes: int = 4):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes + 1, 8))

    def make(prefix, count, classes):
        ids = np.arange(count) % classes
        vectors = centres[ids] + rng.standard_normal((count, 8))
        return Embeddings([f"{prefix}{i}" for i in range(count)], [f"c{c}" for c in ids], vectors)

    return make("q", queries, classes + 1), make("g", items, classes)


def test_json_is_complete_and_plain():
    queries, gallery = problem()
    result = evaluate(queries, gallery, protocol="shrec", features="clamp-l2", metric="cosine")
    shown = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(HEADLINES) <= set(shown)
    assert {name: shown[name] for name in HEADLINES} == {
        name: shown["variants"][shown["headline_variants"][name]] for name in HEADLINES
    }
    options = {"protocol": "shrec", "features": "clamp-l2", "metric": "cosine", "dcg": "protocol",
               "anmrr": "tier", "f_average": "pooled", "average": "query", "ties": "index",
               "nan_policy": "raise", "on_missing": "exclude"}  # fmt: skip
    assert {name: shown[name] for name in options} == options
    assert (shown["n_queries"], shown["n_evaluated"], shown["n_missing"]) == (12, 10, 2)
    assert (shown["n_gallery"], shown["n_max"]) == (60, 15)
    assert shown["missing_labels"] == ["c4"]
    assert len(shown["pr_recall"]) == len(shown["pr_precision"]) == 20
    assert shown["pr_precision"][0] is None  # classes of 15 have no point at recall 1/20
    assert [row["label"] for row in shown["per_class"]] == ["c0", "c1", "c2", "c3"]
    assert {"n_queries", "n_relevant", "NN", "FT", "ST", "F", "E", "DCG", "ANMRR", "mAP"} <= set(
        shown["per_class"][0]
    )


def test_per_class_rows_are_the_class_means():
    queries, gallery = problem()
    result = evaluate(queries, gallery)
    rows = [row for row in result.per_query.to_pylist() if row["label"] == "c1"]
    shown = result.per_class[1]
    assert shown["n_queries"] == len(rows) == 3
    for name in ("NN", "FT", "ST", "E", "DCG", "ANMRR"):
        assert shown[name] == pytest.approx(np.mean([row[name] for row in rows]))
    means = np.mean([row["mAP"] for row in result.per_class])
    assert result.variants["mAP_class_mean"] == pytest.approx(means)
    assert result.variants["F_class"] == pytest.approx(np.mean([r["F"] for r in result.per_class]))


def test_missing_classes_are_left_out_and_named():
    queries, gallery = problem()
    result = evaluate(queries, gallery)
    rows = result.per_query.to_pylist()
    assert result.per_query.column_names == [
        "key", "label", "n_relevant", "NN", "FT", "ST", "E", "DCG", "ANMRR", "AP"
    ]  # fmt: skip
    assert rows[4]["AP"] is None
    assert rows[4]["n_relevant"] == 0
    kept = [i for i, label in enumerate(queries.labels) if label != "c4"]
    only = evaluate(
        Embeddings(
            [queries.keys[i] for i in kept],
            [queries.labels[i] for i in kept],
            queries.vectors[kept],
        ),
        gallery,
    )
    assert only.variants == result.variants
    assert any("2 queries left out" in message for message in result.warnings)
    with pytest.raises(EvaluationError, match="'c4'"):
        evaluate(queries, gallery, on_missing="error")
    with pytest.raises(EvaluationError, match="label names"):
        evaluate_distances(np.zeros((1, 2)), ["chair"], ["Chair", "Chair"])


def test_pooled_curve_keeps_at_most_200_points_and_both_ends():
    rng = np.random.default_rng(0)
    gallery = [f"c{c}" for c in rng.integers(0, 5, 3000)]
    result = evaluate_distances(rng.random((3, 3000)), ["c0", "c1", "c2"], gallery)
    shown = result.to_json()
    assert 100 < len(shown["pr_recall"]) <= 200
    assert shown["pr_recall"][-1] == 1.0
    assert shown["curves"]["pooled"]["rank"][0] == 1
    assert shown["pr_recall"] == sorted(shown["pr_recall"])


def test_labels_are_names_and_never_indices():
    keys = ["a", "b", "c"]
    vectors = np.eye(3)
    gallery = Embeddings(keys, ["-1", "999999999", "été 2"], vectors)
    result = evaluate(Embeddings(keys, ["-1", "999999999", "été 2"], vectors), gallery)
    assert result.headline["NN"] == 1.0
    assert [row["label"] for row in result.per_class] == ["-1", "999999999", "été 2"]


def test_one_query_and_one_item():
    one = Embeddings(["a"], ["x"], np.ones((1, 1)))
    headline = evaluate(one, one, protocol="shrec").headline
    assert headline["NN"] == headline["FT"] == headline["ST"] == headline["mAP"] == 1.0
    assert headline["E"] == headline["F"] == 1.0
    assert headline["ANMRR"] == 0.0


def test_nan_rows_are_named_or_scored_as_failures():
    queries, gallery = problem()
    queries.vectors[3, 2] = np.nan
    with pytest.raises(EvaluationError, match=r"queries: 1 rows .*'q3'"):
        evaluate(queries, gallery)
    row = evaluate(queries, gallery, nan_policy="last").per_query.to_pylist()[3]
    assert (row["NN"], row["FT"], row["ANMRR"]) == (0.0, 0.0, 1.0)
    gallery.vectors[7, 0] = np.inf
    with pytest.raises(EvaluationError, match=r"gallery: 1 rows .*'g7'"):
        evaluate(problem()[0], gallery)


def test_features_and_metric_are_applied():
    """c0 lies in q's direction but far away; clamping removes the negative component of c1."""
    query = Embeddings(["q"], ["c0"], [[1.0, 0.0]])
    gallery = Embeddings(["a", "b", "c"], ["c1", "c0", "c2"], [[1.0, -1.0], [9.0, 0.5], [0.0, 2.0]])
    scores = {
        name: evaluate(query, gallery, features=name).headline["NN"]
        for name in ("raw", "l2", "clamp-l2")
    }
    assert scores == {"raw": 0.0, "l2": 1.0, "clamp-l2": 0.0}
    assert evaluate(query, gallery, metric="cosine").headline["NN"] == 1.0


def test_widths_must_agree():
    with pytest.raises(EvaluationError, match="2 components, the gallery has 3"):
        evaluate(Embeddings(["a"], ["x"], [[1, 2]]), Embeddings(["a"], ["x"], [[1, 2, 3]]))


@pytest.mark.parametrize(
    "option",
    ["protocol", "features", "metric", "dcg", "anmrr", "f_average", "average", "ties", "nan_policy",
     "on_missing"],
)  # fmt: skip
def test_unknown_choices_name_the_option(option):
    queries, gallery = problem()
    with pytest.raises(EvaluationError, match=f"{option}='nonsense': expected one of"):
        evaluate(queries, gallery, **{option: "nonsense"})


def test_query_block_and_shards_must_be_positive():
    queries, gallery = problem()
    with pytest.raises(EvaluationError, match="query_block=0"):
        evaluate(queries, gallery, query_block=0)
    with pytest.raises(EvaluationError, match="shards=0"):
        evaluate(queries, gallery, shards=0)


def test_matrix_shape_must_match_the_labels():
    with pytest.raises(EvaluationError, match="shape"):
        evaluate_distances(np.zeros((2, 3)), ["a", "b"], ["a", "b"])


def test_a_collapsed_embedding_is_warned_about(caplog):
    queries, gallery = problem()
    flat = Embeddings(gallery.keys, gallery.labels, np.ones((60, 8)))
    with caplog.at_level(logging.WARNING):
        result = evaluate(queries, flat)
    assert result.ties.share == 1.0
    assert any("tie_report" in record.message for record in caplog.records)
    bounds = result.ties.headlines
    assert bounds["pessimistic"]["mAP"] < bounds["expected"]["mAP"] < bounds["optimistic"]["mAP"]
    assert bounds["expected"]["FT"] == pytest.approx(15 / 60)
    expected = evaluate(queries, flat, ties="expected")
    assert expected.headline_variants["AUC"] == "AUC_of_expected_curve"
    assert expected.headline["mAP"] == bounds["expected"]["mAP"]
    assert expected.ties.headlines["index"] == result.headline


def test_without_ties_there_are_no_bounds():
    result = evaluate(*problem())
    assert (result.ties.pairs, result.ties.share, result.ties.headlines) == (0, 0.0, {})


def test_saved_files_are_complete(tmp_path):
    result = evaluate(*problem())
    result.save(tmp_path / "evaluation")
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text()) == result.to_json()
    table = pq.read_table(tmp_path / "evaluation" / "per_query.parquet")
    assert table.drop_columns(["f_hits", "curve_hits"]).equals(result.per_query)
    scored = table.filter(pa.array(table.column("n_relevant").to_numpy() > 0))
    assert len(scored) == result.n_evaluated < len(table)
    assert scored.column("f_hits").to_pylist() == result.f_hits.tolist()
    assert scored.column("curve_hits").to_pylist() == result.curve_hits.tolist()
    assert table.column("curve_hits").null_count == table.column("f_hits").null_count == 2
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == [
        "metrics.json",
        "per_query.parquet",
    ]


def test_arrays_give_the_numbers_of_embeddings():
    random = np.random.default_rng(3)
    vectors = random.normal(size=(30, 4)).astype(np.float32)
    labels = [index % 3 for index in range(30)]
    named = [str(label) for label in labels]
    queries = Embeddings([str(row) for row in range(10)], named[:10], vectors[:10])
    gallery = Embeddings([str(row) for row in range(20)], named[10:], vectors[10:])
    found = evaluate_arrays(vectors[:10], labels[:10], vectors[10:], labels[10:], protocol="shrec")
    assert found.to_json() == evaluate(queries, gallery, protocol="shrec").to_json()
    examples = doctest.DocTestFinder().find(evaluate_arrays, globs={**vars(module)})
    assert doctest.DocTestRunner().run(examples[0]).failed == 0
    with pytest.raises(EvaluationError, match="use evaluate_arrays"):
        evaluate(vectors, vectors)  # pyright: ignore[reportArgumentType]


def test_options_as_one_object_or_singly():
    distances, labels = np.array([[1.0, 2.0, 3.0]]), ["a", "b", "a"]
    both = evaluate_distances(
        distances, ["a"], labels, options=Options(dcg="full_psb"), ties="expected"
    )
    assert both.options == Options(dcg="full_psb", ties="expected")
    with pytest.raises(TypeError, match="protocl"):
        evaluate_distances(distances, ["a"], labels, protocl="shrec")
    with pytest.raises(EvaluationError, match="metric"):
        evaluate_distances(distances, ["a"], labels, metric="cosine")


@pytest.mark.parametrize("options", [{}, {"protocol": "shrec", "ties": "expected"}])
def test_a_saved_evaluation_is_read_back(tmp_path, options):
    queries, gallery = problem_with_ties()
    written = evaluate(queries, gallery, **options)
    written.save(tmp_path / "evaluation", about={"selection": "last"})
    read = read_evaluation(tmp_path)
    assert read.about == {"selection": "last"}
    assert read.options == written.options
    assert json.dumps(read.to_json()) == json.dumps(written.to_json())
    assert read.per_query.to_pylist() == written.per_query.to_pylist()
    np.testing.assert_array_equal(read.f_hits, written.f_hits)
    np.testing.assert_array_equal(read.curve_hits, written.curve_hits)
    read.save(tmp_path / "again", about=read.about)
    for name in ("metrics.json", "per_query.parquet"):
        again = (tmp_path / "again" / name).read_bytes()
        assert again == (tmp_path / "evaluation" / name).read_bytes()


def problem_with_ties() -> tuple[Embeddings, Embeddings]:
    """Vectors on a coarse grid; one query has a class that the gallery lacks."""
    random = np.random.default_rng(0)
    labels = [f"class-{index % 4}" for index in range(12)]
    queries = Embeddings(
        [f"query-{row}" for row in range(12)],
        [*labels[:11], "absent"],
        random.integers(0, 3, (12, 2)),
    )
    gallery = Embeddings(
        [f"shape-{row}" for row in range(300)],
        [labels[row % 12] for row in range(300)],
        random.integers(0, 3, (300, 2)),
    )
    return queries, gallery

"""Bootstrap intervals: against theory, against a plain loop, deterministic."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from evalsuite import EvaluationError, bootstrap_mean, evaluate_distances
from evalsuite.scoring.options import HEADLINES
from evalsuite.scoring.query_scores import read_scores, scores_of
from evalsuite.statistics import resampling
from evalsuite.statistics.bootstrap import intervals
from evalsuite.statistics.resampling import query_weights

GALLERY = ["bed"] * 9 + ["car"] * 25 + ["vase"] * 5 + ["lamp"]
QUERIES = ["bed", "car", "car", "vase", "lamp", "ghost", "bed", "vase", "car", "bed", "car"]


def scored(seed: int = 0, *, queries=QUERIES, gallery=GALLERY, levels: int = 30, **options):
    """An evaluation with ties, a class of one shape and a query without any."""
    distances = np.random.default_rng(seed).integers(0, levels, (len(queries), len(gallery)))
    same = np.array(queries)[:, None] == np.array(gallery)[None]
    distances = distances - same * (levels // 4)
    return distances, evaluate_distances(distances, queries, gallery, **options)


def plain_loop(distances, queries, gallery, *, resamples: int, seed: int, **options):
    """Every headline of every resample by evaluating the drawn queries, repeated rows and all."""
    known = [q for q, label in enumerate(queries) if label in gallery]
    values = []
    for weights in query_weights(len(known), resamples=resamples, seed=seed):
        for counts in weights.astype(int):
            rows = np.repeat(known, counts)
            labels = [queries[row] for row in rows]
            values.append(evaluate_distances(distances[rows], labels, gallery, **options).headline)
    return {name: np.array([value[name] for value in values]) for name in HEADLINES}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"protocol": "shrec", "f_average": "query"},
        {"average": "class", "f_average": "class"},
        {"dcg": "trunc_rank2", "anmrr": "mpeg7", "f_average": "class"},
        {"ties": "expected"},
    ],
    ids=str,
)
def test_every_metric_equals_a_plain_loop_over_resamples(options):
    distances, evaluation = scored(**options)
    found = intervals(evaluation, resamples=30, seed=4, confidence=0.8)
    slow = plain_loop(distances, QUERIES, GALLERY, resamples=30, seed=4, **options)
    left_out = {"AUC"} if options.get("ties") else set()  # expected areas are no function of hits
    assert set(found) == set(HEADLINES) - left_out
    assert set(scores_of(evaluation).left_out) == left_out
    for name, interval in found.items():
        low, high = np.quantile(slow[name], [0.1, 0.9])
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12), name
        assert interval.value == evaluation.headline[name]
        assert interval.low < interval.high


def test_area_from_200_ranks_of_a_larger_gallery_is_close_to_the_exact_one():
    gallery = [f"class-{i % 7}" for i in range(1500)]
    queries = [f"class-{i % 7}" for i in range(60)]
    distances, evaluation = scored(queries=queries, gallery=gallery, levels=100_000)
    assert len(evaluation.curves.ranks) <= 200
    found = intervals(evaluation, resamples=40, seed=1, confidence=0.9)["AUC"]
    slow = plain_loop(distances, queries, gallery, resamples=40, seed=1)["AUC"]
    assert found.value == evaluation.headline["AUC"]
    exact = np.quantile(slow, [0.05, 0.95])
    assert found.low == pytest.approx(exact[0], abs=0.01 * (exact[1] - exact[0]))
    assert found.high == pytest.approx(exact[1], abs=0.01 * (exact[1] - exact[0]))


def test_area_from_few_ranks_keeps_the_place_and_about_the_width():
    gallery = [f"class-{i % 7}" for i in range(1500)]
    queries = [f"class-{i % 7}" for i in range(60)]
    _, evaluation = scored(queries=queries, gallery=gallery, levels=100_000)
    scores = scores_of(evaluation)
    assert scores.curve_hits is not None
    coarse = replace(
        scores, curve_hits=scores.curve_hits[:, ::40], curve_ranks=scores.curve_ranks[::40]
    )
    fine, found = (intervals(one, resamples=300)["AUC"] for one in (scores, coarse))
    width = fine.high - fine.low
    assert found.value == fine.value
    assert found.low == pytest.approx(fine.low, abs=0.2 * width)
    assert found.high == pytest.approx(fine.high, abs=0.2 * width)


def test_saved_files_say_the_same_as_memory(tmp_path):
    _, evaluation = scored()
    evaluation.save(tmp_path / "evaluation")
    expected = intervals(evaluation, resamples=50)
    assert intervals(read_scores(tmp_path), resamples=50) == expected
    assert intervals(read_scores(tmp_path / "evaluation"), resamples=50) == expected


def test_files_of_an_older_evaluation_lack_what_was_not_kept(tmp_path):
    _, evaluation = scored()
    evaluation.save(tmp_path)
    table = pq.read_table(tmp_path / "per_query.parquet")
    pq.write_table(table.drop_columns(["curve_hits", "f_hits"]), tmp_path / "per_query.parquet")
    scores = read_scores(tmp_path)
    assert scores.left_out == {
        "F": "no column f_hits in the per-query table; evaluate again",
        "AUC": "no column curve_hits in the per-query table; evaluate again",
    }
    assert set(intervals(scores, resamples=5)) == set(HEADLINES) - {"F", "AUC"}


def test_queries_of_one_evaluation_beside_the_headline_of_another_are_refused(tmp_path):
    scored(0)[1].save(tmp_path)
    other = json.loads((tmp_path / "metrics.json").read_text())
    other["FT"] += 0.001
    (tmp_path / "metrics.json").write_text(json.dumps(other))
    with pytest.raises(EvaluationError, match=r"its queries give FT 0\.\d+, its headline says"):
        intervals(read_scores(tmp_path))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "metrics.json").unlink(), r"metrics\.json: no such file"),
        (lambda folder: (folder / "per_query.parquet").unlink(), r"per_query\.parquet: no such"),
        (lambda folder: (folder / "metrics.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "metrics.json").write_text("[]"), "not an evaluation's files"),
        (lambda folder: (folder / "metrics.json").write_text("{}"), "not an evaluation's files"),
        (lambda folder: (folder / "per_query.parquet").write_text("x"), "cannot be read"),
    ],
)
def test_files_that_are_no_evaluation(tmp_path, damage, words):
    scored()[1].save(tmp_path)
    damage(tmp_path)
    with pytest.raises(EvaluationError, match=words) as error:
        read_scores(tmp_path)
    assert f"img2shape eval {tmp_path}" in str(error.value)
    assert "\n" not in str(error.value)


def test_interval_matches_the_normal_approximation():
    values = np.random.default_rng(0).random(400)
    found = bootstrap_mean(values, resamples=4000)
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    narrow = bootstrap_mean(values, confidence=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(300):
        found = bootstrap_mean(rng.random(80) < 0.3, resamples=300, seed=seed, confidence=0.9)
        covered += found.low <= 0.3 <= found.high
    assert 0.84 <= covered / 300 <= 0.95


def test_same_seed_same_resamples_whatever_the_blocks(monkeypatch):
    values = np.random.default_rng(0).random(50)
    first = bootstrap_mean(values, seed=3)
    assert first == bootstrap_mean(values.tolist(), seed=3)
    assert first != bootstrap_mean(values, seed=4)
    _, evaluation = scored()
    whole = intervals(evaluation, resamples=40)
    weights = np.concatenate(list(query_weights(50, resamples=9, seed=3)))
    assert (weights.sum(axis=1) == 50).all()
    monkeypatch.setattr(resampling, "WEIGHTS_AT_ONCE", 77)
    monkeypatch.setattr(resampling, "QUERIES_AT_ONCE", 3)
    blocks = list(query_weights(50, resamples=9, seed=3))
    assert len(blocks) == 9
    np.testing.assert_array_equal(np.concatenate(blocks), weights)
    cut = intervals(evaluation, resamples=40)
    for name, interval in whole.items():
        assert (cut[name].low, cut[name].high) == pytest.approx((interval.low, interval.high))


def test_constant_and_single_values_have_no_width():
    assert bootstrap_mean([0.5] * 10).low == bootstrap_mean([0.5] * 10).high == 0.5
    assert bootstrap_mean([0.25]).high == 0.25


@pytest.mark.parametrize(
    ("values", "options", "word"),
    [
        ([], {}, "values"),
        ([0.1, np.nan], {}, "NaN"),
        ([[0.1]], {}, "shape"),
        ([0.1], {"confidence": 1.0}, "confidence"),
        ([0.1], {"resamples": 0}, "resamples"),
    ],
)
def test_bad_requests(values, options, word):
    with pytest.raises(EvaluationError, match=word):
        bootstrap_mean(values, **options)
    if options:
        with pytest.raises(EvaluationError, match=word):
            intervals(scored()[1], **options)

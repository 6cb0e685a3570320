"""Bootstrap intervals: against theory, deterministic, paired."""

from __future__ import annotations

import numpy as np
import pytest

from evalsuite import EvaluationError, bootstrap_difference, bootstrap_mean
from evalsuite import compare as compare_module


def test_interval_matches_the_normal_approximation():
    values = np.random.default_rng(0).random(400)
    found = bootstrap_mean(values, resamples=4000)
    error = values.std() / 20
    assert found.mean == pytest.approx(values.mean())
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


def test_same_seed_same_interval_whatever_the_chunks(monkeypatch):
    values = np.random.default_rng(0).random(50)
    first = bootstrap_mean(values, seed=3)
    assert first == bootstrap_mean(values.tolist(), seed=3)
    assert first != bootstrap_mean(values, seed=4)
    monkeypatch.setattr(compare_module, "DRAWS_AT_ONCE", 777)
    assert bootstrap_mean(values, seed=3) == first


def test_pairing_sees_a_difference_that_separate_intervals_hide():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    better = hard + 0.01 + 0.001 * rng.standard_normal(200)
    difference = bootstrap_difference(better, hard)
    assert 0 < difference.low < difference.mean < difference.high
    assert bootstrap_mean(hard).high > bootstrap_mean(better).low


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


def test_pairs_need_equal_lengths():
    with pytest.raises(EvaluationError, match="2 queries, second 1"):
        bootstrap_difference([1, 2], [1])

"""The interval of a mean over seeds, against a table of the t distribution."""

from __future__ import annotations

import math
import statistics

import pytest

from evalsuite.statistics import seed_difference, seed_half_width

# Two-sided 95 % quantiles of Student's t by degrees of freedom.
T_TABLE = {1: 12.7062, 2: 4.3027, 4: 2.7764, 9: 2.2622, 30: 2.0423}


@pytest.mark.parametrize("freedom", T_TABLE)
def test_the_half_width_is_that_of_a_table_of_t(freedom):
    values = [0.5 + 0.01 * ((7 * k) % 11) for k in range(freedom + 1)]
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert seed_half_width(values) == pytest.approx(T_TABLE[freedom] * error, rel=1e-4)
    assert seed_half_width(values, confidence=0.5) < seed_half_width(values)


def test_one_seed_has_no_interval():
    assert math.isnan(seed_half_width([0.5]))
    assert math.isnan(seed_half_width([]))
    assert seed_half_width([0.5, 0.5, 0.5]) == 0


def test_a_difference_pairs_the_runs_of_a_seed():
    first, second = [0.70, 0.52, 0.91], [0.60, 0.40, 0.83]
    found = seed_difference(first, second)
    differences = [0.10, 0.12, 0.08]
    error = statistics.stdev(differences) / math.sqrt(3)
    assert found.mean == pytest.approx(statistics.fmean(differences))
    assert found.half_width == pytest.approx(T_TABLE[2] * error, rel=1e-4)
    assert (found.pairs, found.sign) == (3, 1)
    assert seed_difference(second, first).sign == -1
    # Other pairs, the same means: what a seed does to both no longer cancels.
    assert seed_difference(first, [0.40, 0.83, 0.60]).sign == 0


def test_one_pair_tells_nothing_apart():
    found = seed_difference([0.9], [0.1])
    assert (found.half_width, found.sign) == (math.inf, 0)
    assert seed_difference([0.9, 0.9], [0.1, 0.1]).sign == 1
    assert seed_difference([0.5, 0.5], [0.5, 0.5]).sign == 0
    for one, two in (([], []), ([0.5], [0.5, 0.6])):
        with pytest.raises(ValueError):  # noqa: PT011 - zip's own words
            seed_difference(one, two)

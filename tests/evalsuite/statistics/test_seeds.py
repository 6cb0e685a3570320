"""The interval of a mean over seeds, against a table of the t distribution."""

from __future__ import annotations

import math
import statistics

import pytest

from evalsuite.statistics import seed_half_width

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

"""How sure a mean over training seeds is, and a difference of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def seed_half_width(values: Sequence[float], *, confidence: float = 0.95) -> float:
    """Half of the t interval of the mean of independent runs [S]; NaN for fewer than two.

    The interval says how much the mean would change with other seeds, not with other queries.
    """
    count = len(values)
    if count < 2:
        return math.nan
    import scipy.special  # reading and scoring embeddings must do without

    quantile = float(scipy.special.stdtrit(count - 1, (1 + confidence) / 2))
    return quantile * float(np.std(np.asarray(values, dtype=np.float64), ddof=1)) / math.sqrt(count)


@dataclass(frozen=True)
class SeedDifference:
    """Mean of the differences of ``pairs`` pairs of runs, and half of its t interval.

    ``half_width`` is infinite below two pairs: one pair says nothing of other seeds.
    """

    mean: float
    half_width: float
    pairs: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out zero, else 0: not told apart."""
        if self.mean == 0.0 or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0.0 else -1


def seed_difference(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95
) -> SeedDifference:
    """``first`` - ``second`` [S], where the runs of one seed are a pair, in the same order.

    Raises ValueError if the two differ in number or are empty.
    """
    values = [one - two for one, two in zip(first, second, strict=True)]
    if not values:
        raise ValueError("a difference over seeds needs at least one pair of runs")
    around = seed_half_width(values, confidence=confidence) if len(values) > 1 else math.inf
    return SeedDifference(math.fsum(values) / len(values), around, len(values))

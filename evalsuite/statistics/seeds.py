"""How sure a mean over training seeds is."""

from __future__ import annotations

import math
from collections.abc import Sequence

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

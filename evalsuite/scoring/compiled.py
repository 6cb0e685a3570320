"""Loops over pairs: compiled by numba where it is installed, plain Python where it is not.

Compiled loops add integers, or float64 in the order of one query's items. So a result depends
neither on threads nor on how pairs are cut into calls. The modules of compiled loops
(tile_counting.py, relevant_ranks.py) are imported on first use, because numba takes half a second
to load.

numba caches a compiled loop on disk until the loop's own file changes. The loops read the names of
rows from metrics.py and tie_rules.py as constants: after a change of such a row there, touch the
file of the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from numba import njit
except ImportError:  # the same results, some hundred times slower

    def njit(**_: Any) -> Callable[[Any], Any]:
        """Leave a function as it is."""
        return lambda function: function


COMPILED = njit.__module__.startswith("numba")

compiled = njit(nogil=True, cache=True)
"""Compile a function on its first call, for threads, and keep the result on disk."""

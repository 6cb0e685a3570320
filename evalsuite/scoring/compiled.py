"""Loops over pairs: compiled by numba where it is installed, plain Python where it is not.

What is compiled adds integers, or float64 in the order of one query's items, so that a result
depends neither on threads nor on how pairs are cut into calls. Modules of compiled loops
(counting.py, scoring.py) are imported on first use: numba takes half a second to load.
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

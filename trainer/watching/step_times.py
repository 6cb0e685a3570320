"""How many steps took how long, as Prometheus counts it."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

# Upper bounds in seconds.
STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class StepHistogram:
    """Counts steps by their duration."""

    def __init__(self) -> None:
        self._counts = [0] * (len(STEP_BUCKETS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count a step that took so long; one that took as long as a bound is within it."""
        self._counts[bisect_left(STEP_BUCKETS, seconds)] += 1
        self._sum += seconds

    def told(self) -> dict[str, Any]:
        """``sum`` of seconds and ``buckets``: upper bound -> steps of at most so many seconds."""
        count, buckets = 0, {}
        for bound, own in zip([*map(str, STEP_BUCKETS), "+Inf"], self._counts, strict=True):
            count += own
            buckets[bound] = count
        return {"sum": self._sum, "buckets": buckets}

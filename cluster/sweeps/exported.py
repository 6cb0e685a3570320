"""The Prometheus metrics of a sweep: cells by state, the time they took, the best scores."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from cluster.monitoring import SWEEP_STATES, Exporter, Families
from cluster.sweeps.live import Progress
from evalsuite.scoring import HEADLINES, LOWER_IS_BETTER
from trainer.sections import MonitoringConfig


class SweepMetrics:
    """The metrics of one sweep; :meth:`look` updates them from its progress."""

    def __init__(self, name: str, progress: Progress, *, registry: CollectorRegistry) -> None:
        self.families = Families("sweep", name, registry=registry)
        self._progress, self._counted = progress, 0
        self.families.set("img2shape_sweep_start_timestamp_seconds", time.time())
        self.families.add("img2shape_sweep_cell_seconds_total", 0)
        self.look()

    def look(self) -> None:
        """Set what has changed since the last call."""
        with self.families.together():
            self.families.replace("img2shape_sweep_cells", self._cells())
            ended = self._progress.rows[self._counted :]
            self._counted += len(ended)
            for row in ended:
                seconds = (row.get("seconds") or {}).get("total") or 0.0
                self.families.add("img2shape_sweep_cell_seconds_total", seconds)
            rows = [*self._progress.found, *self._progress.rows]
            self.families.replace("img2shape_sweep_best_score", best_scores(rows))

    def _cells(self) -> dict[str, float]:
        progress = self._progress
        states = Counter(row["status"] for row in (*progress.found, *progress.rows))
        states["running"], states["skipped"] = len(progress.running), progress.skipped
        pending = progress.total - len(progress.ended) - len(progress.running)
        states["pending"] = max(0, pending)
        return {state: float(states[state]) for state in SWEEP_STATES}


def best_scores(rows: list[Mapping[str, Any]]) -> dict[str, float]:
    """The best value of each metric among the finished rows, for their selected checkpoints."""
    scores = [row["metrics"] or {} for row in rows if row["status"] == "finished"]
    found = {}
    for name in HEADLINES:
        values = [s[name] for s in scores if s.get(name) is not None]
        if values:
            found[name] = min(values) if name in LOWER_IS_BETTER else max(values)
    return found


class _Export:
    """The sweep's endpoint; the monitoring options of its first cell open it."""

    def __init__(self, name: str, progress: Progress, stack: ExitStack) -> None:
        self._name, self._progress, self._stack = name, progress, stack
        self._open = False

    def begin(self, monitoring: MonitoringConfig) -> None:
        """Open the endpoint unless it is open or monitoring is off."""
        if self._open or not monitoring.enabled:
            return
        self._open, registry = True, CollectorRegistry()
        metrics = SweepMetrics(self._name, self._progress, registry=registry)
        exporter = Exporter(
            registry, host=monitoring.host, port=monitoring.port, before_scrape=metrics.look
        )
        self._stack.callback(exporter.close)


@contextmanager
def exported(name: str, progress: Progress) -> Iterator[_Export]:
    """A Prometheus endpoint for a sweep until the block ends; its cells have no own endpoints."""
    with ExitStack() as stack:
        yield _Export(name, progress, stack)

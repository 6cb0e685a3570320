"""Copies the metrics of a run to Ray's own metrics endpoint, for clusters that scrape that one.

Ray adds ``ray_`` before the names and ``_total`` after the names of counters. Histograms are not
copied, since Ray's histograms take single observations only. Ray cannot remove a series, so a
series that has ended keeps its last value until the command ends. The endpoint is the metrics port
of the agent on the command's node (``ray.nodes()[i]["MetricsExportPort"]``). A cluster started by
``ray start`` has it if Ray was installed as ``ray[default]``.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from cluster.monitoring.exported_metrics import Metric
from cluster.monitoring.families import Families, Labels

log = logging.getLogger(__name__)


class RayMirror:
    """Copies gauges and counters to the Ray session of this process, if it has one.

    After a failure, which is logged once, nothing more is copied. The training goes on.
    """

    def __init__(self, families: Families) -> None:
        self._families = families
        self._metrics: dict[str, Any] = {}
        self._counted: dict[tuple[str, Labels], float] = {}
        self._broken = False

    def look(self) -> None:
        """Copy the present values."""
        ray = sys.modules.get("ray")  # a process with a session has imported ray
        if self._broken or ray is None or not ray.is_initialized():
            return
        try:
            for entry, labels, value in self._families.values():
                self._copy(entry, labels, value)
        except Exception as err:  # no failure of Ray's metrics may end a training
            self._broken = True
            log.warning("Ray's metrics endpoint: %s: %s", type(err).__name__, err)

    def _copy(self, entry: Metric, labels: Labels, value: float) -> None:
        tags = dict(zip(entry.label_names, labels, strict=True))
        metric = self._metric(entry)
        if entry.kind == "gauge":
            metric.set(value, tags=tags)
            return
        key = (entry.name, labels)
        grown, self._counted[key] = value - self._counted.get(key, 0.0), value
        if grown > 0:  # Ray refuses 0
            metric.inc(grown, tags=tags)

    def _metric(self, entry: Metric) -> Any:
        if entry.name not in self._metrics:
            from ray.util.metrics import Counter, Gauge

            kind = Counter if entry.kind == "counter" else Gauge
            name = entry.name.removesuffix("_total")
            self._metrics[entry.name] = kind(name, entry.help, entry.label_names)
        return self._metrics[entry.name]

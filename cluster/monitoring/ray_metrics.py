"""The metrics of a run on Ray's own metrics endpoint as well, for clusters that scrape that.

Ray puts ``ray_`` in front of the names and ``_total`` behind counters. Histograms are not shown
there, since Ray's take single observations only, and a series that has ended keeps its last value
until the command ends: Ray cannot take one back. The endpoint is the port of the agent on the node
where the command runs (``ray.nodes()[i]["MetricsExportPort"]``); a cluster of ``ray start`` has it
if Ray was installed as ``ray[default]``.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from cluster.monitoring.exported_metrics import Metric
from cluster.monitoring.families import Families, Labels

log = logging.getLogger(__name__)


class RayMirror:
    """Passes gauges and counters on to the Ray session of this process, if there is one.

    A failure is logged once and ends the passing on, never a training.
    """

    def __init__(self, families: Families) -> None:
        self._families = families
        self._metrics: dict[str, Any] = {}
        self._counted: dict[tuple[str, Labels], float] = {}
        self._broken = False

    def look(self) -> None:
        """Pass on what the families have now."""
        ray = sys.modules.get("ray")  # who has a session has imported it
        if self._broken or ray is None or not ray.is_initialized():
            return
        try:
            for entry, labels, value in self._families.values():
                self._pass_on(entry, labels, value)
        except Exception as err:  # whatever Ray's metrics break by
            self._broken = True
            log.warning("Ray's metrics endpoint: %s: %s", type(err).__name__, err)

    def _pass_on(self, entry: Metric, labels: Labels, value: float) -> None:
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

"""Monitoring around one training: metrics, the endpoint, and the state that the run ends in."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from cluster.monitoring.exporter import Exporter
from cluster.monitoring.ray_metrics import RayMirror
from cluster.monitoring.run_metrics import RunMetrics
from trainer.config import RunConfig
from trainer.runs import RunFolder
from trainer.watching import NonFiniteError

MIRROR_SECONDS = 5.0


class Monitor:
    """What a training tells its metrics by itself; all else they find in the run folder.

    Args:
        metrics: None where nothing is exported.
    """

    def __init__(self, metrics: RunMetrics | None) -> None:
        self._metrics = metrics
        self._mirror = RayMirror(metrics.families) if metrics else None
        self._next_seconds = 0.0

    def waiting(self) -> None:
        """The run waits for room in the cluster, until it trains."""
        if self._metrics is not None:
            self._metrics.state("waiting")

    def look(self) -> None:
        """Show the metrics on Ray's endpoint too, now and then."""
        now_seconds = time.monotonic()
        if self._metrics is None or self._mirror is None or now_seconds < self._next_seconds:
            return
        self._next_seconds = now_seconds + MIRROR_SECONDS
        self._metrics.look()
        self._mirror.look()


@contextmanager
def monitored(config: RunConfig, folder: Path) -> Iterator[Monitor]:
    """Export the metrics of a training of ``config`` in ``folder`` while the block lasts.

    Under ``torchrun`` rank 0 alone does, and nobody with ``monitoring.enabled=false``.

    Raises:
        ConfigError: ``monitoring.host`` is no address.
    """
    options, leader = config.monitoring, os.environ.get("RANK", "0") == "0"
    if not options.enabled or not leader:
        yield Monitor(None)
        return
    registry = CollectorRegistry()
    metrics = RunMetrics(RunFolder(folder), registry=registry, run=folder.absolute().name)
    exporter = Exporter(registry, host=options.host, port=options.port, before_scrape=metrics.look)
    state = "failed"
    try:
        yield Monitor(metrics)
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    except NonFiniteError:
        metrics.nonfinite()
        raise
    finally:
        metrics.look()
        metrics.state(state)
        exporter.close()

"""Monitoring of one training: its metrics, its endpoint, and the state that it ends in."""

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
    """What the command tells the metrics of its training. They read the rest from the run folder.

    Args:
        metrics: None if nothing is exported.
    """

    def __init__(self, metrics: RunMetrics | None) -> None:
        self._metrics = metrics
        self._mirror = RayMirror(metrics.families) if metrics else None
        self._next_seconds = 0.0

    def waiting(self) -> None:
        """Set the state ``waiting``: the run waits for room in the cluster."""
        if self._metrics is not None:
            self._metrics.state("waiting")

    def look(self) -> None:
        """Copy the metrics to Ray's endpoint, at most every ``MIRROR_SECONDS``."""
        now_seconds = time.monotonic()
        if self._metrics is None or self._mirror is None or now_seconds < self._next_seconds:
            return
        self._next_seconds = now_seconds + MIRROR_SECONDS
        self._metrics.look()
        self._mirror.look()


@contextmanager
def monitored(config: RunConfig, folder: Path) -> Iterator[Monitor]:
    """Export the metrics of a training of ``config`` in ``folder`` while the block runs.

    Under ``torchrun`` only rank 0 exports. With ``monitoring.enabled=false`` no process does.

    Raises:
        ConfigError: ``monitoring.host`` is not an address.
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

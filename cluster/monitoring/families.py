"""The metric families of the catalogue for one run or one sweep, with the values they have now."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from cluster.monitoring.exported_metrics import METRICS
from cluster.monitoring.exported_metrics import Metric as Entry

Labels = tuple[str, ...]  # values, in the order of the entry's label names


class Families(Collector):
    """Holds values and gives them to a registry; a series that nobody has set does not exist.

    Safe to share between threads. A scrape sees all of what was set inside one :meth:`together`
    block, or none of it.

    Args:
        of: whose metrics: a run's or a sweep's.
        owner: its name, the first label of every series.
    """

    def __init__(
        self, of: Literal["run", "sweep"], owner: str, *, registry: CollectorRegistry
    ) -> None:
        self._owner = owner
        self._entries = {entry.name: entry for entry in METRICS if entry.of == of}
        self._values: dict[str, dict[Labels, float]] = {name: {} for name in self._entries}
        self._histograms: dict[str, tuple[list[float], float]] = {}  # counts by bucket, and sum
        self._lock = threading.RLock()
        registry.register(self)

    @contextmanager
    def together(self) -> Iterator[None]:
        """No scrape comes between the changes that the block makes."""
        with self._lock:
            yield

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set one series of a gauge.

        Raises:
            KeyError: no metric of this name, or other labels than the catalogue's.
        """
        with self._lock:
            self._values[name][self._key(name, labels)] = float(value)

    def add(self, name: str, amount: float, **labels: str) -> None:
        """Add to one series of a counter; 0 makes it exist. Raises as :meth:`set`."""
        with self._lock:
            series, key = self._values[name], self._key(name, labels)
            series[key] = series.get(key, 0.0) + max(0.0, amount)

    def observe(self, name: str, counts: Iterable[float], seconds: float) -> None:
        """Add observations to a histogram.

        Args:
            counts: how many fell at or below each bound of the entry, and at last how many there
                were, as Prometheus counts them: cumulative.
            seconds: their sum.
        """
        added = list(counts)
        assert len(added) == len(self._entries[name].buckets) + 1, name
        with self._lock:
            before, total = self._histograms.get(name, ([0.0] * len(added), 0.0))
            summed = [a + b for a, b in zip(before, added, strict=True)]
            self._histograms[name] = (summed, total + seconds)

    def replace(self, name: str, series: Mapping[str, float]) -> None:
        """Set the series of a gauge with one label beside the owner, and drop all others of it."""
        with self._lock:
            self._values[name].clear()
            for label, value in series.items():
                self.set(name, value, **{self._entries[name].labels[0]: label})

    def clear(self, name: str) -> None:
        """Drop the series of a metric: its value is not known any more."""
        with self._lock:
            self._values[name].clear()
            self._histograms.pop(name, None)

    def values(self) -> Iterator[tuple[Entry, Labels, float]]:
        """All series of gauges and counters: entry, label values (the owner first), value."""
        with self._lock:
            found = [
                (self._entries[name], (self._owner, *key), value)
                for name, series in self._values.items()
                for key, value in series.items()
            ]
        yield from found

    def collect(self) -> list[Metric]:
        """Called by the registry at each scrape."""
        with self._lock:
            return [made for entry in self._entries.values() if (made := self._family(entry))]

    def describe(self) -> list[Metric]:
        """What :meth:`collect` may give; two owners share a registry only by other names."""
        return [self._empty(entry) for entry in self._entries.values()]

    def _key(self, name: str, labels: Mapping[str, str]) -> Labels:
        wanted = self._entries[name].labels
        if set(labels) != set(wanted):
            raise KeyError(f"{name} has the labels {wanted}, not {tuple(labels)}")
        return tuple(labels[label] for label in wanted)

    @staticmethod
    def _empty(entry: Entry) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
        kinds = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        return kinds[entry.kind](entry.name, entry.help, labels=entry.label_names)

    def _family(self, entry: Entry) -> Metric | None:
        family = self._empty(entry)
        if isinstance(family, HistogramMetricFamily):
            if entry.name not in self._histograms:
                return None
            counts, seconds = self._histograms[entry.name]
            bounds = [*map(floatToGoString, entry.buckets), "+Inf"]
            family.add_metric([self._owner], list(zip(bounds, counts, strict=True)), seconds)
            return family
        for key, value in self._values[entry.name].items():
            family.add_metric([self._owner, *key], value)
        return family if family.samples else None

"""The exported metrics of one run or one sweep, with their present values."""

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

Labels = tuple[str, ...]  # label values, in the order of the entry's labels


class Families(Collector):
    """Holds the values of metrics and gives them to a registry.

    A series exists once it has been set. Threads may share this object. A scrape sees all changes
    of one :meth:`together` block or none of them.

    Args:
        of: whether these are the metrics of a run or of a sweep.
        owner: name of the run or sweep, the value of the first label of every series.
    """

    def __init__(
        self, of: Literal["run", "sweep"], owner: str, *, registry: CollectorRegistry
    ) -> None:
        self._owner = owner
        self._entries = {entry.name: entry for entry in METRICS if entry.of == of}
        self._values: dict[str, dict[Labels, float]] = {name: {} for name in self._entries}
        self._histograms: dict[str, tuple[list[float], float]] = {}  # cumulative counts and sum
        self._lock = threading.RLock()
        registry.register(self)

    @contextmanager
    def together(self) -> Iterator[None]:
        """No scrape sees some of the changes of this block without the others."""
        with self._lock:
            yield

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set one series of a gauge.

        Raises:
            KeyError: the metric is not exported, or it has other labels.
        """
        with self._lock:
            self._values[name][self._key(name, labels)] = float(value)

    def add(self, name: str, amount: float, **labels: str) -> None:
        """Add to one series of a counter. Adding 0 makes it exist. Raises as :meth:`set` does."""
        with self._lock:
            series, key = self._values[name], self._key(name, labels)
            series[key] = series.get(key, 0.0) + max(0.0, amount)

    def observe(self, name: str, counts: Iterable[float], seconds: float) -> None:
        """Add observations to a histogram.

        Args:
            counts: number of observations at or below each bound of the entry (cumulative, as in
                Prometheus), then the number of all observations.
            seconds: sum of all observations.
        """
        added = list(counts)
        assert len(added) == len(self._entries[name].buckets) + 1, name
        with self._lock:
            before, total = self._histograms.get(name, ([0.0] * len(added), 0.0))
            summed = [a + b for a, b in zip(before, added, strict=True)]
            self._histograms[name] = (summed, total + seconds)

    def replace(self, name: str, series: Mapping[str, float]) -> None:
        """Replace all series of a gauge that has one label beside the owner's.

        Args:
            series: value by label value.
        """
        with self._lock:
            self._values[name].clear()
            for label, value in series.items():
                self.set(name, value, **{self._entries[name].labels[0]: label})

    def clear(self, name: str) -> None:
        """Drop all series of a metric, since its value is not known any more."""
        with self._lock:
            self._values[name].clear()
            self._histograms.pop(name, None)

    def values(self) -> Iterator[tuple[Entry, Labels, float]]:
        """Every series of the gauges and counters: entry, label values (owner first), value."""
        with self._lock:
            found = [
                (self._entries[name], (self._owner, *key), value)
                for name, series in self._values.items()
                for key, value in series.items()
            ]
        yield from found

    def collect(self) -> list[Metric]:
        """The registry calls this at each scrape."""
        with self._lock:
            return [made for entry in self._entries.values() if (made := self._family(entry))]

    def describe(self) -> list[Metric]:
        """The families that :meth:`collect` may return, for the registry's check of duplicates."""
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

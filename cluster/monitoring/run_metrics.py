"""The metrics of a run, read from the files of its run folder.

The process that exports needs no connection to the processes that train. So a run has the same
metrics whether it trains in the command's process, under ``torchrun`` or in Ray workers.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from cluster.monitoring.exported_metrics import RUN_STATES
from cluster.monitoring.families import Families
from evalsuite.run_records import read_records
from trainer.config import load_config
from trainer.runs import RunFolder, Start, read_starts
from trainer.watching import FORMAT

log = logging.getLogger(__name__)

# Reasons in attempts.jsonl, by their first words -> values of the label ``reason``.
_REASONS = {
    "worker death": "worker_death",
    "hang": "hang",
    "preemption": "preemption",
    "SIGTERM": "sigterm",
    "room for more workers": "larger_group",
    "continued": "continued",
}
RESTART_REASONS = (*_REASONS.values(), "other")

# Health signals that several methods have, or that alerts use, have their own metrics. The others
# share the metric img2shape_health, with the name of the signal as a label.
_ALONE = {
    "gradient_norm": "img2shape_gradient_norm",
    "domain_mmd": "img2shape_domain_mmd",
    "pseudo_label_coverage": "img2shape_pseudo_label_coverage_ratio",
    "pseudo_label_agreement": "img2shape_pseudo_label_agreement_ratio",
}
_DRIFT, _ACCURACY, _GATE = "_center_drift", "discriminator_accuracy", "gate_"
_LABELLED = (
    "img2shape_center_drift",
    "img2shape_discriminator_accuracy_ratio",
    "img2shape_gate_value",
    "img2shape_health",
)
Series = list[tuple[dict[str, str], float]]


def restart_reason(words: str) -> str:
    """The label ``reason`` for the words of a start in ``attempts.jsonl``."""
    return next((label for begin, label in _REASONS.items() if words.startswith(begin)), "other")


def health_series(health: Mapping[str, float]) -> dict[str, Series]:
    """The series of all health metrics: metric name -> (labels, value) of each series.

    Args:
        health: values by the names that the signals have in ``log.jsonl``. A metric without a
            signal has no series.
    """
    found: dict[str, Series] = {name: [] for name in (*_ALONE.values(), *_LABELLED)}
    for signal, value in health.items():
        name, labels = _metric_of(signal)
        found[name].append((labels, value))
    return found


def _metric_of(signal: str) -> tuple[str, dict[str, str]]:
    """Metric name and labels of a health signal."""
    if signal in _ALONE:
        return _ALONE[signal], {}
    if signal.endswith(_DRIFT):
        return "img2shape_center_drift", {"domain": signal.removesuffix(_DRIFT)}
    if signal.endswith(_ACCURACY):
        # The only discriminator of a method has no name in the signal; it is called "domain".
        name = signal.removesuffix(_ACCURACY).rstrip("_") or "domain"
        return "img2shape_discriminator_accuracy_ratio", {"discriminator": name}
    if signal.startswith(_GATE):
        return "img2shape_gate_value", {"gate": signal.removeprefix(_GATE)}
    return "img2shape_health", {"signal": signal}


class RunMetrics:
    """The metrics of one run while one command trains it; :meth:`look` updates them.

    Counters begin at 0 with the command. What earlier commands left in the folder is not shown:
    series of the training exist once this command's training has begun. A file that cannot be read,
    such as one that is not complete yet, changes nothing. Threads may share this object.

    Args:
        registry: registry to export; it has no other run.
        run: value of the label ``run``.
    """

    def __init__(self, folder: RunFolder, *, registry: CollectorRegistry, run: str) -> None:
        self._folder = folder
        self.families = Families("run", run, registry=registry)
        self._starts_before = len(_starts(folder))
        self._starts_seen = 0
        self._attempt_before = int((_read(folder.facts) or {}).get("attempt", 0))
        self._attempt = 0
        self._counted: dict[tuple[str, ...], float] = {}  # values of this attempt, by series
        self._state = "starting"
        self._begin()

    def state(self, name: str) -> None:
        """Set the state of the run, one of ``RUN_STATES``. :meth:`look` finds out ``training``."""
        with self.families.together():
            self._state = name
            self.families.replace("img2shape_run_state", {s: float(s == name) for s in RUN_STATES})

    def nonfinite(self) -> None:
        """Count a loss or a gradient that was not finite, which ended the run."""
        self.families.add("img2shape_nonfinite_total", 1)

    def look(self) -> None:
        """Read the run folder and update the metrics.

        A file with unexpected content is logged and changes nothing.
        """
        try:
            self._look()
        except (LookupError, TypeError, ValueError, AttributeError) as err:
            log.warning(
                "%s: not as it should be (%r); the metrics keep their values",
                self._folder.path,
                err,
            )

    def _look(self) -> None:
        with self.families.together():
            starts = _starts(self._folder)[self._starts_before :]
            self._look_at_starts(starts)
            if not starts:  # the other files are still those of an earlier command
                self._describe()
                return
            telemetry = _read(self._folder.telemetry) or {}
            if telemetry.get("format") == FORMAT and telemetry["attempt"] > self._attempt_before:
                self._look_at(telemetry)
            self._look_at_validation()

    def _begin(self) -> None:
        with self.families.together():
            set_, add = self.families.set, self.families.add
            set_("img2shape_run_start_timestamp_seconds", time.time())
            versions = {name: _version(name) for name in ("torch", "ray")}
            python = platform.python_version()
            set_(
                "img2shape_build_info", 1, version=_version("img2shape"), python=python, **versions
            )
            # These begin at 0: Prometheus needs a first value to see the first increase.
            for name in ("img2shape_steps_total", "img2shape_nonfinite_total"):
                add(name, 0)
            for reason in RESTART_REASONS:
                add("img2shape_restarts_total", 0, reason=reason)
            self.state("starting")
            self._describe()

    def _describe(self) -> None:
        """Set what the run is and how many steps are planned, once its folder has both.

        This is repeated until the training begins, since until then the folder may describe an
        earlier command's training.
        """
        facts = _read(self._folder.facts)
        try:
            config = load_config(self._folder.config)
        except (OSError, ValueError):
            return
        if facts is None or not isinstance(facts.get("steps"), int):
            return
        self.families.set("img2shape_steps_planned", facts["steps"])
        self.families.clear("img2shape_run_info")
        self.families.set(
            "img2shape_run_info",
            1,
            method=config.method_name,
            dataset=facts.get("dataset") or "",
            backbone=config.network.trunk_names,
            strategy=config.strategy.name,
            identity=config.identity,
        )

    def _look_at_starts(self, starts: list[Start]) -> None:
        if len(starts) <= self._starts_seen:
            return
        for start in starts[self._starts_seen :]:
            if start.reason != "start":
                reason = restart_reason(start.reason)
                self.families.add("img2shape_restarts_total", 1, reason=reason)
        self._starts_seen = len(starts)
        self.families.set("img2shape_world_size", starts[-1].world_size)
        self._describe()
        if self._state in ("starting", "waiting"):
            self.state("training")

    def _look_at(self, telemetry: Mapping[str, Any]) -> None:
        if telemetry["attempt"] != self._attempt:  # a new attempt counts from 0 again
            self._attempt = telemetry["attempt"]
            self._counted.clear()
        gauge = self._gauge
        gauge("img2shape_step", telemetry.get("step"))
        gauge("img2shape_world_size", telemetry.get("world_size"))
        gauge("img2shape_last_step_timestamp_seconds", telemetry.get("last_step_time"))
        gauge("img2shape_rank_skew_ratio", telemetry.get("rank_skew"))
        gauge("img2shape_cache_bytes", telemetry.get("cache_bytes"))
        gauge("img2shape_bad_samples", telemetry.get("bad_samples"))
        self._count("img2shape_steps_total", telemetry.get("steps"))
        self._count("img2shape_shard_read_bytes_total", telemetry.get("read_bytes"))
        for stream, samples in telemetry.get("samples", {}).items():
            self._count("img2shape_samples_total", samples, stream=stream)
        for phase, seconds in telemetry.get("phases", {}).items():
            if phase != "total":
                self._count("img2shape_phase_seconds_total", seconds, phase=phase)
        self._look_at_steps(telemetry.get("step_seconds") or {})
        self._look_at_checkpoint(telemetry.get("checkpoint") or {})
        self._look_at_record(telemetry.get("record") or {})

    def _look_at_steps(self, histogram: Mapping[str, Any]) -> None:
        if not histogram:
            return
        added = [
            self._growth(("step_seconds", bound), count)
            for bound, count in histogram["buckets"].items()
        ]
        seconds = self._growth(("step_seconds", "sum"), histogram["sum"])
        self.families.observe("img2shape_step_seconds", added, seconds)

    def _look_at_checkpoint(self, written: Mapping[str, Any]) -> None:
        for name, key in (
            ("step", "step"),
            ("timestamp_seconds", "time"),
            ("bytes", "bytes"),
            ("write_seconds", "seconds"),
        ):
            self._gauge(f"img2shape_checkpoint_{name}", written.get(key))

    def _look_at_record(self, record: Mapping[str, Any]) -> None:
        self._gauge("img2shape_loss", record.get("loss"))
        self._gauge("img2shape_learning_rate", record.get("learning_rate"))
        self.families.replace("img2shape_loss_term", _known(record.get("terms", {})))
        for name, series in health_series(_known(record.get("health", {}))).items():
            self.families.clear(name)
            for labels, value in series:
                self.families.set(name, value, **labels)

    def _look_at_validation(self) -> None:
        try:
            last = read_records(self._folder.validation)[-1]
            step, scores = float(last["step"]), _known(last["scores"])
        except (OSError, ValueError, IndexError, KeyError, TypeError):
            return
        self.families.set("img2shape_evaluation_step", step)
        self.families.replace("img2shape_evaluation_score", scores)

    def _gauge(self, name: str, value: float | None) -> None:
        """Set a gauge without labels, or drop its series if the value is not known."""
        self.families.clear(name)
        if value is not None:
            self.families.set(name, value)

    def _count(self, name: str, value: float | None, **labels: str) -> None:
        if value is not None:
            self.families.add(name, self._growth((name, *labels.values()), value), **labels)

    def _growth(self, key: tuple[str, ...], value: float) -> float:
        """How much a counted value of this attempt has grown since the last look."""
        before, self._counted[key] = self._counted.get(key, 0.0), value
        return max(0.0, value - before)


def _starts(folder: RunFolder) -> list[Start]:
    return _or(list[Start](), lambda: read_starts(folder.path))


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None if it cannot be read."""
    found = _or(None, lambda: json.loads(path.read_text()))
    return found if isinstance(found, dict) else None


def _or(otherwise: Any, read: Callable[[], Any]) -> Any:
    """What ``read`` returns, or ``otherwise`` if the file is missing or damaged."""
    try:
        return read()
    except (OSError, ValueError):
        return otherwise


def _known(values: Mapping[str, Any]) -> dict[str, float]:
    """The values without nulls, which the files have in place of NaN and infinities."""
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float)}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"

"""What a run's own files say, as metrics: the run folder is the only thing that is looked at.

So the process that exports needs nothing of the processes that train, and a run looks the same
whether it trains in the command's process, under ``torchrun`` or in Ray workers.
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
from cluster.monitoring.health_signals import health_series
from trainer.config import load_config
from trainer.runs import RunFolder, Start, read_starts
from trainer.watching import FORMAT

log = logging.getLogger(__name__)

# What attempts.jsonl has in words, by what it begins with; the label's values are a closed set.
_REASONS = {
    "worker death": "worker_death",
    "hang": "hang",
    "preemption": "preemption",
    "SIGTERM": "sigterm",
    "room for more workers": "larger_group",
    "continued": "continued",
}
RESTART_REASONS = (*_REASONS.values(), "other")


def restart_reason(words: str) -> str:
    """The label value for a :class:`~trainer.runs.attempt.Start`'s reason."""
    return next((label for begin, label in _REASONS.items() if words.startswith(begin)), "other")


class RunMetrics:
    """The metrics of one call for one run; :meth:`look` renews them.

    What earlier calls have left in the folder does not count: counters begin at 0 here, and nothing
    of the training is shown before it has begun. A file that cannot be read, such as one that is
    being made, changes nothing. Safe to share between threads.

    Args:
        registry: the one to export; it holds this run alone.
        run: value of the label ``run``.
    """

    def __init__(self, folder: RunFolder, *, registry: CollectorRegistry, run: str) -> None:
        self._folder = folder
        self.families = Families("run", run, registry=registry)
        self._starts_before = len(_starts(folder))
        self._starts_seen = 0
        self._attempt_before = int((_read(folder.facts) or {}).get("attempt", 0))
        self._attempt = 0
        self._counted: dict[tuple[str, ...], float] = {}  # of this attempt, by series
        self._state = "starting"
        self._begin()

    def state(self, name: str) -> None:
        """Say which of ``RUN_STATES`` the run is in; ``training`` is found out by looking."""
        with self.families.together():
            self._state = name
            self.families.replace("img2shape_run_state", {s: float(s == name) for s in RUN_STATES})

    def nonfinite(self) -> None:
        """A loss or a gradient was not finite, which ended the run."""
        self.families.add("img2shape_nonfinite_total", 1)

    def look(self) -> None:
        """Read the folder and set what has changed since; raises nothing that a file is to blame
        for."""
        try:
            self._look()
        except (LookupError, TypeError, ValueError, AttributeError) as err:
            log.warning("%s: not as it should be (%r); metrics stay", self._folder.path, err)

    def _look(self) -> None:
        with self.families.together():
            starts = _starts(self._folder)[self._starts_before :]
            self._look_at_starts(starts)
            if not starts:  # whatever is there is of an earlier call
                self._describe()
                return
            told = _read(self._folder.telemetry) or {}
            if told.get("format") == FORMAT and told["attempt"] > self._attempt_before:
                self._look_at(told)
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
            # These are 0 in truth, and a rate needs the 0 that an event is counted from.
            for name in ("img2shape_steps_total", "img2shape_nonfinite_total"):
                add(name, 0)
            for reason in RESTART_REASONS:
                add("img2shape_restarts_total", 0, reason=reason)
            self.state("starting")
            self._describe()

    def _describe(self) -> None:
        """What the run is, once its folder tells; again as long as no training has begun, since
        the folder may have told what an earlier call ran with."""
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
            backbone=config.network.backbone,
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

    def _look_at(self, told: Mapping[str, Any]) -> None:
        if told["attempt"] != self._attempt:  # whose numbers began at 0 again
            self._attempt = told["attempt"]
            self._counted.clear()
        gauge = self._gauge
        gauge("img2shape_step", told.get("step"))
        gauge("img2shape_world_size", told.get("world_size"))
        gauge("img2shape_last_step_timestamp_seconds", told.get("last_step_time"))
        gauge("img2shape_rank_skew_ratio", told.get("rank_skew"))
        gauge("img2shape_cache_bytes", told.get("cache_bytes"))
        gauge("img2shape_bad_samples", told.get("bad_samples"))
        self._count("img2shape_steps_total", told.get("steps"))
        self._count("img2shape_shard_read_bytes_total", told.get("read_bytes"))
        for stream, samples in told.get("samples", {}).items():
            self._count("img2shape_samples_total", samples, stream=stream)
        for phase, seconds in told.get("phases", {}).items():
            if phase != "total":
                self._count("img2shape_phase_seconds_total", seconds, phase=phase)
        self._look_at_steps(told.get("step_seconds") or {})
        self._look_at_checkpoint(told.get("checkpoint") or {})
        self._look_at_record(told.get("record") or {})

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
            lines = self._folder.validation.read_text().splitlines()
            last = json.loads(lines[-1])
            step, scores = float(last["step"]), _known(last["scores"])
        except (OSError, ValueError, IndexError, KeyError, TypeError):
            return
        self.families.set("img2shape_evaluation_step", step)
        self.families.replace("img2shape_evaluation_score", scores)

    def _gauge(self, name: str, value: float | None) -> None:
        """Set a gauge without labels; what is not known has no series."""
        self.families.clear(name)
        if value is not None:
            self.families.set(name, value)

    def _count(self, name: str, value: float | None, **labels: str) -> None:
        if value is not None:
            self.families.add(name, self._growth((name, *labels.values()), value), **labels)

    def _growth(self, key: tuple[str, ...], value: float) -> float:
        """How much a number of this attempt has grown since the last look."""
        before, self._counted[key] = self._counted.get(key, 0.0), value
        return max(0.0, value - before)


def _starts(folder: RunFolder) -> list[Start]:
    return _or(list[Start](), lambda: read_starts(folder.path))


def _read(path: Path) -> dict[str, Any] | None:
    """A file's JSON object; None while it cannot be read."""
    found = _or(None, lambda: json.loads(path.read_text()))
    return found if isinstance(found, dict) else None


def _or(otherwise: Any, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError):
        return otherwise


def _known(values: Mapping[str, Any]) -> dict[str, float]:
    """Without those that are null, as the files have what is not finite."""
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float)}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"

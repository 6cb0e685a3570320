"""What one cell does, in whatever process it is run: train, score, one row of the ledger."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.evaluation import evaluate_run, write_report
from cluster.ledger import Ledger, cell_lock, ledger_at
from cluster.sinks import reporting
from cluster.sweeps.cells import Cell
from cluster.tables import HEADLINE
from cluster.training import launch
from evalsuite.scoring import read_scores
from evalsuite.statistics import intervals
from trainer.choosing import CRITERIA
from trainer.inputs import open_data_set, training_selections
from trainer.runs import RunFolder, finite_json, read_starts

Report = Callable[[dict[str, Any]], None]
"""Called with the step and the scores of each validation of a cell, and now and then without."""

PROGRESS_SECONDS = 2.0  # between two words about where a cell stands
RESAMPLES = 500  # of the intervals that a row carries


@dataclass(frozen=True)
class Store:
    """The folder of all sweeps: one ledger, and the run folders of its rows."""

    path: Path

    @cached_property
    def ledger(self) -> Ledger:
        return ledger_at(self.path)

    def folder(self, cell: Cell) -> RunFolder:
        return RunFolder(self.path / "cells" / cell.name)


def run_cell(
    cell: Cell,
    store: Store,
    *,
    sweep: str,
    workers: int,
    cpus: float,
    gpus: float,
    report: Report,
    with_report: bool,
) -> dict[str, Any]:
    """Train and score ``cell`` where it is not in the ledger yet; returns its row.

    ``with_report`` also writes ``report.html`` into the run folder, when the row is kept.

    A half-trained run folder is continued. Where another sweep works on the same cell, this waits
    for it and takes its result.

    Raises:
        ConfigError, DataError, NonFiniteError, ...: those of training and evaluation.
    """
    with cell_lock(store.path, cell.name):
        done = store.ledger.current_of(cell.key)
        if done is not None and done["status"] == "finished":
            return done
        begun_seconds = time.monotonic()
        folder = store.folder(cell)
        with reporting(cell.sinks, cell.config, folder.path) as sinks:
            watch = _Watch(folder, report, sinks.look)
            launch(cell.config, folder.path, workers=workers, on_record=watch)
        trained_seconds = time.monotonic()
        row = _facts(cell, sweep=sweep) | _scored(cell, folder)
        ended_seconds = time.monotonic()
        seconds = {
            "train": _trained_seconds(folder),
            "evaluate": ended_seconds - trained_seconds,
            "total": ended_seconds - begun_seconds,
        }
        used = max(1, workers)
        row |= {
            "status": "finished",
            "written": _now(),
            "curve": _curve(cell, folder),
            "seconds": seconds,
            "images_per_second": _pictures_per_second(cell, folder),
            "cpu_seconds": seconds["total"] * cpus * used,
            "gpu_seconds": seconds["total"] * gpus * used,
            "world_size": folder.read().get("world_size", used),
            "run": str(folder.path.relative_to(store.path)),
            "attempts": _attempts(folder),
            "versions": folder.read().get("versions", {}),
            "host": platform.node(),
        }
        row = finite_json(row)
        store.ledger.append(row)
        if with_report:
            write_report([folder.path], folder.path / "report.html", title=cell.shown)
        return row


def failed_row(cell: Cell, store: Store, *, sweep: str, error: str) -> dict[str, Any]:
    """The row of a cell that failed for good; written."""
    return _unfinished(cell, store, sweep=sweep, status="failed", error=error)


def stopped_row(cell: Cell, store: Store, *, sweep: str, at: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a cell that early stopping has ended after the report ``at``; written."""
    score = f"{cell.choosing.compares} {at.get(cell.choosing.compares or '')}"
    words = f"stopped early at step {at.get('step')} ({score})"
    return _unfinished(cell, store, sweep=sweep, status="stopped", error=words)


def _unfinished(cell: Cell, store: Store, *, sweep: str, status: str, error: str) -> dict[str, Any]:
    folder = store.folder(cell)
    row = finite_json(
        _facts(cell, sweep=sweep)
        | {
            "status": status,
            "written": _now(),
            "metrics": None,
            "selected": None,
            "oracle": None,
            "intervals": {},
            "curve": _curve(cell, folder),
            "seconds": {"train": _trained_seconds(folder)},
            "run": str(folder.path.relative_to(store.path)),
            "error": error,
            "attempts": _attempts(folder),
            "host": platform.node(),
        }
    )
    store.ledger.append(row)
    return row


def _facts(cell: Cell, *, sweep: str) -> dict[str, Any]:
    config = cell.config
    return {
        "format": 1,
        "key": cell.key,
        "sweep": sweep,
        "cell": cell.labels,
        "method": config.method_name,
        "dataset": config.data.dataset,
        "seed": config.training.seed,
        "config": config.to_dict(),
        "identity": config.identity,
        "fingerprint": cell.fingerprint,
        "code": cell.code,
        "selection": cell.choosing.selection,
        "steps": config.training.steps,
        "error": None,
    }


def _scored(cell: Cell, folder: RunFolder) -> dict[str, Any]:
    """Numbers of the selected checkpoint, and of the oracle's where one was asked for."""
    choice = cell.choosing
    chosen = evaluate_run(folder.path, shards=1, select=choice.selection)
    oracle = None
    if choice.selection == "oracle":
        oracle = chosen
    elif choice.oracle:
        oracle = evaluate_run(folder.path, shards=1, select="oracle")
    scores = intervals(read_scores(_results(folder, chosen)), resamples=RESAMPLES)
    return {
        "metrics": {name: chosen[name] for name in HEADLINE},
        "selected": {
            "selection": chosen["selection"],
            "step": chosen["step"],
            "score": chosen.get("score"),
        },
        "oracle": None
        if oracle is None
        else {
            "selection": oracle["selection"],
            "step": oracle["step"],
            "metrics": {name: oracle[name] for name in HEADLINE},
        },
        "intervals": {name: [found.low, found.high] for name, found in scores.items()},
    }


def _results(folder: RunFolder, result: Mapping[str, Any]) -> Path:
    """The folder that an evaluation has written its results into."""
    last = result["selection"] == "last"
    return folder.path if last else folder.path / f"at-{result['step']:08d}"


class _Watch:
    """Passes on what a run says: each validation once, and its progress now and then."""

    def __init__(self, folder: RunFolder, report: Report, look: Callable[[], None]) -> None:
        self._folder, self._report, self._look = folder, report, look
        self._reported, self._said_seconds = -1, 0.0

    def __call__(self, record: Mapping[str, Any]) -> None:
        self._look()
        scored = [r for r in _records(self._folder.validation) if r["step"] > self._reported]
        for found in scored:
            self._reported = found["step"]
            self._report({"step": found["step"], **_known(found["scores"])})
        now_seconds = time.monotonic()
        if scored or now_seconds - self._said_seconds >= PROGRESS_SECONDS:
            self._said_seconds = now_seconds
            self._report({"at": record["step"] + 1, "loss": record["loss"]})


def _known(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if value is not None}


def _curve(cell: Cell, folder: RunFolder) -> list[dict[str, Any]]:
    """The loss where it was logged last before each validation, and the scores there."""
    losses = [(r["step"] + 1, r["loss"]) for r in _records(folder.log)]
    scored = _records(folder.validation)
    wanted = {"mAP", *CRITERIA, cell.choosing.metric}
    curve = []
    for record in scored:
        before = [loss for step, loss in losses if step <= record["step"]]
        kept = {name: value for name, value in record["scores"].items() if name in wanted}
        curve.append({"step": record["step"], "loss": before[-1] if before else None, **kept})
    return curve


def _records(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a log; the last one may still be on its way."""
    if not path.exists():
        return []
    lines: Iterable[str] = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _trained_seconds(folder: RunFolder) -> float:
    """By the clock of the last start, from its beginning to its last logged step."""
    records = _records(folder.log)
    return float(records[-1]["seconds"]) if records else 0.0


def _attempts(folder: RunFolder) -> int:
    return len(read_starts(folder.path))


def _pictures_per_second(cell: Cell, folder: RunFolder) -> float:
    """Pictures that went through the network in a second of a step, a shape's views each."""
    steps = folder.read().get("step_timings", {}).get("per_second", 0.0)
    config = cell.config
    pictures = 0
    for selection in training_selections(config).values():
        views = 1
        if selection.stream == "shape":
            manifest = open_data_set(config, selection)
            views = config.data.train_views or int(manifest.views.max())
        pictures += views * config.training.batch
    return steps * pictures


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

"""Running one cell in the process of its trial: train, score, append a row to the ledger."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.evaluation import evaluate_run, write_report
from cluster.ledger import Ledger, cell_lock, ledger_at
from cluster.sinks import reporting
from cluster.sweeps.cells import Cell
from cluster.training import launch
from evalsuite.run_records import read_records
from evalsuite.scoring import HEADLINES, read_scores
from evalsuite.statistics import intervals
from trainer.choosing import CRITERIA
from trainer.inputs import OpenData, training_selections
from trainer.runs import RunFolder, finite_json, read_starts

Report = Callable[[dict[str, Any]], None]
"""Called with the step and the scores of each validation, and with step and loss in between."""

PROGRESS_SECONDS = 2.0  # between two reports of step and loss
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
    """Train and score ``cell`` unless the ledger has its result; returns its row.

    A half-trained run folder is continued. Where another sweep works on the same cell, this waits
    for it and takes its result. ``with_report`` also writes ``report.html`` into the run folder.

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
        scored = _scored(cell, folder)
        ended_seconds = time.monotonic()
        seconds = {
            "train": _trained_seconds(folder),
            "evaluate": ended_seconds - trained_seconds,
            "total": ended_seconds - begun_seconds,
        }
        used, recorded = max(1, workers), folder.read()
        row = _facts(cell, store, sweep=sweep, status="finished") | scored
        row |= {
            "seconds": seconds,
            "images_per_second": _pictures_per_second(cell, folder),
            "cpu_seconds": seconds["total"] * cpus * used,
            "gpu_seconds": seconds["total"] * gpus * used,
            "world_size": recorded.get("world_size", used),
            "versions": recorded.get("versions", {}),
        }
        row = finite_json(row)
        store.ledger.append(row)
        if with_report:
            write_report([folder.path], folder.path / "report.html", title=cell.shown)
        return row


def failed_row(cell: Cell, store: Store, *, sweep: str, error: str) -> dict[str, Any]:
    """Append the row of a cell that failed for good."""
    return _unfinished(cell, store, sweep=sweep, status="failed", error=error)


def stopped_row(cell: Cell, store: Store, *, sweep: str, at: Mapping[str, Any]) -> dict[str, Any]:
    """Append the row of a cell that early stopping ended after the report ``at``."""
    score = f"{cell.choosing.compares} {at.get(cell.choosing.compares or '')}"
    words = f"stopped early at step {at.get('step')} ({score})"
    return _unfinished(cell, store, sweep=sweep, status="stopped", error=words)


def _unfinished(cell: Cell, store: Store, *, sweep: str, status: str, error: str) -> dict[str, Any]:
    row = finite_json(
        _facts(cell, store, sweep=sweep, status=status)
        | {
            "metrics": None,
            "selected": None,
            "oracle": None,
            "intervals": {},
            "seconds": {"train": _trained_seconds(store.folder(cell))},
            "error": error,
        }
    )
    store.ledger.append(row)
    return row


def _facts(cell: Cell, store: Store, *, sweep: str, status: str) -> dict[str, Any]:
    """What every row has."""
    config, folder = cell.config, store.folder(cell)
    return {
        "format": 1,
        "key": cell.key,
        "status": status,
        "written": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sweep": sweep,
        "cell": cell.labels,
        "method": config.method_name,
        "dataset": OpenData(config).dataset,
        "seed": config.training.seed,
        "config": config.to_dict(),
        "identity": config.identity,
        "fingerprint": cell.fingerprint,
        "code": cell.code,
        "selection": cell.choosing.selection,
        "steps": config.training.steps,
        "curve": _curve(cell, folder),
        "run": str(folder.path.relative_to(store.path)),
        "attempts": len(read_starts(folder.path)),
        "host": platform.node(),
        "error": None,
    }


def _scored(cell: Cell, folder: RunFolder) -> dict[str, Any]:
    """Scores of the selected checkpoint, and of the oracle's where the sweep wants it."""
    choice = cell.choosing
    chosen = evaluate_run(folder.path, shards=1, select=choice.selection)
    oracle = None
    if choice.selection == "oracle":
        oracle = chosen
    elif choice.oracle:
        oracle = evaluate_run(folder.path, shards=1, select="oracle")
    scores = intervals(read_scores(_results(folder, chosen)), resamples=RESAMPLES)
    return {
        "metrics": {name: chosen[name] for name in HEADLINES},
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
            "metrics": {name: oracle[name] for name in HEADLINES},
        },
        "intervals": {name: [found.low, found.high] for name, found in scores.items()},
    }


def _results(folder: RunFolder, result: Mapping[str, Any]) -> Path:
    """The folder that an evaluation has written its results into."""
    last = result["selection"] == "last"
    return folder.path if last else folder.path / f"at-{result['step']:08d}"


class _Watch:
    """Reports the scores of each validation once, and the step and loss every few seconds."""

    def __init__(self, folder: RunFolder, report: Report, look: Callable[[], None]) -> None:
        self._folder, self._report, self._look = folder, report, look
        self._reported, self._said_seconds = -1, 0.0

    def __call__(self, record: Mapping[str, Any]) -> None:
        self._look()
        scored = [r for r in read_records(self._folder.validation) if r["step"] > self._reported]
        for found in scored:
            self._reported = found["step"]
            known = {name: value for name, value in found["scores"].items() if value is not None}
            self._report({"step": found["step"], **known})
        now_seconds = time.monotonic()
        if scored or now_seconds - self._said_seconds >= PROGRESS_SECONDS:
            self._said_seconds = now_seconds
            self._report({"at": record["step"] + 1, "loss": record["loss"]})


def _curve(cell: Cell, folder: RunFolder) -> list[dict[str, Any]]:
    """A point for each validation: its scores, and the loss that was logged last before it."""
    losses = [(r["step"] + 1, r["loss"]) for r in read_records(folder.log)]
    scored = read_records(folder.validation)
    wanted = {"mAP", *CRITERIA, cell.choosing.metric}
    curve = []
    for record in scored:
        before = [loss for step, loss in losses if step <= record["step"]]
        kept = {name: value for name, value in record["scores"].items() if name in wanted}
        curve.append({"step": record["step"], "loss": before[-1] if before else None, **kept})
    return curve


def _trained_seconds(folder: RunFolder) -> float:
    """Seconds from the beginning of the last start to its last logged step."""
    records = read_records(folder.log)
    return float(records[-1]["seconds"]) if records else 0.0


def _pictures_per_second(cell: Cell, folder: RunFolder) -> float:
    """Pictures a second during the steps; each view of a shape is a picture."""
    steps = folder.read().get("step_timings", {}).get("per_second", 0.0)
    config, data = cell.config, OpenData(cell.config)
    pictures = 0
    for selection in training_selections(config).values():
        views = 1
        if selection.stream == "shape":
            manifest = data.manifest(selection)
            views = config.data.train_views or int(manifest.views.max())
        pictures += views * config.training.batch
    return steps * pictures

"""The progress of a sweep: a table on a terminal, a line for each event otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.sweeps.cells import Cell
from cluster.terminal import console, say

MOST_ENDED = 12  # the table shows this many of the cells that ended last
LINE_SECONDS = 30.0  # between two reports of all running cells


@dataclass
class Progress:
    """The state of a sweep: the engine updates it, :func:`shown_progress` shows it."""

    title: str
    total: int
    running: dict[str, tuple[Cell, dict[str, Any]]] = field(default_factory=dict)
    ended: list[tuple[Cell, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    rows: list[Mapping[str, Any]] = field(default_factory=list)  # of the cells that ended here
    found: list[Mapping[str, Any]] = field(default_factory=list)  # that the ledger had before
    skipped: int = 0
    begun_seconds: float = field(default_factory=time.monotonic)
    _said_seconds: float = 0.0
    plain: bool = True

    def started(self, cell: Cell) -> None:
        self.running[cell.key] = cell, {}
        if self.plain:
            say(f"{cell.shown}: started")

    def reported(self, cell: Cell, report: Mapping[str, Any]) -> None:
        held = self.running.setdefault(cell.key, (cell, {}))[1]
        held.update(report)
        now_seconds = time.monotonic()
        if self.plain and now_seconds - self._said_seconds >= LINE_SECONDS:
            self._said_seconds = now_seconds
            for other, values in self.running.values():
                say(f"{other.shown}: {_standing(other, values)}")

    def over(self, cell: Cell, row: Mapping[str, Any], *, found: bool = False) -> None:
        """``cell`` has its row, made now or ``found`` in the ledger."""
        self.running.pop(cell.key, None)
        (self.found if found else self.rows).append(row)
        status = str(row["status"])
        self.counts[status] = self.counts.get(status, 0) + 1
        words = _outcome(row)
        self.ended.append((cell, words))
        if self.plain:
            say(f"{cell.shown}: {words} ({len(self.ended)} of {self.total}{self._left()})")

    def again(self, cell: Cell, error: str) -> None:
        """``cell`` failed and is tried once more."""
        self.running.pop(cell.key, None)
        say(f"{cell.shown}: failed, tries again: {error}")

    def _left(self) -> str:
        done = len(self.ended)
        if not done or done >= self.total:
            return ""
        passed_seconds = time.monotonic() - self.begun_seconds
        left = timedelta(seconds=round(passed_seconds / done * (self.total - done)))
        return f", {left} left"

    def __rich__(self) -> Table:
        states = [f"{count} {status}" for status, count in sorted(self.counts.items())]
        left = self.total - len(self.ended) - len(self.running)
        states += [f"{len(self.running)} running", f"{left} waiting"]
        table = Table(
            box=box.SIMPLE_HEAD, title=self.title, caption=", ".join(states) + self._left()
        )
        table.add_column("cell", overflow="fold")
        table.add_column("state", overflow="fold")
        for cell, words in self.ended[-MOST_ENDED:]:
            table.add_row(Text(cell.shown, "dim"), Text(words, "dim"))
        for cell, values in self.running.values():
            table.add_row(Text(cell.shown), Text(_standing(cell, values)))
        return table


@contextmanager
def shown_progress(title: str, total: int) -> Iterator[Progress]:
    """Show a sweep's progress until the block ends."""
    progress = Progress(title, total, plain=not console.is_terminal)
    if progress.plain:
        say(f"{title} ...")
        yield progress
        return
    with Live(progress, console=console, refresh_per_second=2):
        yield progress


def _standing(cell: Cell, values: Mapping[str, Any]) -> str:
    """``step 120 of 400, loss 0.412, mAP 0.613``."""
    if not values:
        return "starting"
    words = [f"step {values.get('at', values.get('step', 0))} of {cell.config.training.steps}"]
    for name in filter(None, ("loss", "mAP", cell.choosing.criterion)):
        if values.get(name) is not None:
            words.append(f"{name} {values[name]:.3f}")
    return ", ".join(words)


def _outcome(row: Mapping[str, Any]) -> str:
    if row["status"] != "finished":
        return f"{row['status']}: {row['error']}" if row["error"] else str(row["status"])
    metrics = row["metrics"]
    shown = [f"{name} {metrics[name]:.3f}" for name in ("FT", "mAP") if metrics[name] is not None]
    return f"{', '.join(shown)} in {row['seconds']['total']:.1f} s"

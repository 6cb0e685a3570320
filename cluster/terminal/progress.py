"""Progress of long work: a bar on a terminal, plain lines otherwise, always on stderr."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SPEED_SECONDS = 600.0  # one step may take minutes, such as a block of queries on a large gallery
# Under torchrun all ranks run the same command, and rank 0 writes.
console = Console(stderr=True, highlight=False, quiet=os.environ.get("RANK", "0") != "0")


def say(text: str) -> None:
    """Write a message to the user, without markup and without breaking long paths."""
    console.print(text, markup=False, soft_wrap=True)


class Bar(Protocol):
    """A running task."""

    def at(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show that ``done`` of ``total`` are done, with a short note such as the loss."""
        ...


@contextmanager
def task(title: str, total: int | None = None) -> Iterator[Bar]:
    """Show one task until the block ends."""
    if not console.is_terminal:
        lines = _Lines(title, total)
        yield lines
        lines.finish()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console, speed_estimate_period=SPEED_SECONDS) as progress:
        yield _Rich(progress, progress.add_task(title, total=total, note=""))


class _Rich:
    def __init__(self, progress: Progress, task_id: object) -> None:
        self._progress, self._id = progress, task_id

    def at(self, done: int, total: int | None = None, note: str = "") -> None:
        fields = {"note": note} if note else {}
        if total is not None:
            fields["total"] = total  # pyright: ignore[reportArgumentType]
        self._progress.update(self._id, completed=done, **fields)  # pyright: ignore[reportArgumentType]


class _Lines:
    """A line at the start, at most one every ten seconds, and one at the end."""

    every_seconds = 10.0

    def __init__(self, title: str, total: int | None) -> None:
        self._title, self._total, self._done = title, total, 0
        self._start = self._last = self._begun_seconds = time.monotonic()
        self._begun = 0
        say(f"{title} ...")

    def at(self, done: int, total: int | None = None, note: str = "") -> None:
        if not self._done:  # the time up to the first report says nothing of the speed
            self._begun, self._begun_seconds = done, time.monotonic()
        self._done = done
        self._total = total if total is not None else self._total
        if time.monotonic() - self._last >= self.every_seconds:
            self._last = time.monotonic()
            of = f"/{self._total}" if self._total else ""
            say(f"{self._title}: {done}{of}{self._left()} {note}".rstrip())

    def _left(self) -> str:
        """The time left at the speed since the first report."""
        if self._total is None or self._done <= self._begun:
            return ""
        passed_seconds = max(time.monotonic() - self._begun_seconds, 1e-9)
        rate = (self._done - self._begun) / passed_seconds
        left_seconds = round(max(0, self._total - self._done) / rate)
        return f", {timedelta(seconds=left_seconds)} left at {rate:.3g}/s"

    def finish(self) -> None:
        seconds = time.monotonic() - self._start
        say(f"{self._title}: done in {seconds:.1f} s")

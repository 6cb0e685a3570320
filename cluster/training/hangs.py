"""A hang: what the driver says of it, in one line.

The line names the ranks that held up the group, where, and whose stacks to read. The workers'
watchdogs write the reports that it is made of (:mod:`trainer.watching.watchdog`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.terminal import say, shown
from trainer.runs import RunFolder
from trainer.watching import HANGS, HEAD_START_SECONDS, WAITING, WRITE_SECONDS

Report = dict[str, Any]
# The phases of one step, where no collective tells how far a rank has come.
ORDER = ("start", "data", "round", "copy", "augment", "forward", "backward", "optimizer")


class Hangs:
    """Says each hang of a group once, while the driver follows the run."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder.path / HANGS
        self._known = set(self._names())  # reports by earlier commands for this run
        self._first_seconds = float("inf")
        self._said: str | None = None

    def look(self, *, last: bool) -> None:
        """Say what is known of a hang, once all ranks have reported or the missing reports are
        late, or when this is the ``last`` look at a group."""
        names = [name for name in self._names() if name not in self._known]
        if not names or self._said:
            self._first_seconds = float("inf")
            return
        try:
            reports = [json.loads((self._folder / name).read_text()) for name in names]
        except FileNotFoundError:  # a rank that went on has removed its report
            return
        now_seconds = time.monotonic()
        self._first_seconds = min(self._first_seconds, now_seconds)
        late = now_seconds - self._first_seconds > HEAD_START_SECONDS + WRITE_SECONDS
        if len(reports) >= reports[0]["world_size"] or late or last:
            self._said = described(reports, self._folder)
            say(self._said)

    def taken(self) -> str | None:
        """What was said of a group that has ended; the next look is at a new group."""
        said, self._said = self._said, None
        self._known, self._first_seconds = set(self._names()), float("inf")
        return said

    def _names(self) -> list[str]:
        return sorted(p.name for p in self._folder.glob("*.json"))


def described(reports: Sequence[Report], folder: Path) -> str:
    """One line about a hang, from the reports in ``folder`` of one or more of its ranks.

    A rank held up the others if it made no progress in a phase where it does not wait for them, or
    if it wrote no report. Of several, those furthest behind are named: on a GPU, a rank that waits
    for others may stop in any phase.
    """
    stalled = [r for r in reports if r["seconds"] >= r["limit_seconds"] / 2]
    held = [r for r in stalled if r["phase"] not in WAITING]
    waiting = [r for r in stalled if r["phase"] in WAITING] or list(reports)
    silent = sorted(set(range(reports[0]["world_size"])) - {r["rank"] for r in reports})
    if held:
        behind = min(map(_position, held))
        held = [r for r in held if _position(r) == behind]
        text = f"{_ranks(held)} hung {_where(held[0])}"
        if silent:
            text += f"; no report from {_named(silent)}"
        return f"{text}; {_stacks(held, folder)}"
    if silent:
        their = "it" if len(silent) == 1 else "them"
        text = f"{_named(silent)} gave no sign of life; {_ranks(waiting)} waited for {their}"
        return f"{text} {_where(waiting[0])}; {_stacks(waiting, folder)}"
    at_work = [r for r in reports if r not in stalled]
    if at_work:
        text = f"{_ranks(waiting)} waited {_where(waiting[0])} while {_ranks(at_work)} worked in "
        text += f"phase '{at_work[0]['phase']}'; if that may take so long, raise "
        return f"{text}training.watchdog_seconds; {_stacks(at_work, folder)}"
    return f"{_ranks(waiting)} waited for each other {_where(waiting[0])}; " + _stacks(
        waiting, folder
    )


def _position(report: Report) -> tuple[int, int, int]:
    """How far a rank has come: its step, collectives and phase, the same on all ranks."""
    phase, step = report["phase"], report["step"]
    place = ORDER.index(phase) if phase in ORDER else len(ORDER)
    return -1 if step is None else step, report["collectives"], place


def _ranks(reports: Sequence[Report]) -> str:
    return _named(sorted(r["rank"] for r in reports))


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _where(report: Report) -> str:
    at = "" if report["step"] is None else f" at step {report['step']}"
    return f"in phase '{report['phase']}'{at} (no progress for {report['seconds']:.0f} s)"


def _stacks(reports: Sequence[Report], folder: Path) -> str:
    first = min(reports, key=lambda r: r["rank"])
    return f"stacks: {shown(folder / first['stacks'])}"

"""How much time a run spends in each phase: seconds that add up to the wall clock.

Phases are host times. Work on a GPU is asynchronous: a phase is the time that the host spends in
it, and the wait for a kernel falls into the phase that first reads a result of it. The clock never
synchronises a GPU. ``forward`` is a method's networks and losses together.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from trainer.watching.observer import Observer

START, OTHER = "start", "other"


class PhaseClock(Observer):
    """Every moment since construction belongs to exactly one phase.

    An inner phase pauses the outer one. Time outside all phases is ``other``; until
    :meth:`end_start` all time is ``start``. The clock follows the thread that made it. Phases that
    other threads enter (a writer, the autograd thread of a GPU) are not counted: meanwhile the time
    of this thread passes too, in the phase in which it waits.

    Other threads may read :attr:`beats`, :attr:`innermost` and :meth:`entered` at any time, to see
    whether and where this one makes progress.

    Attributes:
        step_seconds: how long the last step took.

    Args:
        now: seconds that never go back.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._thread = now, threading.get_ident()
        self._stack = [START]
        self._seconds: dict[str, float] = {}
        self._entered: dict[str, int] = {}
        self.beats = 0
        self._steps = array("d")
        self.step_seconds = 0.0
        self._begin = self._since = self._step_begin = now()

    @property
    def current(self) -> str:
        """The phase that the time belongs to now."""
        return START if self._stack[0] == START else self._stack[-1]

    @property
    def innermost(self) -> str:
        """The phase that was entered last and not left, also during start-up."""
        return self._stack[-1]

    @property
    def total(self) -> float:
        """Seconds since construction."""
        return self._now() - self._begin

    def beat(self) -> None:
        """Show progress inside a long phase. Every change of phase shows progress too."""
        self.beats += 1

    def entered(self, name: str) -> int:
        """How often phase ``name`` was entered."""
        return self._entered.get(name, 0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block for ``name``, except that of phases inside it."""
        if threading.get_ident() != self._thread:
            yield
            return
        self._charge()
        self._entered[name] = self._entered.get(name, 0) + 1
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def end_start(self) -> None:
        """Start-up has ended and the first step begins; later calls do nothing."""
        if self._stack[0] == START:
            self._charge()
            self._stack[0], self._step_begin = OTHER, self._since

    def end_step(self) -> None:
        """A step has ended and the next one begins."""
        now = self._now()
        self.step_seconds, self._step_begin = now - self._step_begin, now
        self._steps.append(self.step_seconds)

    def step_begins(self) -> None:
        self.end_start()

    def stepped(self, step: int, batch: Mapping[str, Any], *, logged: bool) -> None:
        self.end_step()

    def steps_ended(self) -> None:
        self.end_start()  # a run that was continued at its end had no step

    def seconds_in(self, names: Collection[str]) -> float:
        """Seconds of these phases together, as of the last change of phase."""
        return sum(self._seconds.get(name, 0.0) for name in names)

    def summary(self) -> dict[str, float]:
        """Seconds by phase, in the order of their first appearance, with ``other`` and ``total``;
        the phases sum to the total."""
        self._charge()
        seconds = {k: v for k, v in self._seconds.items() if k != OTHER}
        other = self._seconds.get(OTHER, 0.0)
        return {**seconds, OTHER: other, "total": self._since - self._begin}

    def steps(self) -> dict[str, float]:
        """``count`` of steps, their ``mean_seconds`` and ``p95_seconds``, steps ``per_second``;
        the count alone when there was none.

        A step includes its log record, its checkpoint and the start of a round. The wait for the
        first batch belongs to start-up.
        """
        if not self._steps:
            return {"count": 0}
        mean = float(np.mean(self._steps))
        return {
            "count": len(self._steps),
            "mean_seconds": mean,
            "p95_seconds": float(np.percentile(self._steps, 95)),
            "per_second": 1 / mean if mean else 0.0,
        }

    def _charge(self) -> None:
        """Give the time since the last change to the phase that it was spent in."""
        now, phase = self._now(), self.current
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._since = now
        self.beats += 1


def shares(timings: Mapping[str, float]) -> dict[str, float]:
    """Share of each phase of :meth:`PhaseClock.summary` in the time after start-up, in [0, 1]."""
    phases = {k: v for k, v in timings.items() if k not in (START, "total")}
    whole = sum(phases.values())
    return {name: seconds / whole if whole else 0.0 for name, seconds in phases.items()}

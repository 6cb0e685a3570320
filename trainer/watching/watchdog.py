"""Ends a process that makes no more progress, after writing down where it hangs.

A deadlock, a disk that does not answer or a stopped process holds up all ranks, since each waits
for the slowest in the next collective. A launcher (Ray Train, ``torchrun``) notices a dead process
at once, but never a hung one. So each rank watches itself. After ``watchdog_seconds`` without a
change of phase or a :meth:`~trainer.watching.phase_clock.PhaseClock.beat` it writes a report, gives
the other ranks a moment to write theirs, and exits with :data:`HUNG`. A rank that sees a report of
another rank writes its own, so the reports of one hang show which rank waited for which. A rank
without a report was stopped, or its node is gone. The exception is a rank that is at work, such as
rank 0 while it scores or writes alone: it writes no report and deletes those of the ranks that wait
for it. These ranks go on waiting, for ``timeout_seconds`` at most.

Reports are pairs of files in ``<run>/hangs``: the stacks of all threads in ``NAME.txt`` and,
written last, :meth:`Watchdog.facts` in ``NAME.json``. The limit is the same during start-up and in
every phase. A single call (a download, a compilation, fetching a remote shard) must take less than
the limit. Loops over parts of a data set beat once for each part. A call that keeps the
interpreter's lock stops this thread too, and that rank writes no report.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from trainer.runs import write_json
from trainer.synchronised import collectives
from trainer.watching.phase_clock import PhaseClock

log = logging.getLogger(__name__)
HUNG = 75  # exit code: EX_TEMPFAIL, "try again later"
HANGS = "hangs"  # folder of the reports inside the run folder
KEPT = 20  # how many of the newest reports are kept, at least two for each rank
LOOKS_SECONDS = 1.0  # longest pause between two looks at the clock and for other ranks' reports
HEAD_START_SECONDS = 5.0  # longest wait for the reports of the other ranks
WRITE_SECONDS = 10.0  # longest wait for this rank's own report: it may be the disk that hangs
# The phases in which a rank waits for others: engines average gradients in backward.
WAITING = ("collectives", "backward")
_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar has hidden it


@contextmanager
def watching(
    clock: PhaseClock, run: Path, *, limit_seconds: float | None, step: Callable[[], int | None]
) -> Iterator[None]:
    """Watch this rank during the block; nothing is watched where the limit is None.

    Args:
        clock: of the thread that is watched.
        run: the run folder.
        step: returns the current step of the thread, None before there is one.
    """
    if limit_seconds is None:
        yield
        return
    watchdog = Watchdog(clock, run, limit_seconds=limit_seconds, step=step)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


class Watchdog:
    """Two threads: one looks at the clock and never at a file, the other reads and writes reports.

    So the first can end the process even if the second waits for a disk that hangs.
    """

    def __init__(
        self,
        clock: PhaseClock,
        run: Path,
        *,
        limit_seconds: float,
        step: Callable[[], int | None],
    ) -> None:
        self._clock, self._run, self._limit_seconds, self._step = clock, run, limit_seconds, step
        self._folder = run / HANGS
        self._rank, self._world_size = collectives.rank(), collectives.world_size()
        self._pause_seconds = min(LOOKS_SECONDS, limit_seconds / 4)
        self._stalled_seconds = 0.0
        self._over, self._hung = threading.Event(), threading.Event()
        self._decided = threading.Event()  # the report of a hang is written, or was withdrawn
        self._threads = [
            threading.Thread(target=self._look, daemon=True, name="watchdog"),
            threading.Thread(target=self._report, daemon=True, name="watchdog-reports"),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """The watched work has ended. A report that is being written now is not waited for."""
        self._over.set()
        for event in (self._hung, self._decided):
            event.set()
        for thread in self._threads:
            thread.join(timeout=LOOKS_SECONDS)

    def facts(self) -> dict[str, Any]:
        """Where this rank is: the content of ``NAME.json`` without the name of the file of stacks.

        ``collectives`` is the number of collectives entered. All ranks enter the same ones in the
        same order, so the rank that the others wait for has the smallest (step, collectives).
        """
        return {
            "rank": self._rank,
            "world_size": self._world_size,
            "pid": os.getpid(),
            "step": self._step(),
            "phase": self._clock.innermost,
            "collectives": self._clock.entered("collectives"),
            "seconds": round(self._stalled_seconds, 1),
            "limit_seconds": self._limit_seconds,
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        }

    def _look(self) -> None:
        beats, before = -1, time.monotonic()
        while not self._over.wait(self._pause_seconds):
            now = time.monotonic()
            # At most two pauses: a process that was suspended and then resumed has not hung.
            passed, before = min(now - before, 2 * self._pause_seconds), now
            if self._clock.beats != beats:
                beats, self._stalled_seconds = self._clock.beats, 0.0
                continue
            self._stalled_seconds += passed
            if self._stalled_seconds >= self._limit_seconds:
                self._hung.set()
                self._decided.wait(WRITE_SECONDS + HEAD_START_SECONDS)
                if self._over.is_set():
                    return
                if self._hung.is_set():
                    os._exit(HUNG)
                    return
                self._decided.clear()
                self._stalled_seconds = 0.0

    def _report(self) -> None:
        """Write a report when this rank hangs, or another one that does not just wait for it."""
        known, mine = self._reports(), ""
        while not self._over.is_set():
            hung = self._hung.wait(self._pause_seconds)
            others = self._reports() - known - {mine}
            if not hung and self._is_at_work():
                others = {name for name in others if not self._reassured(name)}
            if not mine and (hung or others) and not self._over.is_set():
                mine = self._write()
            if not hung or self._over.is_set():
                continue
            if self._is_confirmed(mine, known):
                self._say(mine)
                self._decided.set()
                return
            mine = ""
            self._hung.clear()
            self._decided.set()

    def _is_at_work(self) -> bool:
        recently = self._stalled_seconds < self._limit_seconds / 2
        return recently and self._clock.innermost not in WAITING

    def _reassured(self, name: str) -> bool:
        """Withdraw another rank's report if that rank only waits; returns whether it did."""
        report = self._folder / name
        try:
            waits = json.loads(report.read_text())["phase"] in WAITING
        except FileNotFoundError:  # a third rank was faster
            return True
        if waits:
            for file in (report, report.with_suffix(".txt")):
                file.unlink(missing_ok=True)
        return waits

    def _is_confirmed(self, mine: str, known: set[str]) -> bool:
        """Wait for all ranks' reports; False if another rank has withdrawn this one's meanwhile."""
        end_seconds = time.monotonic() + HEAD_START_SECONDS
        while time.monotonic() < end_seconds and not self._over.is_set():
            if mine and self._is_gone(mine):
                return False
            if len(self._reports() - known) >= self._world_size:
                return True
            time.sleep(self._pause_seconds)
        return True

    def _is_gone(self, name: str) -> bool:
        try:
            (self._folder / name).stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    def _reports(self) -> set[str]:
        try:
            return {name for name in os.listdir(self._folder) if name.endswith(".json")}
        except OSError:  # mostly because there is no report yet
            return set()

    def _write(self) -> str:
        """Write this rank's report; returns its name, empty if it cannot be written."""
        facts = self.facts()
        name = f"{facts['time'].partition('+')[0].replace(':', '')}-rank-{self._rank}"
        stacks, report = (self._folder / f"{name}.{suffix}" for suffix in ("txt", "json"))
        try:
            self._folder.mkdir(exist_ok=True)
            with stacks.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            write_json(report, {**facts, "attempt": _attempt(self._run), "stacks": stacks.name})
            self._remove_old()
        except OSError as err:
            log.error("no report of a hang: %s", err)
            return ""
        return report.name

    def _remove_old(self) -> None:
        for name in sorted(self._reports())[: -max(KEPT, 2 * self._world_size)]:
            for file in (self._folder / name, (self._folder / name).with_suffix(".txt")):
                file.unlink(missing_ok=True)

    def _say(self, mine: str) -> None:
        """Write to the file descriptor: the hung thread may hold the lock of ``sys.stderr``."""
        facts = self.facts()
        at = "" if facts["step"] is None else f" at step {facts['step']}"
        rank = f"rank {self._rank} " if self._world_size > 1 else ""
        stacks = (self._folder / mine).with_suffix(".txt") if mine else "none, see above"
        text = (
            f"img2shape: {rank}hung in phase '{facts['phase']}'{at} (no progress for "
            f"{facts['seconds']:.0f} s, see training.watchdog_seconds); stacks: {stacks}; "
            "the same command continues\n"
        )
        with suppress(OSError):
            os.write(2, (_SHOW_CURSOR if os.isatty(2) else b"") + text.encode())


def _attempt(run: Path) -> int | None:
    """The newest attempt on the run folder, as ``run.json`` has it."""
    try:
        return json.loads((run / "run.json").read_text()).get("attempt")
    except (OSError, ValueError):
        return None

"""While a group of workers trains: pass on what it says, and what the user asks of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from cluster.training.worker import stop_file
from evalsuite.run_records import NewRecords
from trainer.runs import RunFolder

SAVE_SECONDS = 60.0  # what Ctrl-C grants the workers for their last checkpoint
LOOK_SECONDS = 0.5
OnRecord = Callable[[dict[str, Any]], None]


class Follower:
    """Passes the lines that rank 0 appends to ``log.jsonl`` on, each step once for all groups."""

    def __init__(self, folder: RunFolder, on_record: OnRecord) -> None:
        self._folder, self._on_record = folder, on_record
        self._records = NewRecords(folder.log)

    def follow(
        self,
        done: threading.Event,
        *,
        stopped: threading.Event,
        training: Callable[[], bool],
        make_way: Callable[[], bool],
        look: Callable[[bool], None],
    ) -> None:
        """Until ``done``; ``look`` is called now and then, at the end with True.

        Once ``stopped`` is set, or ``make_way`` says so, the workers are asked to save and leave.
        After ``stopped`` they get ``SAVE_SECONDS`` for it, or none while they are not ``training``.
        """
        stop, last_seconds, asked = stop_file(self._folder), float("inf"), False
        try:
            while True:
                last = done.is_set() or time.monotonic() > last_seconds
                look(last)
                self._pass_on()
                if last:
                    return
                if not asked and (stopped.is_set() or make_way()):
                    asked = True
                    stop.touch()
                if stopped.is_set() and last_seconds == float("inf"):
                    last_seconds = time.monotonic() + (SAVE_SECONDS if training() else 0.0)
                done.wait(timeout=LOOK_SECONDS)
        finally:
            stop.unlink(missing_ok=True)

    def _pass_on(self) -> None:
        for record in self._records.read():
            self._on_record(record)

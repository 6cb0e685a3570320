"""Which start of a training may write into a run folder: the newest one.

Each start takes the next number, kept in ``run.json``. Whoever holds a smaller number, such as a
process that was believed dead, finds that out before it changes anything, and stops.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataio.file_locks import claimed
from trainer.telemetry import write_json

__all__ = ["LOCK_NAME", "Attempt", "SupersededError", "run_lock", "take_attempt"]

LOCK_NAME = ".attempt.lock"


class SupersededError(RuntimeError):
    """A later start of this training has taken the run folder over."""


@dataclass(frozen=True)
class Attempt:
    """One start of training on the run folder whose facts are in ``facts`` (``run.json``)."""

    facts: Path
    number: int

    def require_newest(self) -> None:
        """Check that no later start has taken over.

        Raises:
            SupersededError: one has; the message names both.
        """
        newest = _newest(self.facts)
        if newest > self.number:
            raise SupersededError(
                f"attempt {self.number} was superseded by attempt {newest}, which trains in "
                f"{self.facts.parent} now; this one stops and leaves the folder alone"
            )

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Nobody takes over during the block; raises like :meth:`require_newest` before it."""
        with run_lock(self.facts.parent):
            self.require_newest()
            yield


def take_attempt(facts: Path) -> Attempt:
    """The next attempt on a run folder; from here on the earlier ones can write no checkpoint.

    A folder that nobody has claimed (no ``run.json``) is left as it is and gives number 0.

    Raises:
        OSError: ``run.json`` cannot be written.
    """
    if not facts.exists():
        return Attempt(facts, 0)
    with run_lock(facts.parent):
        number = _newest(facts) + 1
        write_json(facts, {**json.loads(facts.read_text()), "attempt": number})
    return Attempt(facts, number)


def run_lock(folder: Path) -> AbstractContextManager[object]:
    """One process or thread at a time changes ``run.json`` or renames checkpoints in ``folder``."""
    return claimed(folder / LOCK_NAME)


def _newest(facts: Path) -> int:
    try:
        return int(json.loads(facts.read_text()).get("attempt", 0))
    except FileNotFoundError:
        return 0

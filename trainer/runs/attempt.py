"""Only the newest start of a training may write into a run folder.

Each start takes the next number, which is kept in ``run.json``. A process with a smaller number,
such as one that was believed dead, notices this before it changes anything, and stops.

``attempts.jsonl`` has a line for every start that began to train: its number, the step where it
continued, its number of processes, and its reason.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dataio.atomic import write_whole
from dataio.file_locks import claimed
from evalsuite.run_records import read_records
from trainer.runs.records import write_json

log = logging.getLogger(__name__)
LOCK_NAME = ".attempt.lock"
STARTS_NAME = "attempts.jsonl"


class SupersededError(RuntimeError):
    """A later start of this training has taken the run folder over."""


@dataclass(frozen=True)
class Start:
    """A line of ``attempts.jsonl``.

    Attributes:
        attempt: the number of :class:`Attempt`.
        step: steps that were done before it.
        world_size: its processes.
        reason: ``start``, ``continued`` (by a command), or what ended the group before.
    """

    attempt: int
    step: int
    world_size: int
    reason: str


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

    def begin(self, *, step: int, world_size: int, reason: str | None = None) -> None:
        """Add the line of this attempt to ``attempts.jsonl``.

        Without a ``reason`` a command started it.

        If the line cannot be written, training goes on. If the folder stays read-only, the next
        checkpoint fails and ends the run.
        """
        if not self.number:  # a run folder that was not claimed
            return
        reason = reason or ("continued" if step else "start")
        folder, start = self.facts.parent, Start(self.number, step, world_size, reason)
        path = folder / STARTS_NAME
        try:
            with run_lock(folder):  # written whole, so that no line is torn
                lines = [json.dumps(asdict(s)) for s in (*read_starts(folder), start)]
                write_whole(path, "".join(f"{line}\n" for line in lines).encode())
        except OSError as err:
            log.warning("%s: cannot be written (%s)", path, err)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Let no later start take over during the block; raises like :meth:`require_newest`."""
        with run_lock(self.facts.parent):
            self.require_newest()
            yield


def take_attempt(facts: Path) -> Attempt:
    """Take the next number on a run folder; earlier attempts can then write no checkpoint.

    A folder that was not claimed (no ``run.json``) is left as it is and gives number 0.

    Raises:
        OSError: ``run.json`` cannot be written.
    """
    if not facts.exists():
        return Attempt(facts, 0)
    with run_lock(facts.parent):
        number = _newest(facts) + 1
        write_json(facts, {**json.loads(facts.read_text()), "attempt": number})
    return Attempt(facts, number)


def read_starts(folder: Path) -> list[Start]:
    """The lines of ``attempts.jsonl`` in a run folder, oldest first, without damaged ones."""
    found = []
    for record in read_records(folder / STARTS_NAME, skip_damaged=True):
        with suppress(TypeError):  # it has other fields
            found.append(Start(**record))
    return found


def run_lock(folder: Path) -> AbstractContextManager[object]:
    """One process or thread at a time changes ``run.json`` or renames checkpoints in ``folder``."""
    return claimed(folder / LOCK_NAME)


def _newest(facts: Path) -> int:
    try:
        return int(json.loads(facts.read_text()).get("attempt", 0))
    except FileNotFoundError:
        return 0

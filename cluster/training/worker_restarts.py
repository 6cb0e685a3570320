"""When a group of Ray workers is started again, and what the user is told about it.

A group that left on its own account (a node will go, a process got SIGTERM, there is room for more
workers) is started again as often as it takes. One that died is started again
``training.max_failures`` times in a call, and never after a user's mistake.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from cluster.terminal import say
from cluster.training.group_size import GroupSize
from cluster.training.ray_private import found_no_room, was_preempted, worker_errors
from cluster.training.worker import error_file, mendable, notice_file
from trainer.runs import RunFolder, read_starts

log = logging.getLogger(__name__)
DEATH, HANG, PREEMPTION = "worker death", "hang", "preemption"


class RunFailed(RuntimeError):
    """Workers died for a reason that is not the user's input."""


@dataclass(frozen=True)
class GroupEnd:
    """Why a group ended before the last step.

    Attributes:
        reason: in words, for ``attempts.jsonl`` and the user.
        counted: it is a failure, of which ``training.max_failures`` are mended.
        unplaced: it never started, since the cluster had no room for it.
        detail: the last line of the error, or what the watchdogs have found.
    """

    reason: str
    counted: bool = False
    unplaced: bool = False
    detail: str = ""


def started_at(folder: RunFolder) -> list[int]:
    """The step at which each start of the run began, oldest first."""
    return [start.step for start in read_starts(folder.path)]


def how_it_ended(
    folder: RunFolder, failure: BaseException | None, *, asked: str | None, hang: str | None
) -> GroupEnd:
    """Name the end of a group that has not finished the run.

    Args:
        failure: what Ray raised; None where all workers returned.
        asked: why the driver had asked the workers to leave, if it had.
        hang: what its watchdogs have reported, if they have; it says more than Ray's error.
    """
    notice = _notice(folder)
    if failure is None:
        return GroupEnd(notice or asked or "left")
    lines = [line for line in str(failure).strip().splitlines() if line.strip()]
    detail = lines[-1] if lines else repr(failure)
    log.debug("%s", failure)
    if found_no_room(failure):
        return GroupEnd("no room", unplaced=True, detail=detail)
    if notice or was_preempted(failure):  # a node that went before all had left
        return GroupEnd(notice or PREEMPTION, detail=detail)
    return GroupEnd(HANG if hang else DEATH, counted=True, detail=hang or detail)


def _notice(folder: RunFolder) -> str | None:
    try:
        return json.loads(notice_file(folder).read_text())["reason"]
    except (OSError, ValueError, KeyError):
        return None


def raise_mistake(folder: RunFolder, failure: BaseException) -> None:
    """Raise what a worker told that the user must mend, in its own type; else return."""
    file = error_file(folder)
    if file.exists():
        told = json.loads(file.read_text())
        file.unlink()
        if "os_error" in told:
            raise OSError(*told["os_error"]) from None
        from cluster.errors import USER_ERRORS

        kind = {e.__name__: e for e in USER_ERRORS}.get(told["type"])
        raise (kind or RunFailed)(told["message"]) from None
    for err in worker_errors(failure).values():  # a disk too full for the file
        if isinstance(err, OSError) and mendable(err):
            raise OSError(err.errno, err.strerror, err.filename) from None


class Restarts:
    """Counts the restarts of one call and says each once, while the driver follows the run."""

    def __init__(self, folder: RunFolder, size: GroupSize, *, limit: int) -> None:
        self._folder, self._size, self._limit = folder, size, limit
        self._seen = len(read_starts(folder.path))  # by earlier calls for this folder
        self._world_size: int | None = None
        self._end: GroupEnd | None = None
        self.count = 0
        self.training = False  # the present group has come as far as its first step

    def after(self, end: GroupEnd) -> None:
        """A group has ended so; the next one is to start.

        Raises:
            RunFailed: it was one failure too many.
        """
        if end.counted and self.count >= self._limit:
            before = f" (restarts before: {self.count}, see training.max_failures)"
            raise RunFailed(f"the workers failed{before if self.count else ''}: {end.detail}")
        self.count += end.counted
        self.training = False
        if not end.unplaced:
            self._end = end

    def look(self) -> None:
        """Say what has happened since the last look."""
        starts = read_starts(self._folder.path)[self._seen :]
        for start in starts:
            if self._end is not None:
                counted = f"{self.count} of {self._limit}"
                why = counted if self._end.counted else self._end.reason
                say(f"worker group restarted ({why}): continuing at step {start.step}")
            if not self._size.fixed and start.world_size != self._world_size:
                say(
                    f"training on {start.world_size} workers ({self._size}), "
                    f"continuing at step {start.step}"
                )
            self._world_size, self.training = start.world_size, True
        self._seen += len(starts)

"""Why a group of Ray workers ended, and whether the next one starts: restarts of dead workers.

A group that left by itself is started again without limit: a node will go, a process got SIGTERM,
or there is room for more workers. A group that died is started again ``training.max_failures``
times in a command. One that ended by a user's mistake is not.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from cluster.errors import USER_ERRORS
from cluster.terminal import say
from cluster.training.group_size import GroupSize
from cluster.training.ray_private import found_no_room, was_preempted, worker_errors
from cluster.training.worker import error_file, needs_the_user, notice_file
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
        counted: whether it counts against ``training.max_failures``.
        unplaced: whether the cluster had no room for the group, so that it never started.
        detail: the last line of the error, or what the watchdogs found.
    """

    reason: str
    counted: bool = False
    unplaced: bool = False
    detail: str = ""


def how_it_ended(
    folder: RunFolder, failure: BaseException | None, *, asked: str | None, hang: str | None
) -> GroupEnd:
    """Name the end of a group that has not finished the run.

    Args:
        failure: what Ray raised; None where all workers returned.
        asked: why the driver asked the workers to leave, if it did.
        hang: what the watchdogs reported, if they did; it says more than Ray's error.
    """
    notice = _notice(folder)
    if failure is None:
        return GroupEnd(notice or asked or "left")
    lines = [line for line in str(failure).strip().splitlines() if line.strip()]
    detail = lines[-1] if lines else repr(failure)
    log.debug("%s", failure)
    if found_no_room(failure):
        return GroupEnd("no room", unplaced=True, detail=detail)
    if notice or was_preempted(failure):  # the node went before all workers had left
        return GroupEnd(notice or PREEMPTION, detail=detail)
    return GroupEnd(HANG if hang else DEATH, counted=True, detail=hang or detail)


def _notice(folder: RunFolder) -> str | None:
    try:
        return json.loads(notice_file(folder).read_text())["reason"]
    except (OSError, ValueError, KeyError):
        return None


def raise_mistake(folder: RunFolder, failure: BaseException) -> None:
    """Raise a worker's error that needs the user, in its own type, if there is one."""
    file = error_file(folder)
    if file.exists():
        told = json.loads(file.read_text())
        file.unlink()
        if "os_error" in told:
            raise OSError(*told["os_error"]) from None
        kind = {e.__name__: e for e in USER_ERRORS}.get(told["type"])
        raise (kind or RunFailed)(told["message"]) from None
    for err in worker_errors(failure).values():  # a full disk has no room for the file
        if isinstance(err, OSError) and needs_the_user(err):
            raise OSError(err.errno, err.strerror, err.filename) from None


class Restarts:
    """Counts the restarts of one command, and tells the user of each."""

    def __init__(self, folder: RunFolder, size: GroupSize, *, limit: int) -> None:
        self._folder, self._size, self._limit = folder, size, limit
        self._seen = len(read_starts(folder.path))  # starts by earlier commands for this folder
        self._world_size: int | None = None
        self._end: GroupEnd | None = None
        self.count = 0
        self.training = False  # whether the present group has reached its first step

    def after(self, end: GroupEnd) -> None:
        """Note the end of a group; another one is to start.

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
        """Say which groups have started since the last look."""
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

"""When a group of Ray workers is started again: after a death, never after a user's mistake.

``attempts.jsonl`` in the run folder has a line for every start of the workers, with the step that
they continued at. Rank 0 writes it, the driver tells the user.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cluster.progress import say
from dataio.atomic import write_whole
from trainer.attempt import SupersededError
from trainer.checkpoint import newest_checkpoint
from trainer.run_folder import RunFolder

if TYPE_CHECKING:
    from ray.train import UserCallback

__all__ = ["Restarts", "begin_attempt", "mendable", "no_retry_after_mistakes", "started_at"]


def begin_attempt(folder: RunFolder) -> None:
    """Note that the workers start, at the step of the newest whole checkpoint; for rank 0."""
    found = newest_checkpoint(folder.checkpoints)
    steps = [*started_at(folder), found.step if found else 0]
    lines = (json.dumps({"attempt": n, "step": s}) for n, s in enumerate(steps, start=1))
    write_whole(folder.path / "attempts.jsonl", "".join(f"{line}\n" for line in lines).encode())


def started_at(folder: RunFolder) -> list[int]:
    """The step at which each start of the workers began, oldest first."""
    try:
        text = (folder.path / "attempts.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line)["step"] for line in text.splitlines()]


class Restarts:
    """Says each restart of the workers once, while the driver follows the run."""

    def __init__(self, folder: RunFolder, *, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._before = len(started_at(folder))  # by earlier calls for this folder
        self.count = 0

    def look(self) -> None:
        """Say what has happened since the last look."""
        steps = started_at(self._folder)[self._before + 1 :]  # the first start is none again
        for step in steps[self.count :]:
            self.count += 1
            say(
                f"worker group restarted ({self.count} of {self._limit}): continuing at step {step}"
            )


def mendable(err: BaseException) -> bool:
    """True for what would happen again: bad input, a diverged run, a full disk, a later start.

    A lost connection is none: a peer's death may cause it.
    """
    if isinstance(err, ConnectionError | TimeoutError):
        return False
    return isinstance(err, ValueError | OSError | SupersededError)


def no_retry_after_mistakes() -> UserCallback:
    """For ``ray.train.RunConfig``: an error of a worker that a user must mend ends the run."""
    from ray.train import UserCallback

    class _NoRetry(UserCallback):
        def after_exception(self, run_context: object, worker_exceptions: dict) -> None:
            """Runs in Ray's controller, for which an error of its own is never to be retried."""
            for err in worker_exceptions.values():
                if mendable(err):
                    raise err

    return _NoRetry()

"""What runs inside a Ray Train worker: the loop, and the notices that make a whole group leave.

A group leaves when the driver asks for it (by the file ``stop`` in the run folder), when Ray says
that a node with one of its workers will be taken away, and when one of its processes gets SIGTERM.
All ranks then save a checkpoint of the last step and return, which is no failure.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

from cluster.training.ray_private import preemption_noticed
from trainer.config import parse_config
from trainer.loop import train
from trainer.runs import RunFolder, SupersededError, write_json
from trainer.synchronised import rank

terminated = threading.Event()  # this process got SIGTERM


def stop_file(folder: RunFolder) -> Path:
    """This file exists while the driver wants the workers to save and leave."""
    return folder.path / "stop"


def notice_file(folder: RunFolder) -> Path:
    """Why a group left without being asked by the driver; JSON with ``reason`` and ``rank``."""
    return folder.path / "notice.json"


def error_file(folder: RunFolder) -> Path:
    """The error that needs the user; JSON with its type and message."""
    return folder.path / "error.json"


def needs_the_user(err: BaseException) -> bool:
    """Whether a restart would end the same way: bad input, a diverged run, a full disk, a later
    start of the run.

    A lost connection does not need the user: the death of another worker may cause it.
    """
    if isinstance(err, ConnectionError | TimeoutError):
        return False
    return isinstance(err, ValueError | OSError | SupersededError)


def train_worker(task: dict[str, Any]) -> None:
    """What Ray Train runs in each worker, after it has made the process group."""
    folder = RunFolder(Path(task["folder"]))
    if Path(task["working_folder"]).is_dir():
        os.chdir(task["working_folder"])  # relative paths mean what they mean to the user
    try:
        config = parse_config(task["config"], where=str(folder.config))
        train(config, folder, stop=_Leave(folder), reason=task["reason"])
    except (ValueError, OSError, SupersededError) as err:
        if needs_the_user(err):
            _tell(err, error_file(folder))
        raise


def _tell(err: ValueError | OSError | SupersededError, file: Path) -> None:
    """Write the error into the run folder: Ray's wrapping loses its class."""
    told: dict[str, Any] = {"type": type(err).__name__, "message": str(err)}
    if isinstance(err, OSError):
        told["os_error"] = [err.errno, err.strerror, err.filename]
    with contextlib.suppress(OSError):  # on a full disk this fails, too
        write_json(file, told)


class _Leave:
    """Whether this rank wants all ranks to save and leave; the loop asks before each step."""

    def __init__(self, folder: RunFolder) -> None:
        self._stop, self._notice = stop_file(folder), notice_file(folder)
        self._told = False

    def __call__(self) -> bool:
        reason = _notice()
        if reason and not self._told:
            self._told = True
            with contextlib.suppress(OSError):  # the checkpoint matters more
                write_json(self._notice, {"reason": reason, "rank": rank()})
        return reason is not None or self._stop.exists()


def _notice() -> str | None:
    """The notice that this process got, if any."""
    if terminated.is_set():
        return "SIGTERM to a worker"
    return "preemption notice" if preemption_noticed() else None


def leave_on_sigterm() -> None:
    """The first SIGTERM asks this process to save and leave; a second one ends it as usual."""
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: Any) -> None:
        if terminated.is_set() and callable(before):
            before(number, frame)
        terminated.set()

    signal.signal(signal.SIGTERM, note)

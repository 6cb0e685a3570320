"""What runs inside a Ray Train worker: the loop, and the notices that make a whole group leave.

A group leaves when the driver asks for it (the file ``stop`` in the run folder), when Ray says that
a node with one of its workers will go, and when one of its processes gets SIGTERM. Every rank then
saves a checkpoint of the last step together and returns, which is no failure.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import parse_config
from trainer.loop import train
from trainer.runs import RunFolder, SupersededError, write_json
from trainer.synchronised import rank

if TYPE_CHECKING:
    from ray.train import UserCallback

terminated = threading.Event()  # this process got SIGTERM


def stop_file(folder: RunFolder) -> Path:
    """Exists while the driver wants the workers to save and leave."""
    return folder.path / "stop"


def notice_file(folder: RunFolder) -> Path:
    """Why a group left on its own account; JSON with ``reason``."""
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
    """Body of one Ray Train worker; Train has made the process group."""
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
    """Exception classes do not survive Ray's wrapping: the run folder carries the message."""
    told: dict[str, Any] = {"type": type(err).__name__, "message": str(err)}
    if isinstance(err, OSError):
        told["os_error"] = [err.errno, err.strerror, err.filename]
    with contextlib.suppress(OSError):  # a full disk has no room for this either
        write_json(file, told)


class _Leave:
    """Whether this rank wants all ranks to save and leave; asked before each step."""

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
    """The notice this process has got, if any."""
    if terminated.is_set():
        return "SIGTERM to a worker"
    # The public get_preemption_info is a barrier through an actor; the loop agrees by itself.
    from ray.train.v2._internal.execution.context import get_train_context

    if get_train_context().preemption_context.preemption_info is not None:
        return "preemption notice"
    return None


def sigterm_is_a_notice() -> UserCallback:
    """For ``ray.train.RunConfig``: the first SIGTERM asks a worker to save and leave, a second one
    ends it, as the first one would have without this."""
    from ray.train.v2._internal.execution.callback import WorkerCallback

    class _Handler(WorkerCallback):
        def after_init_train_context(self) -> None:
            """Runs in the worker's main thread, the only one that may handle signals."""
            before = signal.getsignal(signal.SIGTERM)

            def note(number: int, frame: Any) -> None:
                from cluster.training.worker import terminated

                if terminated.is_set() and callable(before):
                    before(number, frame)
                terminated.set()

            signal.signal(signal.SIGTERM, note)

    return _Handler()  # pyright: ignore[reportReturnType]

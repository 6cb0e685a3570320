"""Checkpoints written while training goes on: a step waits for the copy of the state, no longer."""

from __future__ import annotations

import copy
import logging
import threading
from pathlib import Path
from typing import Any

import torch

from trainer.attempt import Attempt
from trainer.checkpoint import save_checkpoint

__all__ = ["CheckpointWriter", "snapshot"]

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread; rank 0 has one.

    An error of the thread, such as a full disk, is raised by the next call of :meth:`write` or
    :meth:`wait` as the exception that it was.
    """

    def __init__(
        self,
        folder: Path,
        *,
        description: dict[str, Any],
        keep: int,
        attempt: Attempt,
        background: bool = True,
    ) -> None:
        self.folder, self.description, self.keep = folder, description, keep
        self.attempt, self.background = attempt, background
        self._error: BaseException | None = None
        self._idle = threading.Event()
        self._idle.set()

    def write(self, state: dict[str, Any], *, step: int) -> None:
        """Copy ``state`` and start writing the copy, once the previous write has ended.

        Raises:
            OSError: the previous write failed; this one when it is not in the background.
            SupersededError: a later attempt has taken the folder over.
        """
        self.wait()
        copied = snapshot(state)
        self._idle.clear()
        # A daemon: a second Ctrl-C must not wait for a disk. What it leaves has no final name.
        threading.Thread(
            target=self._write, args=(copied, step), daemon=True, name="checkpoint-writer"
        ).start()
        if not self.background:
            self.wait()

    def wait(self) -> None:
        """Return when the last write is on disk; raises its error."""
        self._idle.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the last write; an error that nobody has seen yet is logged, not raised."""
        try:
            self.wait()
        except Exception as err:
            log.error("%s", err)

    def _write(self, state: dict[str, Any], step: int) -> None:
        try:
            save_checkpoint(
                self.folder,
                state,
                step=step,
                description=self.description,
                keep=self.keep,
                attempt=self.attempt,
            )
        except BaseException as err:
            self._error = err
        finally:
            self._idle.set()


def snapshot(value: Any) -> Any:
    """A copy of nested dictionaries, lists and tuples whose tensors are new ones in CPU memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps the version numbers that a module's state carries
        for key, item in value.items():
            copied[key] = snapshot(item)
        return copied
    if isinstance(value, list | tuple):
        return type(value)(snapshot(item) for item in value)
    return copy.copy(value)

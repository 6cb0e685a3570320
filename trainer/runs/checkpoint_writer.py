"""Writes checkpoints while training goes on: a step waits only for the copy of the state."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.runs.attempt import Attempt, take_attempt
from trainer.runs.checkpoint import clear_leftovers, save_checkpoint
from trainer.runs.retention import Retention
from trainer.runs.run_folder import RunFolder
from trainer.synchronised import collectives

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """A whole checkpoint: its step, when it was complete (Unix time), its size, and how long it
    took to write, None where an earlier attempt wrote it."""

    step: int
    time: float
    bytes: int
    seconds: float | None = None

    @classmethod
    def of(cls, path: Path, *, step: int, seconds: float | None = None) -> Written:
        """Raises OSError: it cannot be read."""
        size_bytes = sum(file.stat().st_size for file in path.iterdir())
        return cls(step, path.stat().st_mtime, size_bytes, seconds)


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread; only rank 0 has a writer.

    An error of the thread, such as a full disk, is raised by the next call of :meth:`write` or
    :meth:`wait` as the exception that it was.

    Attributes:
        last: the newest checkpoint on disk; None if there is none, or if it cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        description: dict[str, Any],
        keep: Retention,
        attempt: Attempt,
        background: bool = True,
    ) -> None:
        self.folder, self.description, self.keep = folder, description, keep
        self.attempt, self.background = attempt, background
        self.last: Written | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def write(
        self, state: dict[str, Any], *, step: int, scores: Mapping[str, float] | None = None
    ) -> None:
        """Copy ``state`` and start writing the copy, once the previous write has ended.

        ``scores`` are those of this state, where it was validated.

        Raises:
            OSError: the previous write failed; this one when it is not in the background.
            SupersededError: a later attempt has taken the folder over.
        """
        self.wait()
        copied = snapshot(state)
        # A daemon: a second Ctrl-C must not wait for a disk. Unfinished files have no final name.
        self._thread = threading.Thread(
            target=self._write, args=(copied, step, scores), daemon=True, name="checkpoint-writer"
        )
        del copied  # only the thread holds it, and frees it before it ends
        self._thread.start()
        if not self.background:
            self.wait()

    def wait(self) -> None:
        """Return when the last write is on disk and its thread has ended; raises its error.

        A thread that frees tensors while the interpreter ends would abort the process.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the last write; an error that was not raised before is logged, not raised."""
        try:
            self.wait()
        except Exception as err:
            log.error("%s", err)

    def _write(self, state: dict[str, Any], step: int, scores: Mapping[str, float] | None) -> None:
        begun_seconds = time.monotonic()
        try:
            path = save_checkpoint(
                self.folder,
                state,
                step=step,
                description=self.description,
                keep=self.keep,
                attempt=self.attempt,
                scores=scores,
            )
            seconds = time.monotonic() - begun_seconds
            with suppress(OSError):  # a later attempt has removed it
                self.last = Written.of(path, step=step, seconds=seconds)
        except BaseException as err:
            self._error = err

    def resumed(self, path: Path, *, step: int) -> None:
        """The training continues from this checkpoint."""
        with suppress(OSError):
            self.last = Written.of(path, step=step)


def take_over(
    folder: RunFolder, *, description: dict[str, Any], keep: Retention, background: bool
) -> CheckpointWriter | None:
    """Rank 0 becomes the newest attempt on the run folder, the only one that may write there.

    Called by all ranks, which raise the same error. Only rank 0 gets a writer.
    """
    writer, failure = None, None
    if collectives.rank() == 0:
        try:
            attempt = take_attempt(folder.facts)
            clear_leftovers(folder.checkpoints, attempt=attempt)
            writer = CheckpointWriter(
                folder.checkpoints,
                description=description,
                keep=keep,
                attempt=attempt,
                background=background,
            )
        except Exception as err:
            failure = err
    collectives.raise_together(failure)
    return writer


def snapshot(value: Any) -> Any:
    """A copy of nested dictionaries, lists and tuples whose tensors are new ones in CPU memory."""
    if isinstance(value, torch.Tensor):
        # One layout for all checkpoints, however the run keeps its weights in memory.
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps the version numbers that a module's state carries
        for key, item in value.items():
            copied[key] = snapshot(item)
        return copied
    if isinstance(value, list | tuple):
        return type(value)(snapshot(item) for item in value)
    return copy.copy(value)

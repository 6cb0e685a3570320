"""Locks on files and folders: one process or thread at a time holds a lock.

They are `flock`s. They belong to an open file, so threads exclude each other too, and the system
releases them when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from dataio.records import DataError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """The file `path`, made if need be, while no other process or thread has it locked."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        # Closing is not enough: a forked child may hold a copy of the descriptor.
        fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


def lock_at_once(file: int, place: Path, *, doing: str) -> None:
    """Lock an open file or folder that belongs to `place`, without waiting; closing it unlocks.

    Where the file system has no locks, as some network file systems, a warning says so.

    Args:
        doing: what the holder of the lock does, for messages: "is packing into this folder".

    Raises:
        DataError: another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(
            f"{place}: another process {doing}; wait for it, or choose another folder"
        ) from None
    except OSError as error:
        _log.warning(
            "%s: cannot be locked (%s); see that no other process %s",
            place,
            error.strerror,
            doing,
        )


@contextlib.contextmanager
def locked_at_once(path: Path) -> Iterator[int | None]:
    """As `locked`, but None at once where another process or thread has the file locked."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file
        fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


@contextlib.contextmanager
def claimed(part: Path) -> Iterator[int]:
    """As `locked`, for a file that may be renamed; removed at the end if it is still there."""
    while True:
        with locked(part) as file:
            if not is_at(file, part):
                continue  # the holder before has renamed or removed that file
            try:
                yield file
            finally:
                if is_at(file, part):
                    part.unlink()
            return


def being_written(folder: Path, *, suffix: str) -> int:
    """Bytes reserved by files that are being written; removes those whose writer is gone."""
    total_bytes = 0
    for part in folder.glob(f"*{suffix}"):
        try:
            file = os.open(part, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # finished meanwhile
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(file, part):
                part.unlink()
        except BlockingIOError:
            total_bytes += os.fstat(file).st_size
        finally:
            os.close(file)
    return total_bytes


def is_at(file: int, path: Path) -> bool:
    """Whether the open `file` is the one that `path` names now."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False

"""Which process works in a cell's run folder, ``cells/<name>`` of a store.

The locks are files in ``locks``, which stay. A lock ends with the process that holds it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trainer.config import ConfigError
from trainer.runs import naming

CELLS, LOCKS = "cells", "locks"
REMOVED = ".removed-"  # begins the name of a folder that is being removed


@contextmanager
def cell_lock(store: Path, name: str) -> Iterator[Path]:
    """Hold the cell ``name`` of ``store``; gives its folder ``cells/<name>``, which may not exist.

    Waits for another process or thread that holds it; nobody has to wait for a process that was
    killed. While the lock is held nobody removes the folder. Append the row that refers to the
    folder before the lock is released.

    Raises:
        ConfigError: ``name`` is not the plain name of a folder.
        OSError: the store cannot be written.
    """
    if name in ("", ".", "..") or name.startswith(REMOVED) or name != os.path.basename(name):
        raise ConfigError(f"{store / CELLS}: '{name}' is no name of a cell's folder")
    with naming(store / CELLS):
        (store / CELLS).mkdir(parents=True, exist_ok=True)
    with _lock(store, name):
        yield store / CELLS / name


@contextmanager
def lock_if_free(store: Path, name: str) -> Iterator[bool]:
    """As :func:`cell_lock`, without waiting: False where another process or thread holds it."""
    lock = _lock(store, name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _lock(store: Path, name: str) -> FileLock:
    with naming(store / LOCKS):
        (store / LOCKS).mkdir(parents=True, exist_ok=True)
    # Group and others may write: the members of a team share a store.
    return FileLock(store / LOCKS / f"{name}.lock", mode=0o666)

"""The run folders of a store, ``cells/<name>``: who works in one, and removing those of nobody."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataio.file_locks import claimed
from trainer.config import ConfigError
from trainer.runs import naming

CELLS = "cells"
LOCK = ".lock"
ASIDE = ".removed-"  # a folder that is being removed


@contextmanager
def cell_lock(store: Path, name: str) -> Iterator[Path]:
    """Hold the cell ``name`` of ``store``; gives its folder ``cells/<name>``, made or not.

    Waits for another process or thread that holds it. The lock ends with the process that holds it,
    so nobody waits for a killed one. While it is held nobody removes the folder; a row that refers
    to the folder is to be appended before it is given back.

    Raises:
        ConfigError: ``name`` is no plain name of a folder.
        OSError: the store cannot be written.
    """
    if name in ("", ".", "..") or name.startswith(ASIDE) or name != os.path.basename(name):
        raise ConfigError(f"{store / CELLS}: '{name}' is no name of a cell's folder")
    cells = store / CELLS
    with naming(cells):
        cells.mkdir(parents=True, exist_ok=True)
    with claimed(_lock_of(cells / name)):
        yield cells / name


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """As :func:`cell_lock`, without waiting: False where somebody else holds the cell."""
    lock = _lock_of(folder)
    file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        free = _locked_now(file) and _is_at(file, lock)  # or renewed by who held it before
        yield free
        if free:
            lock.unlink(missing_ok=True)
    finally:
        os.close(file)


def folders(store: Path) -> list[Path]:
    """The cells' folders of a store, by name; links, files and hidden folders are none."""
    cells = store / CELLS
    if not cells.is_dir():
        return []
    return sorted(
        path
        for path in cells.iterdir()
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
    )


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder; links are not followed."""
    total_bytes = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed since
                total_bytes += os.lstat(os.path.join(path, name)).st_size
    return total_bytes


def set_aside(folder: Path) -> None:
    """Take a cell's folder away under its name, at once; :func:`remove_leftovers` removes it.

    Raises:
        OSError: the store cannot be written.
    """
    number = 0
    while (aside := folder.with_name(f"{ASIDE}{number}-{folder.name}")).exists():
        number += 1
    with naming(folder):
        os.replace(folder, aside)


def remove_leftovers(store: Path) -> None:
    """Remove what :func:`set_aside` took away, here or in a process that was killed."""
    cells = store / CELLS
    for folder in cells.glob(f"{ASIDE}*"):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{LOCK}")


def _locked_now(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False

"""Writing a file so that nobody ever sees a part of it."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, *, durable: bool = True, one_writer: bool = False) -> None:
    """Write a file under a temporary name beside it and rename: it is there whole or not at all.

    Args:
        durable: it also survives a power failure; False saves the waits for the disk.
        one_writer: no other process writes this file, so the temporary name can always be the same
            and what a killed process has left is written over.

    Raises:
        OSError: naming `path`; a full disk by itself would name nothing.
    """
    writer = "" if one_writer else f".{os.getpid()}"
    temporary = path.with_name(f".{path.name}{writer}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush to disk which names `folder` holds: renames survive a power failure from here on."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

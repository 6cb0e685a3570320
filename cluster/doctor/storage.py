"""Folders that a run writes: their room, permission, and the clock of their file system."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from cluster.doctor.findings import Finding, error, ok, size, warning

_CLOCK_SECONDS = 5.0  # Ray and the alerts for stale metrics stand somewhat more
_CLOCK_LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Folder:
    """A folder that may not exist yet.

    Attributes:
        free_bytes: of its file system.
        failure: why nothing can be written there.
        ahead_seconds: the clock of its file system minus that of this machine.
    """

    path: Path
    free_bytes: int = 0
    failure: str | None = None
    ahead_seconds: float = 0.0


def look_at_folder(path: Path) -> Folder:
    """Write a file in ``path``, or in the nearest folder above it that exists, and remove it."""
    place = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not place.is_dir():
        return Folder(path, failure=f"{place} is a file")
    probe = place / f".img2shape-doctor-{uuid.uuid4().hex}"
    try:
        free = shutil.disk_usage(place).free
        before = time.time()
        probe.write_bytes(os.urandom(4096))
        changed, after = probe.stat().st_mtime, time.time()
    except OSError as err:
        return Folder(path, failure=err.strerror or str(err))
    finally:
        probe.unlink(missing_ok=True)
    # A time between before and after shows no difference of the clocks.
    ahead = max(0.0, changed - after) - max(0.0, before - changed)
    return Folder(path, free, ahead_seconds=ahead)


def check_folder(folder: Folder, *, what: str, need_bytes: int, option: str) -> Finding:
    """Whether ``need_bytes`` can be written; ``option`` chooses another folder."""
    if folder.failure is not None:
        message = f"{folder.path} cannot be written ({folder.failure})"
        return error(what, message, f"mend its permissions, or choose another with {option}")
    if folder.free_bytes < 2 * need_bytes:
        level = error if folder.free_bytes < need_bytes else warning
        message = f"{folder.path}: {size(folder.free_bytes)} free, about {size(need_bytes)} needed"
        return level(what, message, f"free some space, or choose another with {option}")
    return ok(what, f"{folder.path}: writable, {size(folder.free_bytes)} free")


def check_clock(ahead_seconds: float, *, whose: str) -> Finding:
    """The clock of a file system or node against this machine's."""
    apart = abs(ahead_seconds)
    message = f"the clock of {whose} is {apart:.1f} s {'ahead' if ahead_seconds > 0 else 'behind'}"
    remedy = "set both by NTP (chrony, systemd-timesyncd)"
    if apart > _CLOCK_LIMIT_SECONDS:
        return error("clock", message, remedy)
    if apart > _CLOCK_SECONDS:
        return warning("clock", message, remedy)
    return ok("clock", f"the clock of {whose} agrees")

"""Furniture libraries of Sweet Home 3D from Debian's package, fetched without installing it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.terminal import say, shown
from dataio.file_locks import lock_at_once
from dataio.records import DataError
from trainer.runs import naming

PACKAGE = "sweethome3d-furniture"
_LIBRARIES = "usr/share/sweethome3d/furniture/*.sh3f"  # in the package
_NEEDED = ("apt-get", "dpkg")
_BY_HAND = (
    "or give libraries, .sh3f files, yourself: make real LIBRARY=FILE_OR_FOLDER "
    "(img2shape real --library). They are at https://www.sweethome3d.com/importModels.jsp and in "
    f"https://packages.debian.org/{PACKAGE}"
)


def fetch_furniture(folder: Path) -> Path:
    """Unpack the package into ``folder``, unless its libraries are there; returns ``folder``.

    The package is about 120 MB. Nothing is installed, and no rights of an administrator are needed.
    Until all is there, it lies in a hidden folder beside ``folder``; an error or an interruption
    removes that, and what a kill has left is removed by the next call.

    Raises:
        DataError: ``folder`` holds something else, a program is missing or fails, or another
            process is fetching. The message says how to give libraries by hand.
        OSError: the disk is full or ``folder`` cannot be written.
    """
    if any(folder.glob(_LIBRARIES)):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder}: holds no libraries of {PACKAGE}, yet it is not empty; move it away"
        )
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        raise DataError(
            f"{PACKAGE} is fetched with {' and '.join(_NEEDED)}, and this system has no "
            f"{' and no '.join(missing)}; use Debian or Ubuntu, {_BY_HAND}"
        )
    with naming(folder), _beside(folder) as part:
        say(f"{PACKAGE}: fetching the package, about 120 MB")
        _run(["apt-get", "download", PACKAGE], part)
        packages = sorted(part.glob("*.deb"))
        if len(packages) != 1:
            raise DataError(f"apt-get download {PACKAGE}: left no package; give it again")
        unpacked = part / "unpacked"
        _run(["dpkg", "-x", packages[0].name, unpacked.name], part)
        if not any(unpacked.glob(_LIBRARIES)):
            raise DataError(f"{packages[0].name}: holds no {_LIBRARIES}; {_BY_HAND[3:]}")
        os.replace(unpacked, folder)
    say(f"{PACKAGE}: unpacked into {shown(folder)}")
    return folder


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """An empty hidden folder beside ``folder``, which only this process has; removed at the end."""
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    handle = os.open(part, os.O_RDONLY)
    try:
        lock_at_once(handle, folder, doing=f"is fetching {PACKAGE}")
        for old in part.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(handle)


def _run(command: list[str], folder: Path) -> None:
    """Run a program in ``folder``; its progress goes to stderr. DataError with what it says."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},  # its messages are looked at
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    lines = done.stderr.splitlines()
    errors = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")] or lines[-1:]
    reason = "; ".join(errors) or f"exit code {done.returncode}"
    raise DataError(f"{' '.join(command)}: {reason.rstrip('.')}; {_remedy(reason)}, {_BY_HAND}")


def _remedy(reason: str) -> str:
    if "Unable to locate" in reason or "No packages found" in reason:
        return (
            "apt's lists of packages may be missing: give `apt-get update` as root "
            "(on Ubuntu the package is in universe)"
        )
    return "check the network and the disk and give the command again"

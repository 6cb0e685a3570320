"""The folder of a data set that is being packed: finished shards, each with a note, under a lock.

The folder `.packing` lies inside the data set's own, so that moving a shard into place is a rename.
A note is written when its shard is complete and on disk; a shard without a note does not count.
After a kill, the notes tell the next pack which shards it need not write again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dataio.atomic import write_whole
from dataio.file_locks import is_at, lock_at_once
from dataio.records import DataError, Record
from dataio.shards import Member, Shard

_FOLDER, _LOCK, _PLAN, _NOTE = ".packing", "lock", "plan", ".json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NotedRow:
    """What the manifest holds of one sample and its record does not."""

    members: tuple[Member, ...]
    content_sha256: str
    views: int


@dataclass(frozen=True)
class Skipped:
    """One record left out of the data set."""

    key: str | None  # None: the adapter left it out, before it had one
    source_path: str
    reason: str


@dataclass(frozen=True)
class ShardNote:
    """A finished shard, and the records it was made of.

    These are the records of its stream and split from the end of the shard before up to `stop`;
    `sources_sha256` is over their identities and that of the record after them, which decided
    where the shard ends.
    """

    shard: Shard
    stop: int
    sources_sha256: str
    rows: dict[str, NotedRow]  # by key, in the shard's order
    skipped: tuple[Skipped, ...]


class Staging:
    """The folder `<out>/.packing`, held by one process at a time.

    Leaving the block keeps it if there is a finished shard in it, for a later call to continue.
    """

    def __init__(self, out: Path) -> None:
        """`out`, the data set's own folder, exists."""
        self.out, self.folder = out, out / _FOLDER
        self._lock: int | None = None

    def __enter__(self) -> Staging:
        """Raises DataError if another process packs into the same folder."""
        self._lock = _locked(self.folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is None:
            return
        if any(self.folder.glob(f"*{_NOTE}")):
            os.close(self._lock)  # this unlocks
            self._lock = None
        else:
            self.remove()

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Keep what is there if it was made by the same plan, else throw it away and say so."""
        text = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
        path = self.folder / _PLAN
        if path.exists() and path.read_text() == text:
            return
        if any(self.folder.glob(f"*{_NOTE}")):
            logger.warning(
                "%s: an interrupted pack had other options, classes or versions; starting over",
                self.out,
            )
        self._clear()
        write_whole(path, text.encode())

    def held(self, name: str) -> Path:
        """Where a finished shard is: here, or already moved into place."""
        staged = self.folder / name
        return staged if staged.exists() else self.out / name

    def note(self, name: str) -> ShardNote | None:
        """The note of a finished shard; None if there is none that can be read."""
        try:
            said = json.loads((self.folder / (name + _NOTE)).read_bytes())
            rows = {key: _noted_row(row) for key, row in said["rows"].items()}
            skipped = tuple(Skipped(**one) for one in said["skipped"])
            shard = Shard(**said["shard"])
            return ShardNote(shard, said["stop"], said["sources_sha256"], rows, skipped)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def write_note(self, note: ShardNote) -> None:
        """Write the note of a finished shard that is on disk."""
        path = self.folder / (note.shard.name + _NOTE)
        write_whole(path, json.dumps(asdict(note), separators=(",", ":")).encode())

    def remove(self) -> None:
        """Remove the folder with all that is in it, and unlock."""
        assert self._lock is not None, "not held"
        self._clear()
        (self.folder / _LOCK).unlink()
        try:
            self.folder.rmdir()
        except OSError:
            logger.info("%s: in use by another pack already", self.folder)
        os.close(self._lock)
        self._lock = None

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != _LOCK:
                path.unlink()


def identity(record: Record) -> bytes:
    """What decides a sample's bytes: the record, and size and time of each of its files.

    Where the files lie does not matter, nor which object they show, which is in the manifest alone.
    A file that cannot be examined counts as absent.
    """
    files = [record.image, record.mask, record.mesh, *(record.views or ())]
    about = [
        record.key, record.stream, record.split, record.label, record.source_path, record.crop,
        record.drawn_on,
        record.up_axis, dict(record.extra), [_examined(file) for file in files if file],
    ]  # fmt: skip
    if record.rotation is not None:
        about.append(record.rotation)
    return json.dumps(about, sort_keys=True, default=str).encode()


def _examined(file: Path) -> tuple[str, int, int]:
    try:
        found = file.stat()
    except OSError:
        return file.name, -1, -1
    return file.name, found.st_size, found.st_mtime_ns


def _noted_row(said: dict[str, Any]) -> NotedRow:
    members = tuple(Member(**member) for member in said["members"])
    return NotedRow(members, said["content_sha256"], said["views"])


def _locked(folder: Path) -> int:
    """A descriptor of the folder's lock file; the kernel unlocks it when the process ends."""
    while True:
        folder.mkdir(exist_ok=True)
        path = folder / _LOCK
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another pack has just removed the folder
            continue
        try:
            lock_at_once(lock, folder.parent, doing="is packing into this folder")
            if is_at(lock, path):
                return lock
        except DataError:
            os.close(lock)
            raise
        os.close(lock)  # removed between opening and locking: it would keep nobody out

"""Whole shards of remote data sets on this machine's disk, shared by all its processes."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

from dataio.file_locks import being_written, claimed, locked
from dataio.records import DataError
from dataio.shards.location import number_from, read_blocks, shown

_FOLDER, _LIMIT = "IMG2SHAPE_CACHE", "IMG2SHAPE_CACHE_GB"
_DEFAULT_GB = 50
_THREADS = 2  # that fetch ahead; one connection rarely fills the network
_POLL_SECONDS = 0.05
_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger(__name__)

Entry = tuple[str, str, int]  # URL, SHA-256 and size in bytes of a shard


class ShardCache:
    """A folder of at most `limit_bytes` that holds shards by their SHA-256.

    A shard's name is the hash of its content. So data sets can share it, and a changed object gets
    another name. A whole shard is `<sha256>.tar`, one being written `<sha256>.part`. The writer
    holds an exclusive `flock`; others wait for it and then find the shard. A `.part` file without a
    lock was left by a killed process. When room is needed, shards that this process does not want
    go first, and among them the one used longest ago. A process that has an evicted shard open can
    go on reading it.
    """

    def __init__(self, folder: str | Path, *, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = Path(folder), limit_bytes
        self.hits = 0  # shards that were there
        self.misses = 0  # shards that this process fetched
        self.refetches = 0  # shards fetched again because they came damaged
        self.bytes_fetched = 0
        self._seen: set[str] = set()  # fetched by this process
        self._start_threading()

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(ShardCache, limit_bytes=self.limit_bytes), (self.folder,)

    def fetch(self, url: str, sha256: str, size_bytes: int) -> Path:
        """The shard's file on this machine, fetched if need be; it may be evicted later.

        Raises DataError, with the remedy: the shard cannot be read, it is not what the manifest
        says (also when fetched twice), it is larger than the whole cache, the disk is full.
        """
        path = self._checked_path(url, sha256, size_bytes)
        try:
            if self._holds(path, size_bytes) or not self._fetched(url, path, size_bytes):
                self._count(hits=1)
        except OSError as error:
            raise self._unusable(url, error) from error
        return path

    def path(self, sha256: str) -> Path:
        """Where a shard is, or would be."""
        return self.folder / f"{sha256}.tar"

    def open(self, url: str, sha256: str, size_bytes: int) -> int:
        """A file descriptor of the shard, readable as long as it is open. Errors as in `fetch`."""
        while True:
            path = self.fetch(url, sha256, size_bytes)
            with contextlib.suppress(FileNotFoundError):  # evicted since: fetch again
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def prefetch(self, entries: Sequence[Entry], *, owner: object) -> None:
        """Begin to fetch shards in the background, in this order, and return at once.

        `entries` are all that `owner` needs now and next; they replace what it asked for before.
        Nothing is fetched ahead while the cache cannot hold what all owners need together: that
        would evict shards in use. Errors are raised by the later `fetch` of the shard.
        """
        with self._threading():
            if self._wanted.get(owner) == entries:
                return
            self._wanted[owner] = entries
            needed = {
                sha256: size for wanted in self._wanted.values() for _, sha256, size in wanted
            }
            if sum(needed.values()) > self.limit_bytes:
                return
            for entry in entries:
                self._queue.put(entry)
            while self._threads < _THREADS:
                # Daemons, so that the program's end does not wait for them.
                threading.Thread(target=self._work, args=(self._queue,), daemon=True).start()
                self._threads += 1

    # ---- one shard -------------------------------------------------------------------------------

    def _checked_path(self, url: str, sha256: str, size_bytes: int) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise DataError(f"{shown(url)}: damaged manifest (SHA-256 {sha256!r}); pack again")
        if size_bytes > self.limit_bytes:
            raise DataError(
                f"{shown(url)}: a shard of {size_bytes} bytes, but the cache {self.folder} is "
                f"limited to {self.limit_bytes}; raise {_LIMIT} or pack smaller shards"
            )
        return self.path(sha256)

    def _holds(self, path: Path, size_bytes: int) -> bool:
        try:
            if path.stat().st_size != size_bytes:
                return False
            with contextlib.suppress(PermissionError):  # another user's, in a shared folder
                os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _fetched(self, url: str, path: Path, size_bytes: int) -> bool:
        """Fetch a shard; False if another process or thread did meanwhile."""
        part = path.with_suffix(".part")
        self.folder.mkdir(parents=True, exist_ok=True)
        with claimed(part) as file:
            if self._holds(path, size_bytes):
                return False
            self._reserve(file, size_bytes)
            self._download(file, url, sha256=path.stem, size_bytes=size_bytes)
            os.replace(part, path)
        self._note(url, path.stem)
        return True

    def _download(self, file: int, url: str, *, sha256: str, size_bytes: int) -> None:
        for again in (True, False):
            found_bytes, found = self._copy(file, url, size_bytes)
            if (found_bytes, found) == (size_bytes, sha256):
                break
            if not again:
                raise DataError(
                    f"{shown(url)}: shard has {found_bytes} bytes and SHA-256 {found}, the "
                    f"manifest says {size_bytes} and {sha256}; upload it again or pack again"
                )
            _log.warning("%s: came damaged; fetching it again", shown(url))
            self._count(refetches=1)
        os.ftruncate(file, size_bytes)  # a longer first attempt
        os.fsync(file)

    def _copy(self, file: int, url: str, size_bytes: int) -> tuple[int, str]:
        digest, total_bytes = hashlib.sha256(), 0
        with open(file, "wb", closefd=False) as out:
            out.seek(0)
            for block in read_blocks(url, size_bytes):
                out.write(block)
                digest.update(block)
                total_bytes += len(block)
                self._count(bytes_fetched=len(block))
        return total_bytes, digest.hexdigest()

    def _unusable(self, url: str, error: OSError) -> DataError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DataError(
                f"{self.folder}: the disk is full, {shown(url)} does not fit; free space, lower "
                f"{_LIMIT}, or set {_FOLDER} to a folder on a larger disk"
            )
        return DataError(
            f"{self.folder}: cannot keep shards here ({error.strerror}); set {_FOLDER} to a "
            "folder on this machine's disk"
        )

    def _note(self, url: str, sha256: str) -> None:
        self._count(misses=1)
        if sha256 in self._seen and not self._warned:
            self._warned = True
            _log.warning(
                "%s: fetched again, the cache's %.3g GB do not hold all that is read; raise %s",
                shown(url), self.limit_bytes / 1e9, _LIMIT,
            )  # fmt: skip
        self._seen.add(sha256)

    # ---- room ------------------------------------------------------------------------------------

    def _reserve(self, part: int, size_bytes: int) -> None:
        """Evict until `size_bytes` more fit, and give `part` that size: others see it as taken."""
        while True:
            with locked(self.folder / ".lock"):
                if self._make_room(size_bytes):
                    os.ftruncate(part, size_bytes)
                    return
            # What other processes fetch now can be evicted when they are done.
            time.sleep(_POLL_SECONDS)

    def _make_room(self, size_bytes: int) -> bool:
        with self._threading():
            wanted = {sha256 for entries in self._wanted.values() for _, sha256, _ in entries}
        shards = [(path, path.stat()) for path in self.folder.glob("*.tar")]
        shards.sort(key=lambda item: (item[0].stem in wanted, item[1].st_mtime_ns))
        held_bytes = sum(about.st_size for _, about in shards) + being_written(
            self.folder, suffix=".part"
        )
        for path, about in shards:
            if held_bytes + size_bytes <= self.limit_bytes:
                break
            path.unlink()
            held_bytes -= about.st_size
        return held_bytes + size_bytes <= self.limit_bytes

    # ---- threads ---------------------------------------------------------------------------------

    def _work(self, queue: SimpleQueue[Entry]) -> None:
        while True:
            url, sha256, size_bytes = queue.get()
            try:
                path = self._checked_path(url, sha256, size_bytes)
                if not self._holds(path, size_bytes):
                    self._fetched(url, path, size_bytes)
            except Exception as error:
                _log.debug("not fetched ahead: %s", error)

    def _count(self, **by: int) -> None:
        with self._threading():
            for name, number in by.items():
                setattr(self, name, getattr(self, name) + number)

    def _threading(self) -> threading.Lock:
        if self._process != os.getpid():  # after a fork, the threads exist only in the parent
            self._start_threading()
        return self._lock

    def _start_threading(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._queue: SimpleQueue[Entry] = SimpleQueue()
        self._threads = 0
        self._wanted: WeakKeyDictionary[object, Sequence[Entry]] = WeakKeyDictionary()
        self._warned = False


def node_cache() -> ShardCache:
    """This process's cache in the folder and within the limit that the environment names.

    `IMG2SHAPE_CACHE`, by default `~/.cache/img2shape/shards`, is a folder on the machine's own
    disk; `IMG2SHAPE_CACHE_GB` is 50 by default.
    """
    folder = os.environ.get(_FOLDER) or str(Path.home() / ".cache" / "img2shape" / "shards")
    return _cache(folder, int(number_from(_LIMIT, _DEFAULT_GB) * 1e9))


@functools.lru_cache
def _cache(folder: str, limit_bytes: int) -> ShardCache:
    return ShardCache(folder, limit_bytes=limit_bytes)

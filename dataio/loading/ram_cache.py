"""Decoded pictures in memory, each held once for all loader workers of a rank."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

from dataio.records import DataError

log = logging.getLogger(__name__)

_PAGE_BYTES = mmap.PAGESIZE
_BUSY = 255  # a worker is writing the sample
_warned = False


class RamCache:
    """Decoded samples by position. When the limit is reached, further samples are not kept.

    With worker processes the memory is an anonymous file (`memfd_create`): it has no name, is not
    under the size limit of `/dev/shm`, and the system frees it with the last process, however that
    ends. Worker processes that are started with this object share it. Where the system has no such
    files, each process keeps its own part instead, and a warning says so.

    One process writes a sample: first its pixels, then, under the lock, its channel count. Readers
    go by the channel count, so none meets half a sample. Memory is taken page by page.
    """

    def __init__(self, samples: int, *, side: int, limit_bytes: int, processes: int) -> None:
        """Make an empty cache.

        Args:
            samples: N, positions are 0..N-1.
            side: S, of the pictures in pixels.
            limit_bytes: of all pixels held.
            processes: workers that this object will be sent to, 0 = for this process alone.
        """
        self._samples, self._side = samples, side
        file = _anonymous_file() if processes > 0 else None
        parts = 1 if file is not None else max(1, processes)
        self._planes = limit_bytes // parts // side**2
        self._map(file)

    def _map(self, file: int | None) -> None:
        index_bytes = 8 + 9 * self._samples
        start_bytes = -(-index_bytes // _PAGE_BYTES) * _PAGE_BYTES
        size_bytes = start_bytes + self._planes * self._side**2
        self._file = file
        try:
            if file is not None:
                os.ftruncate(file, size_bytes)
                weakref.finalize(self, os.close, file)
            memory = mmap.mmap(-1 if file is None else file, size_bytes)
        except OSError as error:
            raise DataError(
                f"cache: cannot reserve {size_bytes / 2**30:.1f} GiB of memory ({error.strerror}); "
                "lower its limit"
            ) from error
        n, side = self._samples, self._side
        self._used = np.ndarray(1, np.int64, memory)  # planes
        self._start = np.ndarray(n, np.int64, memory, offset=8)
        self._channels = np.ndarray(n, np.uint8, memory, offset=8 + 8 * n)
        self._pixels = np.ndarray((self._planes, side, side), np.uint8, memory, offset=start_bytes)

    @property
    def shared(self) -> bool:
        """Whether worker processes put samples where this process finds them."""
        return self._file is not None

    @property
    def used_bytes(self) -> int:
        """Bytes of pixels held, over all processes that share them."""
        return int(self._used[0]) * self._side**2

    def places(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each sample its first plane, for `copy`, and its number of channels, 0 if it is not
        held; both int [n]."""
        with self._locked():
            starts, channels = self._start[positions], self._channels[positions]
        channels[channels == _BUSY] = 0
        return starts, channels

    def copy(self, start: int, channels: int, views: np.ndarray, *, out: np.ndarray) -> None:
        """Write `views` int64 [v] of one sample to `out` uint8 [v, C, S, S]; a grey sample is
        repeated in all C channels."""
        planes = start + views[:, None] * channels + np.arange(out.shape[1]) % channels
        # The default mode, "raise", would copy twice.
        np.take(self._pixels, planes, axis=0, out=out, mode="clip")

    def add(self, position: int, pictures: Sequence[np.ndarray]) -> None:
        """Keep all views of one sample, uint8 [S, S, C] each, if there is room."""
        channels = pictures[0].shape[2]
        planes = len(pictures) * channels
        with self._locked():
            start = int(self._used[0])
            if self._channels[position] != 0 or start + planes > self._planes:
                return
            self._used[0], self._channels[position] = start + planes, _BUSY
        for view, picture in enumerate(pictures):
            at = start + view * channels
            self._pixels[at : at + channels] = picture.transpose(2, 0, 1)
        with self._locked():
            self._start[position], self._channels[position] = start, channels

    def has_room(self, planes: int) -> bool:
        """Whether a sample of `planes` = V·C would be kept now."""
        return int(self._used[0]) + planes <= self._planes

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock of all processes that share the cache; it ends with the process."""
        if self._file is None:
            yield
            return
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __reduce__(self) -> tuple[Any, ...]:
        # Only a process that is just being started can inherit the file. Any other pickled copy
        # of this object is an empty cache.
        file = None
        if self._file is not None and get_spawning_popen() is not None:
            file = DupFd(self._file)
        return _received, (self._samples, self._side, self._planes, file)


def _received(samples: int, side: int, planes: int, file: Any) -> RamCache:
    cache = RamCache.__new__(RamCache)
    cache._samples, cache._side, cache._planes = samples, side, planes
    cache._map(None if file is None else file.detach())
    return cache


def _anonymous_file() -> int | None:
    global _warned
    try:
        return os.memfd_create("img2shape-cache")
    except (AttributeError, OSError) as error:
        if not _warned:
            log.warning(
                "training.cache=ram: no memory that processes share here (%s); each loader worker "
                "keeps pictures of its own",
                error,
            )
        _warned = True
        return None

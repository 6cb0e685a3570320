"""Reading samples out of the shards: by byte range, or through plain webdataset."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataio.records import DataError
from dataio.shards import read_bytes
from dataio.shards.decode import VIEWS_TAR
from dataio.shards.location import is_remote, join, read_blocks, shown
from dataio.shards.manifest import Manifest, Member, Shard
from dataio.shards.opening import load_manifest

if TYPE_CHECKING:
    from dataio.shards.shard_cache import ShardCache

# The last is a stretch of a tar, from the first view's header to the last view's end.
CONTENT_SUFFIXES = ("jpg", "png", "views.jpg", "views.npy", "jpeg", "webp", VIEWS_TAR)

HEADER_BYTES = 512  # of a tar header, right before each member's data
_READ_BYTES = 1 << 20


class ShardReader:
    """Reads byte ranges of a data set's shards with `pread` on cached file descriptors.

    Shards at a URL are fetched whole into a cache on this machine and read there.

    Safe to share between threads and across fork (a read has no file position); pickling keeps no
    open file. `max_open` bounds the descriptors held.
    """

    def __init__(
        self,
        root: str | Path,
        shards: tuple[Shard, ...],
        *,
        verify: bool = True,
        max_open: int = 64,
        cache: ShardCache | None = None,
    ) -> None:
        """`verify` compares a local shard's size with the manifest's when it is opened; `cache` is
        where shards at a URL are kept, by default `shard_cache.node_cache()`."""
        self._shards = shards
        self._places = [join(root, shard.name) for shard in shards]
        self._cache = cache or _cache_for(self._places)
        self._verify, self._max_open = verify, max(1, max_open)
        self._files: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def read(self, shard_id: int, member: Member) -> bytes:
        """The bytes of `member`.

        Raises DataError, naming shard and remedy, if the shard is missing, cut short or no longer
        holds a member of that suffix and size at that place.
        """
        name = self.path(shard_id)
        with self._locked():
            file = self._file(shard_id)
            try:
                block = os.pread(file, HEADER_BYTES + member.size, member.offset - HEADER_BYTES)
            except OSError as error:  # e.g. another machine has removed the file
                os.close(self._files.pop(shard_id))
                raise DataError(
                    f"{name}: cannot read shard ({error.strerror}); copy it again or pack again"
                ) from error
        if len(block) != HEADER_BYTES + member.size:
            raise DataError(
                f"{name}: ends before byte {member.offset + member.size}, inside a sample; "
                "copy the shard again or pack again"
            )
        if not is_member_header(block[:HEADER_BYTES], member):
            raise DataError(
                f"{name}: no .{member.suffix} of {member.size} bytes at byte {member.offset}, the "
                "shard has changed since packing; copy it again or pack again"
            )
        read_bytes.add(len(block))
        return member_content(block, member)

    def path(self, shard_id: int) -> str:
        """The path or URL of a shard, as messages name it."""
        place = self._places[shard_id]
        if self._cache is None or not is_remote(place):
            return place
        return f"{shown(place)} (kept in {self._cache.path(self._shards[shard_id].sha256)})"

    @property
    def remote(self) -> bool:
        """Whether any shard is at a URL."""
        return self._cache is not None

    def prefetch(self, shard_ids: Iterable[int]) -> None:
        """Begin to fetch shards at a URL, in this order, in the background.

        Name all shards that are read now and next; they replace those named before. Never raises:
        a shard that cannot be fetched raises when it is read.
        """
        if self._cache is None:
            return
        wanted = [
            (self._places[i], self._shards[i]) for i in shard_ids if is_remote(self._places[i])
        ]
        entries = tuple((url, shard.sha256, shard.size_bytes) for url, shard in wanted)
        self._cache.prefetch(entries, owner=self)

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        with self._locked():
            while self._files:
                os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_files"], state["_lock"], state["_owner"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._files, self._lock, self._owner = OrderedDict(), threading.Lock(), os.getpid()

    def __del__(self) -> None:
        files = self.__dict__.get("_files")
        while files:
            os.close(files.popitem()[1])

    def _locked(self) -> threading.Lock:
        if self._owner != os.getpid():  # forked: another thread may have held the lock back there
            self._lock, self._owner = threading.Lock(), os.getpid()
        return self._lock

    def _file(self, shard_id: int) -> int:
        if shard_id in self._files:
            self._files.move_to_end(shard_id)
            return self._files[shard_id]
        if len(self._files) >= self._max_open:
            os.close(self._files.popitem(last=False)[1])
        if self._cache is not None:
            self._close_evicted()
        self._files[shard_id] = self._open(shard_id)
        return self._files[shard_id]

    def _close_evicted(self) -> None:
        """Give back the disk space of shards that the cache has evicted."""
        for shard_id, file in list(self._files.items()):
            if os.fstat(file).st_nlink == 0:
                os.close(self._files.pop(shard_id))

    def _open(self, shard_id: int) -> int:
        path, shard = self._places[shard_id], self._shards[shard_id]
        if self._cache is not None and is_remote(path):
            return self._cache.open(path, shard.sha256, shard.size_bytes)
        try:
            file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise DataError(
                f"{path}: cannot open shard ({error.strerror}); copy it again or pack again"
            ) from error
        size_bytes = os.fstat(file).st_size
        if self._verify and size_bytes != shard.size_bytes:
            os.close(file)
            raise DataError(
                f"{path}: shard has {size_bytes} bytes, the manifest says {shard.size_bytes}; "
                "copy it again or pack again"
            )
        return file


def _cache_for(places: Iterable[str]) -> ShardCache | None:
    if not any(map(is_remote, places)):
        return None
    from dataio.shards.shard_cache import node_cache  # here, not above: it needs flock

    return node_cache()


def is_member_header(header: bytes, member: Member) -> bool:
    """Whether 512 bytes are the tar header of a member of that suffix and size."""
    if header[257:262] != b"ustar":
        return False
    if member.suffix == VIEWS_TAR:
        return True
    name = header[:100].rstrip(b"\0").decode("ascii", "replace").lower()
    size = header[124:136].strip(b"\0 ")
    # A name that fills the field is the beginning of a longer one, told in a block before.
    named = len(name) == 100 or name.endswith("." + member.suffix)
    return named and size.isdigit() and int(size, 8) == member.size


def member_content(block: bytes, member: Member) -> bytes:
    """The data of `member` from a block of header and data; a stretch of a tar keeps its header."""
    return block if member.suffix == VIEWS_TAR else block[HEADER_BYTES:]


def content_member(manifest: Manifest, row: int) -> Member:
    """The member that holds the pixels of a row: its image or its views."""
    for member in manifest.members[row]:
        if member.suffix in CONTENT_SUFFIXES:
            return member
    raise DataError(
        f"{shown(manifest.root)}: sample {manifest.keys[row]!r} has none of "
        f"{', '.join(CONTENT_SUFFIXES)}; pack again"
    )


def read_sample(manifest: Manifest, row: int, *, reader: ShardReader) -> dict[str, bytes]:
    """All members of one sample as {suffix: bytes}; DataError names shard, sample and remedy."""
    shard_id = int(manifest.shard_ids[row])
    try:
        return {m.suffix: reader.read(shard_id, m) for m in manifest.members[row]}
    except DataError as error:
        raise DataError(f"sample {manifest.keys[row]!r}: {error}") from error


def verify_shard(manifest: Manifest, shard_id: int) -> None:
    """Hash a whole shard, a remote one as it is at its URL, and compare with the manifest;
    DataError if it differs."""
    shard = manifest.shards[shard_id]
    place = join(manifest.root, shard.name)
    digest = hashlib.sha256()
    for block in _blocks(place, shard.size_bytes):
        digest.update(block)
    if digest.hexdigest() != shard.sha256:
        raise DataError(
            f"{shown(place)}: SHA-256 differs from the manifest's, the shard has changed since "
            "packing; copy it again or pack again"
        )


def _blocks(place: str, size_bytes: int) -> Iterator[bytes]:
    if is_remote(place):
        yield from read_blocks(place, size_bytes)
        return
    try:
        with open(place, "rb") as file:
            while block := file.read(_READ_BYTES):
                yield block
    except OSError as error:
        raise DataError(
            f"{place}: cannot read shard ({error.strerror}); copy it again or pack again"
        ) from error


def verify_content(manifest: Manifest, row: int, *, reader: ShardReader) -> None:
    """Hash one sample's pixel member and compare with the manifest; DataError if it differs."""
    member = content_member(manifest, row)
    shard_id = int(manifest.shard_ids[row])
    try:
        content = reader.read(shard_id, member)
    except DataError as error:
        raise DataError(f"sample {manifest.keys[row]!r}: {error}") from error
    if hashlib.sha256(content).hexdigest() != manifest.content_sha256[row]:
        raise DataError(
            f"{reader.path(shard_id)}: sample {manifest.keys[row]!r} has other content than when "
            "it was packed; copy the shard again or pack again"
        )


def as_webdataset(root: str | Path, stream: str, split: str, *, shuffle_shards: int = 0) -> Any:
    """A plain `webdataset.WebDataset` over the shards of one stream and split.

    Samples are ordinary undecoded webdataset dictionaries (`__key__`, `jpg`, `cls`, `json`, ...),
    so `.decode()`, `.to_tuple()` and the like apply. Shards are split over ranks and loader workers
    the way webdataset does it, not by this package's plan. `shuffle_shards` is the size of the
    shard shuffle buffer, 0 = in order.

    Shards at a URL are fetched into this machine's cache first; DataError if it cannot hold them.
    """
    # Imported here: it is heavy, and no reader by offset needs it.
    from webdataset.compat import WebDataset
    from webdataset.shardlists import split_by_node

    manifest = load_manifest(root)
    used = np.unique(manifest.shard_ids[manifest.select(stream, split)])
    return WebDataset(
        _local_paths(manifest.root, [manifest.shards[i] for i in used]),
        shardshuffle=shuffle_shards or False,
        nodesplitter=split_by_node,
        empty_check=False,  # more ranks than shards leave some without
    )


def _local_paths(root: str, shards: list[Shard]) -> list[str]:
    """Absolute paths of the shards' files. webdataset itself would give a URL to a shell."""
    places = [join(root, shard.name) for shard in shards]
    cache = _cache_for(places)
    if cache is None:
        return [str(Path(place).absolute()) for place in places]
    needed_bytes = sum(shard.size_bytes for shard in shards)
    if needed_bytes > cache.limit_bytes:
        raise DataError(
            f"{shown(root)}: needs {needed_bytes} bytes at once, the cache {cache.folder} is "
            f"limited to {cache.limit_bytes}; raise IMG2SHAPE_CACHE_GB or use Loader"
        )
    return [
        str(cache.fetch(place, shard.sha256, shard.size_bytes).absolute())
        if is_remote(place)
        else str(Path(place).absolute())
        for place, shard in zip(places, shards, strict=True)
    ]

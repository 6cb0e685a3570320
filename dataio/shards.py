"""Reading samples out of the shards: by byte range, or through plain webdataset."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from dataio.manifest import Manifest, Member, Shard, load_manifest
from dataio.records import DataError

__all__ = [
    "CONTENT_SUFFIXES",
    "ShardReader",
    "as_webdataset",
    "content_member",
    "read_sample",
    "verify_content",
    "verify_shard",
]

CONTENT_SUFFIXES = ("jpg", "png", "views.jpg", "views.npy")

_BLOCK = 512  # a tar header, right before each member's data
_READ_BYTES = 1 << 20


class ShardReader:
    """Reads byte ranges of a data set's shards with `pread` on cached file descriptors.

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
    ) -> None:
        """`verify` compares a shard's size with the manifest's when it is opened."""
        self._root, self._shards = str(root), shards
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
            block = os.pread(self._file(shard_id), _BLOCK + member.size, member.offset - _BLOCK)
        if len(block) != _BLOCK + member.size:
            raise DataError(
                f"{name}: ends before byte {member.offset + member.size}, inside a sample; "
                "copy the shard again or pack again"
            )
        if not _is_header(block[:_BLOCK], member):
            raise DataError(
                f"{name}: no .{member.suffix} of {member.size} bytes at byte {member.offset}, the "
                "shard has changed since packing; copy it again or pack again"
            )
        return block[_BLOCK:]

    def path(self, shard_id: int) -> str:
        """The path of a shard."""
        return os.path.join(self._root, self._shards[shard_id].name)

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
        self._files[shard_id] = self._open(shard_id)
        return self._files[shard_id]

    def _open(self, shard_id: int) -> int:
        path, shard = self.path(shard_id), self._shards[shard_id]
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


def _is_header(header: bytes, member: Member) -> bool:
    if header[257:262] != b"ustar":
        return False
    name = header[:100].rstrip(b"\0").decode("ascii", "replace")
    size = header[124:136].strip(b"\0 ")
    return size.isdigit() and int(size, 8) == member.size and name.endswith("." + member.suffix)


def content_member(manifest: Manifest, row: int) -> Member:
    """The member that holds the pixels of a row: its image or its views."""
    for member in manifest.members[row]:
        if member.suffix in CONTENT_SUFFIXES:
            return member
    raise DataError(
        f"{manifest.root}: sample {manifest.keys[row]!r} has none of "
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
    """Hash a whole shard and compare with the manifest; DataError if it differs."""
    shard = manifest.shards[shard_id]
    path = Path(manifest.root) / shard.name
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise DataError(
            f"{path}: cannot read shard ({error.strerror}); copy it again or pack again"
        ) from error
    if digest.hexdigest() != shard.sha256:
        raise DataError(
            f"{path}: SHA-256 differs from the manifest's, the shard has changed since packing; "
            "copy it again or pack again"
        )


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
    """
    # Imported here: it is heavy, and no reader by offset needs it.
    from webdataset.compat import WebDataset
    from webdataset.shardlists import split_by_node

    manifest = load_manifest(root)
    used = np.unique(manifest.shard_ids[manifest.select(stream, split)])
    paths = [str(Path(root).absolute() / manifest.shards[i].name) for i in used]
    return WebDataset(
        paths,
        shardshuffle=shuffle_shards or False,
        nodesplitter=split_by_node,
        empty_check=False,  # more ranks than shards leave some without
    )

"""Encoded samples to tar shards, through webdataset's writer, with every byte's place known."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from webdataset.writer import TarWriter

from dataio.encode import Encoded
from dataio.manifest import Manifest, Member, Shard
from dataio.records import DataError, Record

__all__ = ["SetWriter"]

_BLOCK = 512  # tar's unit


class _HashingFile(io.RawIOBase):
    """A binary file that hashes and counts what is written."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by finish()
        self._digest, self.size_bytes = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._digest.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)

    def finish(self) -> str:
        """Flush to disk, close, and return the SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()


class _ShardWriter:
    """One tar in the making; knows where each member's bytes lie."""

    def __init__(self, path: Path) -> None:
        self.samples, self.offset = 0, 0
        self._file = _HashingFile(path)
        stream: Any = self._file  # any object with write() will do
        self._tar = TarWriter(
            stream, encoder=False, compress=False, mtime=0, user="img2shape", group="img2shape"
        )

    def add(self, key: str, files: dict[str, bytes]) -> tuple[Member, ...]:
        self._tar.write({"__key__": key, **files})
        tar: Any = self._tar.tarstream
        tar.members.clear()  # tarfile would keep every header it ever wrote
        members = []
        for suffix in sorted(files):  # the writer's own order
            members.append(Member(suffix, self.offset + _BLOCK, len(files[suffix])))
            self.offset += _stored_bytes(files[suffix])
        assert tar.offset == self.offset, "tar member with an unexpected header"
        self.samples += 1
        return tuple(members)

    def close(self, name: str) -> Shard:
        self._tar.close()
        return Shard(name, self._file.finish(), self._file.size_bytes, self.samples)


def _stored_bytes(data: bytes) -> int:
    return _BLOCK + -(-len(data) // _BLOCK) * _BLOCK


class _Row(NamedTuple):
    record: Record
    class_id: int
    shard_id: int
    members: tuple[Member, ...]
    content_sha256: str
    views: int


class SetWriter:
    """Cuts samples into shards `<stream>-<split>-<%06d>.tar` and keeps the manifest's rows.

    Samples of one stream and split come together, followed by `finish_group`.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], *, shard_size_bytes: int) -> None:
        """Shards go to `folder`; one is closed before it grows beyond `shard_size_bytes`."""
        self._folder, self._classes, self._limit = folder, classes, shard_size_bytes
        self._class_ids = {name: i for i, name in enumerate(classes)}
        self._rows: list[_Row] = []
        self._shards: list[Shard] = []
        self._number = 0  # of the open shard within its stream and split
        self._open: _ShardWriter | None = None

    @property
    def samples(self) -> int:
        """Samples written so far."""
        return len(self._rows)

    def add(self, record: Record, encoded: Encoded) -> None:
        """Write one sample; DataError if its `extra` cannot be written as JSON."""
        class_id = -1 if record.label is None else self._class_ids[record.label]
        digest = hashlib.sha256(encoded.content).hexdigest()
        files = {encoded.suffix: encoded.content, "json": _json(record, encoded, digest)}
        if class_id >= 0:
            files["cls"] = str(class_id).encode()
        stored_bytes = sum(map(_stored_bytes, files.values()))
        if self._open is not None and self._open.offset + stored_bytes > self._limit:
            self._finish_shard(record.stream, record.split)
        if self._open is None:
            name = _shard_name(record.stream, record.split, self._number)
            self._open = _ShardWriter(self._folder / name)
        members = self._open.add(record.key, files)
        shard_id = len(self._shards)
        self._rows.append(_Row(record, class_id, shard_id, members, digest, encoded.views))

    def finish_group(self, stream: str, split: str) -> None:
        """Close the last shard of a stream and split."""
        self._finish_shard(stream, split)
        self._number = 0

    def discard(self) -> None:
        """Close the open shard, if any, after a failure; its file is of no use."""
        if self._open is not None:
            with contextlib.suppress(OSError):  # the disk may be full still
                self._open.close("discarded")
            self._open = None

    def _finish_shard(self, stream: str, split: str) -> None:
        assert self._open is not None
        self._shards.append(self._open.close(_shard_name(stream, split, self._number)))
        self._number += 1
        self._open = None

    def manifest(self, root: Path, *, metadata: dict[str, Any]) -> Manifest:
        """The manifest of all samples written, for a data set that will lie at `root`."""
        rows = self._rows
        labels = np.empty(len(rows), dtype=object)
        labels[:] = [row.record.label for row in rows]
        return Manifest(
            root=str(root),
            keys=[row.record.key for row in rows],
            streams=np.array([row.record.stream for row in rows], dtype=np.str_),
            splits=np.array([row.record.split for row in rows], dtype=np.str_),
            labels=labels,
            class_ids=np.array([row.class_id for row in rows], dtype=np.int64),
            shard_ids=np.array([row.shard_id for row in rows], dtype=np.int64),
            members=[row.members for row in rows],
            content_sha256=[row.content_sha256 for row in rows],
            views=np.array([row.views for row in rows], dtype=np.int64),
            shards=tuple(self._shards),
            classes=self._classes,
            metadata=metadata,
        )


def _shard_name(stream: str, split: str, number: int) -> str:
    return f"{stream}-{split}-{number:06d}.tar"


def _json(record: Record, encoded: Encoded, digest: str) -> bytes:
    content = {
        "key": record.key,
        "label": record.label,
        "stream": record.stream,
        "split": record.split,
        "source_path": record.source_path,
        "content_sha256": digest,
        "views": encoded.views,
        "extra": dict(record.extra),
    }
    try:
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"record {record.key}: extra is not JSON-serialisable ({error})") from error

"""Encoded samples to tar shards, through webdataset's writer, with every byte's place known."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from webdataset.writer import TarWriter

from dataio.packing.encoding import Encoded
from dataio.packing.journal import NotedRow, ShardNote, Skipped, Staging, identity
from dataio.records import DataError, Record
from dataio.shards import Manifest, Member, Shard

_BLOCK = 512  # tar's unit
_READ_BYTES = 1 << 20

logger = logging.getLogger(__name__)


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
    noted: NotedRow


class SetWriter:
    """Cuts samples into shards `<stream>-<split>-<%06d>.tar` and keeps the manifest's rows.

    Records of one stream and split come together. Each is either added or skipped, with its
    `identity` from before its files were read; a finished shard is noted in the staging folder.
    """

    def __init__(
        self, staging: Staging, classes: tuple[str, ...], *, shard_size_bytes: int
    ) -> None:
        """A shard is closed before it grows beyond `shard_size_bytes`."""
        self._staging, self._classes, self._limit = staging, classes, shard_size_bytes
        self._class_ids = {name: i for i, name in enumerate(classes)}
        self._rows: list[_Row] = []
        self._shards: list[Shard] = []
        self.skipped: list[Skipped] = []
        self._group = ("", "")  # stream and split at work
        self._open: _ShardWriter | None = None

    def take_over(self, records: Sequence[Record], *, skips: bool) -> int:
        """Take over what an earlier call has finished of one stream and split.

        Stops at the first shard that is missing, damaged, made of files that have changed since,
        or, unless `skips`, made with records left out.

        Args:
            records: all of the stream and split, in order.

        Returns:
            How many of the records are done.
        """
        self._enter(records[0])
        while self._stop < len(records):
            note = self._staging.note(self._shard_name())
            if note is None or (note.skipped and not skips):
                break
            if not self._is_valid(note, records):
                break
            by_key = {record.key: record for record in records[self._stop : note.stop]}
            for key, row in note.rows.items():
                self._rows.append(self._row(by_key[key], row))
            self.skipped += note.skipped
            self._stop = note.stop
            self._start_next_shard(note.shard)
        return self._stop

    def add(self, record: Record, encoded: Encoded, source: bytes) -> None:
        """Write one sample; DataError if its `extra` cannot be written as JSON."""
        self._enter(record)
        digest = hashlib.sha256(encoded.content).hexdigest()
        files = {encoded.suffix: encoded.content, "json": _json(record, encoded, digest)}
        if record.label is not None:
            files["cls"] = str(self._class_ids[record.label]).encode()
        stored_bytes = sum(map(_stored_bytes, files.values()))
        if self._open is not None and self._open.offset + stored_bytes > self._limit:
            self._finish_shard(next_source=source)
        if self._open is None:
            self._open = _ShardWriter(self._staging.folder / self._shard_name())
        members = self._open.add(record.key, files)
        self._rows.append(self._row(record, NotedRow(members, digest, encoded.views)))
        self._count(source)

    def skip(self, record: Record, reason: str, source: bytes) -> None:
        """Leave a record out."""
        self._enter(record)
        self.skipped.append(Skipped(record.key, record.source_path, reason))
        self._count(source)

    def finish(self) -> None:
        """Close the last shard of the stream and split at work."""
        if self._open is not None:
            self._finish_shard(next_source=None)

    def discard(self) -> None:
        """Remove the shard at work, if any, after a failure."""
        if self._open is not None:
            with contextlib.suppress(OSError):  # the disk may be full still
                self._open.close("discarded")
            (self._staging.folder / self._shard_name()).unlink(missing_ok=True)
            self._open = None

    def _enter(self, record: Record) -> None:
        """Begin the stream and split of `record` unless they are at work."""
        if (record.stream, record.split) != self._group:
            self.finish()
            self._group = (record.stream, record.split)
            self._number, self._stop = 0, 0  # shards finished and records used up
            self._start_next_shard()

    def _start_next_shard(self, finished: Shard | None = None) -> None:
        if finished is not None:
            self._shards.append(finished)
            self._number += 1
        self._sources = hashlib.sha256()
        self._first_row, self._first_skip = len(self._rows), len(self.skipped)

    def _count(self, source: bytes) -> None:
        self._sources.update(source + b"\n")
        self._stop += 1

    def _finish_shard(self, *, next_source: bytes | None) -> None:
        """`next_source`: identity of the record that did not fit; None at the group's end."""
        assert self._open is not None
        shard, self._open = self._open.close(self._shard_name()), None
        self._sources.update(b"end" if next_source is None else next_source)
        rows = {row.record.key: row.noted for row in self._rows[self._first_row :]}
        skipped = tuple(self.skipped[self._first_skip :])
        self._staging.write_note(
            ShardNote(shard, self._stop, self._sources.hexdigest(), rows, skipped)
        )
        self._start_next_shard(shard)

    def _is_valid(self, note: ShardNote, records: Sequence[Record]) -> bool:
        """Whether a noted shard is what would be written now; says so if not."""
        name = note.shard.name
        sources = hashlib.sha256()
        for record in records[self._stop : note.stop]:
            sources.update(identity(record) + b"\n")
        sources.update(identity(records[note.stop]) if note.stop < len(records) else b"end")
        if sources.hexdigest() != note.sources_sha256:
            logger.warning("%s: its source files have changed; packing again from there", name)
            return False
        if not _is_intact(self._staging.held(name), note.shard):
            logger.warning("%s: damaged since it was finished; packing again from there", name)
            return False
        return True

    def _row(self, record: Record, noted: NotedRow) -> _Row:
        class_id = -1 if record.label is None else self._class_ids[record.label]
        return _Row(record, class_id, len(self._shards), noted)

    def _shard_name(self) -> str:
        stream, split = self._group
        return f"{stream}-{split}-{self._number:06d}.tar"

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
            members=[row.noted.members for row in rows],
            content_sha256=[row.noted.content_sha256 for row in rows],
            views=np.array([row.noted.views for row in rows], dtype=np.int64),
            shards=tuple(self._shards),
            classes=self._classes,
            metadata=metadata,
            origins=[row.record.source_path for row in rows],
            instances=[row.record.instance for row in rows],
        )


def _is_intact(path: Path, shard: Shard) -> bool:
    try:
        if path.stat().st_size != shard.size_bytes:
            return False
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while part := file.read(_READ_BYTES):
                digest.update(part)
    except FileNotFoundError:
        return False
    return digest.hexdigest() == shard.sha256


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

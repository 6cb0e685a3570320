"""One shard checked in a single pass over its bytes: its hash, and every sample that lies in it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dataio.records import DataError
from dataio.shards import (
    CONTENT_SUFFIXES,
    HEADER_BYTES,
    Manifest,
    Member,
    NotFound,
    Shard,
    decode_image,
    decode_views,
    is_member_header,
    is_remote,
    join,
    member_content,
    read_blocks,
)

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """What the manifest says of one sample."""

    key: str
    label: str | None
    class_id: int | None  # None: the numbers in the tars may differ from the manifest's
    members: tuple[Member, ...]
    content_sha256: str
    views: int


@dataclass(frozen=True)
class ShardTask:
    """A shard and what should be in it."""

    root: str
    shard: Shard
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class ShardReport:
    """What was found: size and hash (None for a missing file), why the file is not the one that was
    packed (None: it is), and the bad samples as (key, reason)."""

    name: str
    size_bytes: int | None
    sha256: str | None
    reason: str | None
    bad: tuple[tuple[str, str], ...]


def shard_tasks(manifest: Manifest) -> list[ShardTask]:
    """A task for every shard that has samples, in the manifest's order."""
    tasks = []
    # Adding tars of another data set renumbers the classes.
    numbered = "indexed" not in manifest.metadata
    for shard_id, shard in enumerate(manifest.shards):
        rows = np.flatnonzero(manifest.shard_ids == shard_id).tolist()
        labels = manifest.labels[rows].tolist()
        samples = tuple(
            Sample(
                manifest.keys[row],
                label,
                int(manifest.class_ids[row]) if numbered else None,
                manifest.members[row],
                manifest.content_sha256[row],
                int(manifest.views[row]),
            )
            for row, label in zip(rows, labels, strict=True)
        )
        if samples:
            tasks.append(ShardTask(manifest.root, shard, samples))
    return tasks


def check_shard(task: ShardTask) -> ShardReport:
    """Read a shard from its first byte to its last, and decode each of its samples.

    Raises DataError for a file that may not be read: that says nothing of what is in it.
    """
    shard, place = task.shard, join(task.root, task.shard.name)
    try:
        # One byte more than there should be, so that a longer file is noticed.
        blocks = read_blocks(place, shard.size_bytes + 1) if is_remote(place) else _blocks(place)
        stream = _Hashed(blocks)
        bad = _bad_samples(stream, task.samples)
        stream.read_to_end()
    except PermissionError as error:
        raise DataError(f"{place}: may not be read; change its permissions") from error
    except (OSError, DataError) as error:
        missing = isinstance(error, FileNotFoundError | NotFound)
        reason = "missing" if missing else getattr(error, "strerror", None) or str(error)
        bad = tuple((s.key, f"its shard cannot be read: {reason}") for s in task.samples)
        return ShardReport(shard.name, None, None, reason, bad)
    sha256, reason = stream.digest.hexdigest(), None
    if stream.position != shard.size_bytes:
        reason = f"{stream.position} bytes, not {shard.size_bytes}"
    elif sha256 != shard.sha256:
        reason = "its SHA-256 is another"
    return ShardReport(shard.name, stream.position, sha256, reason, bad)


def _blocks(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            yield block


class _Hashed:
    """Blocks of bytes read as a file, forwards; `digest` is of all blocks taken so far."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._ahead = blocks, bytearray()
        self.position, self.digest = 0, hashlib.sha256()

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        while len(self._ahead) < size and (block := next(self._blocks, b"")):
            self.digest.update(block)
            self._ahead += block
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        self.position += len(data)
        return data

    def skip_to(self, offset: int) -> None:
        while self.position < offset and self.read(min(_READ_BYTES, offset - self.position)):
            pass

    def read_to_end(self) -> None:
        while self.read(_READ_BYTES):
            pass


def _bad_samples(stream: _Hashed, samples: tuple[Sample, ...]) -> tuple[tuple[str, str], ...]:
    """Check each sample when the last of its members has been read."""
    places = sorted(
        ((member, i) for i, sample in enumerate(samples) for member in sample.members),
        key=lambda place: place[0].offset,
    )
    left = Counter(i for _, i in places)
    files: dict[int, dict[str, bytes]] = {}
    reasons: dict[int, str] = {}
    for member, i in places:
        stream.skip_to(member.offset - HEADER_BYTES)
        block = stream.read(HEADER_BYTES + member.size)
        if len(block) < HEADER_BYTES + member.size:
            reasons.setdefault(i, "its shard ends before it does")
        elif not is_member_header(block[:HEADER_BYTES], member):
            reasons.setdefault(i, f"no .{member.suffix} of {member.size} bytes at its place")
        else:
            files.setdefault(i, {})[member.suffix] = member_content(block, member)
        left[i] -= 1
        if left[i] == 0:
            reason = reasons.get(i) or _problem(samples[i], files[i])
            if reason is not None:
                reasons[i] = reason
            files.pop(i, None)
    return tuple((samples[i].key, reasons[i]) for i in sorted(reasons))


def _problem(sample: Sample, files: dict[str, bytes]) -> str | None:
    """What is wrong with a sample whose members are all at their places."""
    content = next(files[suffix] for suffix in CONTENT_SUFFIXES if suffix in files)
    if hashlib.sha256(content).hexdigest() != sample.content_sha256:
        return "other content than when it was packed"
    try:
        if sample.views:
            decode_views(content, key=sample.key, views=sample.views)
        else:
            decode_image(content, key=sample.key)
    except DataError as error:
        return str(error).removeprefix(f"{sample.key}: ")
    return _class_problem(sample, files) or _description_problem(sample, files)


def _class_problem(sample: Sample, files: dict[str, bytes]) -> str | None:
    if "cls" not in files or sample.class_id is None:
        return None
    if files["cls"].strip() == str(sample.class_id).encode():
        return None
    said = files["cls"][:20].decode("utf-8", "replace")
    return f".cls says class {said!r}, the manifest says {sample.class_id}"


def _description_problem(sample: Sample, files: dict[str, bytes]) -> str | None:
    if "json" not in files:
        return None
    try:
        about = json.loads(files["json"])
    except ValueError:
        return ".json cannot be parsed"
    for name, known in (("key", sample.key), ("label", sample.label)):
        said = about.get(name, known) if isinstance(about, dict) else None
        if said != known:
            return f".json says {name} {said!r}, the manifest says {known!r}"
    return None

"""Whether a packed data set is fit for training: every byte hashed, every sample decoded, and the
same content looked for on both sides of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from dataio.checking.shard_check import ShardReport, check_shard, shard_tasks
from dataio.parallel import OrderedMap
from dataio.records import SPLITS, STREAMS, DataError
from dataio.shards import (
    CONTENT_SUFFIXES,
    Manifest,
    Quarantine,
    QuarantinedSample,
    RepairedShard,
    load_manifest,
    read_quarantine,
    without_quarantined,
    write_quarantine,
)


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be trained on, or that contradicts the manifest."""

    key: str
    stream: str
    split: str
    shard: str
    reason: str


@dataclass(frozen=True)
class SameContent:
    """Samples of one stream with the same bytes: rows of the manifest, and what they differ in."""

    stream: str
    rows: tuple[int, ...]
    splits: tuple[str, ...]  # distinct; several: the same sample is trained on and tested on
    labels: tuple[str, ...]  # distinct, without unlabelled ones; several: a conflict


@dataclass(frozen=True)
class Soundness:
    """What `check` found in a data set, its quarantined samples left out."""

    manifest: Manifest
    quarantine: Quarantine
    shards: tuple[ShardReport, ...]
    bad_samples: tuple[BadSample, ...]
    repeats: tuple[SameContent, ...]

    @property
    def bad_shards(self) -> tuple[ShardReport, ...]:
        """Shards that are missing or are not the files that were packed (or last repaired)."""
        return tuple(shard for shard in self.shards if shard.reason is not None)

    @property
    def leaks(self) -> tuple[SameContent, ...]:
        """Content that lies in more than one split of its stream."""
        return tuple(same for same in self.repeats if len(same.splits) > 1)

    @property
    def conflicts(self) -> tuple[SameContent, ...]:
        """Content with more than one label."""
        return tuple(same for same in self.repeats if len(same.labels) > 1)

    @property
    def lost(self) -> tuple[str, ...]:
        """`stream/split` of which no sample is good."""
        kinds = zip(self.manifest.streams.tolist(), self.manifest.splits.tolist(), strict=True)
        bad = Counter((sample.stream, sample.split) for sample in self.bad_samples)
        return tuple(f"{s}/{p}" for (s, p), n in sorted(Counter(kinds).items()) if bad[s, p] == n)

    @property
    def sound(self) -> bool:
        """No bad sample, no bad shard, no leak."""
        return not (self.bad_samples or self.bad_shards or self.leaks)


def check(
    root: str, *, run: OrderedMap, progress: Callable[[int, int], None] | None = None
) -> Soundness:
    """Read all of a packed data set; samples in quarantine are left out.

    Each shard is read once, from first byte to last, as one item of `run`.

    Args:
        root: folder of the data set.
        run: how shards are spread over threads or processes; the result does not depend on it.
        progress: called with (samples checked, samples in all).

    Raises:
        DataError: the manifest is missing, damaged or contradicts itself, the quarantine is not of
            this data, or not one sample is good.
    """
    quarantine = read_quarantine(root)
    manifest = without_quarantined(load_manifest(root, quarantined=False), quarantine)
    _check_consistent(manifest)
    reports, done = [], 0
    tasks = shard_tasks(manifest)
    for task, report in zip(tasks, run(check_shard, tasks), strict=True):
        reports.append(report)
        done += len(task.samples)
        if progress is not None:
            progress(done, len(manifest))
    bad = _bad_samples(manifest, reports)
    if len(bad) == len(manifest):
        why = f" (the first, {bad[0].key!r}: {bad[0].reason})" if bad else ""
        raise DataError(f"{root}: no good sample{why}; copy the data set again or pack again")
    return Soundness(manifest, quarantine, tuple(reports), bad, _repeats(manifest))


def repair(found: Soundness) -> Quarantine:
    """Write the bad samples into `quarantine.json`, beside those that are there already.

    A shard that is not the file that was packed is accepted as it is now: what is left of it was
    compared with the manifest, sample by sample. Leaks are left alone, for a person to decide.
    """
    root, before = found.manifest.root, found.quarantine
    content = dict(zip(found.manifest.keys, found.manifest.content_sha256, strict=True))
    samples = [QuarantinedSample(b.key, content[b.key], b.reason) for b in found.bad_samples]
    packed = {shard.name: shard for shard in load_manifest(root, quarantined=False).shards}
    shards = [
        RepairedShard(shard.name, shard.size_bytes, shard.sha256)
        for shard in found.shards
        if shard.size_bytes is not None
        and shard.sha256 is not None
        and shard.sha256 != packed[shard.name].sha256
    ]
    quarantine = Quarantine((*before.samples, *samples), tuple(shards))
    if quarantine != before:
        write_quarantine(root, quarantine)
    return quarantine


def _bad_samples(manifest: Manifest, reports: list[ShardReport]) -> tuple[BadSample, ...]:
    row_of = {key: row for row, key in enumerate(manifest.keys)}
    return tuple(
        BadSample(
            key, str(manifest.streams[row_of[key]]), str(manifest.splits[row_of[key]]),
            report.name, reason,
        )
        for report in reports
        for key, reason in report.bad
    )  # fmt: skip


def _repeats(manifest: Manifest) -> tuple[SameContent, ...]:
    """Every content that several samples of a stream share, in the manifest's order."""
    rows_of: dict[tuple[str, str], list[int]] = {}
    for row, stream in enumerate(manifest.streams.tolist()):
        rows_of.setdefault((stream, manifest.content_sha256[row]), []).append(row)
    return tuple(
        SameContent(
            stream,
            tuple(rows),
            tuple(split for split in SPLITS if split in manifest.splits[rows]),
            tuple(sorted({label for label in manifest.labels[rows] if label is not None})),
        )
        for (stream, _), rows in rows_of.items()
        if len(rows) > 1
    )


def _check_consistent(manifest: Manifest) -> None:
    """Raise DataError where the manifest contradicts itself."""
    problem = next(_contradictions(manifest), None)
    if problem is not None:
        raise DataError(f"{manifest.root}: damaged manifest, {problem}; pack again")


def _contradictions(manifest: Manifest) -> Iterator[str]:
    key, uses = Counter(manifest.keys).most_common(1)[0] if manifest.keys else ("", 0)
    if uses > 1:
        yield f"key {key!r} is there {uses} times"
    held = Counter(manifest.shard_ids.tolist())
    if not set(held) <= set(range(len(manifest.shards))):
        yield "a sample lies in a shard that is not listed"
    ranges: dict[int, list[tuple[int, int]]] = {}
    for row in range(len(manifest)):
        for problem in _row_contradictions(manifest, row):
            yield f"sample {manifest.keys[row]!r} {problem}"
        places = ranges.setdefault(int(manifest.shard_ids[row]), [])
        places += ((m.offset, m.offset + m.size) for m in manifest.members[row])
    for shard_id, shard in enumerate(manifest.shards):
        if held[shard_id] != shard.samples:
            yield f"{shard.name} has {held[shard_id]} rows, not {shard.samples}"
        if any(start < end for (_, end), (start, _) in pairwise(sorted(ranges.get(shard_id, ())))):
            yield f"members of {shard.name} overlap"


def _row_contradictions(manifest: Manifest, row: int) -> Iterator[str]:
    stream, split, views = manifest.streams[row], manifest.splits[row], int(manifest.views[row])
    if stream not in STREAMS or split not in SPLITS:
        yield f"is of {stream}/{split}"
    if (stream == "shape") != (views > 0):
        yield f"is of {stream} and has {views} views"
    label, class_id = manifest.labels[row], int(manifest.class_ids[row])
    named = manifest.classes[class_id] if 0 <= class_id < len(manifest.classes) else None
    if label != named:
        yield f"has label {label!r} but the number of {named!r}"
    contents = sum(member.suffix in CONTENT_SUFFIXES for member in manifest.members[row])
    if contents != 1:
        yield f"has {contents} members with pixels, not one"

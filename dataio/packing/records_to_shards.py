"""Records to WebDataset shards and a manifest. The same input gives the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from errno import EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataio.atomic import write_whole
from dataio.findings import Finding, Findings
from dataio.packing.encoding import TILE_MULTIPLE, Encoded, Render, Views, encode
from dataio.packing.journal import Skipped, Staging, identity
from dataio.packing.shard_writer import SetWriter
from dataio.parallel import OrderedMap, in_threads
from dataio.records import SPLITS, STREAMS, DataError, Record
from dataio.shards import MANIFEST_NAME, Manifest, load_manifest, write_manifest

SKIPPED_NAME = "skipped.jsonl"
_INPUTS_NAME = ".inputs"  # hash of the finished pack's inputs; not part of the data set

_MAX_KEY = 90  # key.views.jpg must fit the 100 characters of a tar header
_SHARD_NAME = re.compile(rf"({'|'.join(STREAMS)})-({'|'.join(SPLITS)})-\d{{6}}\.tar")
_WHOLE_NAMES = "|".join(map(re.escape, (MANIFEST_NAME, SKIPPED_NAME, _INPUTS_NAME)))
_HALF_WRITTEN = re.compile(rf"\.({_WHOLE_NAMES})\.\d+\.tmp")
# Errors whose cause is the file itself; others come from the disk, the network or the machine.
_FILE_ERRORS = (None, ENOENT, ENOTDIR, EISDIR, ELOOP, ENAMETOOLONG)

logger = logging.getLogger(__name__)

Groups = dict[tuple[str, str], list[Record]]


def pack(
    records: Iterable[Record],
    out: Path,
    *,
    dataset: str,
    image_size: int | None = None,
    shard_size_bytes: int = 256 << 20,
    views: Views = "stack",
    seed: int = 0,
    render: Render | None = None,
    run: OrderedMap | None = None,
    findings: Findings | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write `records` as WebDataset shards `<stream>-<split>-<%06d>.tar` plus manifest in `out`.

    The samples of a stream and split are shuffled once, by a seeded hash of their keys, so every
    shard is a fair sample and the records' order does not matter. Members: `key.jpg|png` (the
    file's own bytes; other formats become PNG), `key.views.jpg` (views stacked vertically, square
    tiles) or `key.views.npy` (uint8 [V, H, W, C]), `key.cls` (decimal class id, left out if
    unlabelled) and `key.json`. Views without colour are stored with one channel. Memory holds the
    records and a few encoded samples.

    Nothing is visible in `out` until all shards are complete; the manifest comes last. Finished
    shards wait in `out/.packing`: after an error, an interruption or a kill the same call goes on
    with the first sample after them and gives the same bytes as one that was never interrupted.
    Shards whose options or files have changed meanwhile are made again. An equal data set already
    in `out` is left as it is; unless a file's time has changed, nothing is read to see that.

    Args:
        records: what to pack; needs unique keys.
        out: folder of the data set, created if absent.
        dataset: name, kept in the manifest.
        image_size: pixels; images larger than that are shrunk to this shorter side, proportions
            kept; views get tiles of exactly this side (a multiple of 16 for "stack"). None =
            images untouched, tiles of the views' own side rounded up to a multiple of 16.
        shard_size_bytes: a shard is closed before it grows beyond this.
        views: "stack" (one JPEG, quality 92) or "npy" (lossless).
        seed: of the shuffle.
        render: record with a mesh -> views uint8 [V, H, W] or [V, H, W, C]; `metadata` has to say
            all that its pixels depend on.
        run: encodes, by default in threads of this process; the result does not depend on it.
        findings: with `lenient`, a record with a broken or missing file is left out and listed in
            it and, with what it lists already, in `out/skipped.jsonl`. Its warnings and
            metadata are kept in the manifest.
        metadata: more for the manifest's, JSON-serialisable.
        progress: called with (records done, records in all).

    Raises:
        DataError: no records, a key used twice, a broken or missing file (named), a mesh without
            `render`, a bad option, another data set already in `out`, or another process that is
            packing into it.
        OSError: the disk is full or `out` cannot be written.
    """
    findings = findings or Findings(dataset)
    groups, classes = _collect(records, seed=seed)
    options = {
        "image_size": image_size,
        "shard_size_bytes": shard_size_bytes,
        "views": views,
        "seed": seed,
    }
    _check_options(options, groups, render)
    about = {**_metadata(dataset, options), **(metadata or {})}
    work = _Encoder(image_size, views, render, findings.lenient)
    out.mkdir(parents=True, exist_ok=True)
    with Staging(out) as staging:
        existing = _existing(out, dataset=dataset, options=options)
        inputs = _inputs(groups, {"about": about, "lenient": findings.lenient})
        if existing is not None and _read(out / _INPUTS_NAME) == inputs:
            staging.remove()  # a kill may have left it behind
            findings.skipped += _skipped_before(out)
            return _with_names(existing, groups)
        staging.begin({"about": about, "classes": classes})
        writer = SetWriter(staging, classes, shard_size_bytes=shard_size_bytes)
        before = [Skipped(None, one.item, one.reason) for one in findings.skipped]
        try:
            _write_shards(writer, groups, work, run or in_threads(), progress)
        finally:
            writer.discard()
        skipped = [*before, *writer.skipped]
        findings.skipped += [Finding(s.source_path or str(s.key), s.reason) for s in writer.skipped]
        manifest = _described(writer, out, about, findings)
        if existing is not None:
            staging.remove()
            manifest = _with_names(_same(existing, manifest), groups)
            write_whole(out / _INPUTS_NAME, inputs.encode())
        else:
            _publish(manifest, staging, skipped, inputs)
    return manifest


def _write_shards(
    writer: SetWriter,
    groups: Groups,
    work: _Encoder,
    run: OrderedMap,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Everything into finished shards, after those that are there already."""
    rest: list[Record] = []
    for group in groups.values():
        taken = 0 if rest else writer.take_over(group, skips=work.lenient)
        rest += group[taken:]
    total = sum(map(len, groups.values()))
    done = total - len(rest)
    if done and progress is not None:
        progress(done, total)
    if not rest:
        return
    results: Any = run(work, rest)
    try:
        for record, (source, result) in zip(rest, results, strict=True):
            if isinstance(result, str):
                writer.skip(record, _without_folder(result, record), source)
            else:
                writer.add(record, result, source)
            done += 1
            if progress is not None:
                progress(done, total)
    finally:
        results.close()  # at once, not when the traceback is released
    writer.finish()


@dataclass(frozen=True)
class _Encoder:
    """Record to its identity and what is encoded, or the reason why it is left out."""

    image_size: int | None
    views: Views
    render: Render | None
    lenient: bool

    def __call__(self, record: Record) -> tuple[bytes, Encoded | str]:
        source = identity(record)  # before reading: what changes meanwhile shows next time
        try:
            encoded = encode(
                record, image_size=self.image_size, views=self.views, render=self.render
            )
        except DataError as error:
            if not self.lenient or not _is_of_the_file(error):
                raise
            return source, str(error)
        return source, encoded


def _is_of_the_file(error: BaseException) -> bool:
    """Whether a file is bad, rather than the disk or the network it is read from."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno not in _FILE_ERRORS:
            return False
        cause = cause.__cause__
    return True


def _without_folder(reason: str, record: Record) -> str:
    """The reason without the place of the record's files, which differs between machines."""
    folder = (record.views[0] if record.views else record.image or record.mesh or Path()).parent
    if not folder.name:
        return reason
    return reason.replace(f"{folder}{os.sep}", "").replace(str(folder), folder.name)


def _check_options(options: dict[str, Any], groups: Groups, render: Render | None) -> None:
    for record in (record for group in groups.values() for record in group):
        if record.mesh is not None and render is None:
            raise DataError(
                f"{record.mesh}: record {record.key} is a mesh without views; pass render="
            )
    image_size, views = options["image_size"], options["views"]
    if options["shard_size_bytes"] < 1:
        raise DataError(f"shard_size_bytes must be positive, got {options['shard_size_bytes']}")
    if views not in ("stack", "npy"):
        raise DataError(f"views must be 'stack' or 'npy', got {views!r}")
    if image_size is None:
        return
    if image_size < 1:
        raise DataError(f"image_size must be positive, got {image_size}")
    has_shapes = any(stream == "shape" for stream, _ in groups)
    if has_shapes and views == "stack" and image_size % TILE_MULTIPLE:
        raise DataError(
            f"image_size {image_size} is not a multiple of {TILE_MULTIPLE}, which views='stack' "
            f"needs; use {-(-image_size // TILE_MULTIPLE) * TILE_MULTIPLE} or views='npy'"
        )


def _metadata(dataset: str, options: dict[str, Any]) -> dict[str, Any]:
    versions = {name: version(name) for name in ("webdataset", "pillow", "simplejpeg", "numpy")}
    return {
        "creator": "img2shape",
        "dataset": dataset,
        "options": options,
        "versions": versions,
    }


def _described(writer: SetWriter, out: Path, about: dict[str, Any], findings: Findings) -> Manifest:
    """The manifest with counts of what was packed; DataError if that is nothing."""
    manifest = writer.manifest(out, metadata=about)
    if len(manifest) == 0:
        raise DataError(
            f"{about['dataset']}: none of {len(writer.skipped)} samples can be used; the first: "
            f"{writer.skipped[0].reason}"
        )
    groups = zip(manifest.streams.tolist(), manifest.splits.tolist(), manifest.labels, strict=True)
    counts: dict[str, dict[str, int]] = {}
    for (stream, split, label), number in sorted(Counter(groups).items(), key=str):
        counts.setdefault(f"{stream}/{split}", {})[label or ""] = number
    more = {"counts": counts, "skipped": len(findings.skipped), "warnings": findings.warnings}
    return dataclasses.replace(manifest, metadata={**findings.metadata, **about, **more})


def _collect(records: Iterable[Record], *, seed: int) -> tuple[Groups, tuple[str, ...]]:
    """Group records by (stream, split), each in the shuffled order, and list the class names."""
    groups: Groups = {}
    sources: dict[str, str] = {}
    for record in records:
        source = _source(record)
        if record.key in sources:
            raise DataError(
                f"key {record.key!r} is used twice: by {sources[record.key]} and by {source}; "
                "keys must be unique in a data set"
            )
        if len(record.key) > _MAX_KEY:
            raise DataError(f"key {record.key!r} ({source}) is longer than {_MAX_KEY} characters")
        sources[record.key] = source
        groups.setdefault((record.stream, record.split), []).append(record)
    if not groups:
        raise DataError("no records to pack; check the data set's root folder")
    for group in groups.values():
        group.sort(key=lambda r: (hashlib.sha256(f"{seed}/{r.key}".encode()).digest(), r.key))
    ordered = {(s, p): groups[s, p] for s in STREAMS for p in SPLITS if (s, p) in groups}
    labels = {r.label for group in groups.values() for r in group if r.label is not None}
    return ordered, tuple(sorted(labels))


def _source(record: Record) -> str:
    first = record.views[0] if record.views else record.image or record.mesh
    return record.source_path or str(first)


def _existing(out: Path, *, dataset: str, options: dict[str, Any]) -> Manifest | None:
    if not (out / MANIFEST_NAME).exists():
        return None
    existing = load_manifest(out, quarantined=False)
    held = existing.metadata.get("dataset")
    if held != dataset:
        raise DataError(f"{out}: already holds data set {held!r}; choose another folder")
    if existing.metadata.get("options") != options:
        raise _another_version(out)
    return existing


def _same(existing: Manifest, manifest: Manifest) -> Manifest:
    if existing.fingerprint != manifest.fingerprint or existing.shards != manifest.shards:
        raise _another_version(existing.root)
    return existing


def _with_names(existing: Manifest, groups: Groups) -> Manifest:
    """The data set that is there; its manifest gets the origins and the instances that older ones
    do not have."""
    of = {r.key: (r.source_path, r.instance) for group in groups.values() for r in group}
    known = [of.get(key, ("", "")) for key in existing.keys]
    found = {"origins": [one for one, _ in known], "instances": [one for _, one in known]}
    new = {n: found[n] for n in found if any(found[n]) and not any(getattr(existing, n))}
    if new:
        existing = dataclasses.replace(existing, **new)
        write_manifest(existing)
    return existing


def _inputs(groups: Groups, options: dict[str, Any]) -> str:
    """Hash of all that the shards follow from, the files by size and time."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for group in groups.values():
        for record in group:
            digest.update(identity(record) + b"\n")
    return digest.hexdigest()


def _read(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


def _skipped_before(out: Path) -> list[Finding]:
    """What an earlier pack left out itself; the adapter lists its own each time."""
    lines = (_read(out / SKIPPED_NAME) or "").splitlines()
    skipped = [Skipped(**json.loads(line)) for line in lines]
    return [Finding(s.source_path or s.key, s.reason) for s in skipped if s.key is not None]


def _another_version(out: str | Path) -> DataError:
    return DataError(
        f"{out}: already holds another version of this data set; "
        "choose another folder or delete that one"
    )


def _publish(manifest: Manifest, staging: Staging, skipped: list[Skipped], inputs: str) -> None:
    """Move the finished shards into place, then write the manifest."""
    root = Path(manifest.root)
    names = {shard.name for shard in manifest.shards}
    for path in root.iterdir():
        if _HALF_WRITTEN.fullmatch(path.name):
            path.unlink()
        # Shards without a manifest are an interrupted pack's.
        if path.name not in names and _SHARD_NAME.fullmatch(path.name):
            logger.warning("%s: left by an interrupted pack, removed", path)
            path.unlink()
    for name in sorted(names):
        os.replace(staging.held(name), root / name)  # onto itself if it was moved already
    lines = [json.dumps(dataclasses.asdict(one), sort_keys=True) for one in skipped]
    if lines:
        write_whole(root / SKIPPED_NAME, "".join(f"{line}\n" for line in lines).encode())
    else:
        (root / SKIPPED_NAME).unlink(missing_ok=True)
    write_whole(root / _INPUTS_NAME, inputs.encode())
    write_manifest(manifest)
    staging.remove()

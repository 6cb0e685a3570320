"""Records to WebDataset shards and a manifest. The same input gives the same bytes."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataio.encode import TILE_MULTIPLE, Encoded, Render, Views, encode
from dataio.manifest import MANIFEST_NAME, Manifest, load_manifest, write_manifest
from dataio.records import SPLITS, STREAMS, DataError, Record
from dataio.shard_writer import SetWriter

__all__ = ["pack"]

_MAX_KEY = 90  # key.views.jpg must fit the 100 characters of a tar header
_SHARD_NAME = re.compile(rf"({'|'.join(STREAMS)})-({'|'.join(SPLITS)})-\d{{6}}\.tar")

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
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write `records` as WebDataset shards `<stream>-<split>-<%06d>.tar` plus manifest in `out`.

    The samples of a stream and split are shuffled once, by a seeded hash of their keys, so every
    shard is a fair sample and the records' order does not matter. Members: `key.jpg|png` (the
    file's own bytes; other formats become PNG), `key.views.jpg` (views stacked vertically, square
    tiles) or `key.views.npy` (uint8 [V, H, W, C]), `key.cls` (decimal class id, left out if
    unlabelled) and `key.json`. Views without colour are stored with one channel. Memory holds the
    records and a few decoded samples.

    Nothing is visible in `out` until all shards are complete; the manifest comes last. An equal
    data set already in `out` is left as it is.

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
        render: mesh file -> views uint8 [V, H, W] or [V, H, W, C], for records with a mesh.
        threads: encoding threads, default one a CPU up to 8; the result does not depend on it.
        progress: called with (samples written, samples in all).

    Raises:
        DataError: no records, a key used twice, a broken or missing file (named), a mesh without
            `render`, a bad option, or another data set already in `out`.
    """
    groups, classes = _collect(records, seed=seed)
    options = {
        "image_size": image_size,
        "shard_size_bytes": shard_size_bytes,
        "views": views,
        "seed": seed,
    }
    _check_options(options, groups)
    existing = _existing(out, dataset=dataset)
    work = partial(encode, image_size=image_size, views=views, render=render)
    out.mkdir(parents=True, exist_ok=True)
    staging = _staging(out)
    writer = SetWriter(staging, classes, shard_size_bytes=shard_size_bytes)
    try:
        total = sum(len(group) for group in groups.values())
        for (stream, split), group in groups.items():
            for record, encoded in _in_order(work, group, threads=threads):
                writer.add(record, encoded)
                if progress is not None:
                    progress(writer.samples, total)
            writer.finish_group(stream, split)
        manifest = writer.manifest(out, metadata=_metadata(dataset, options))
        if existing is not None:
            return _same(existing, manifest)
        _publish(manifest, staging)
    finally:
        writer.discard()
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _check_options(options: dict[str, Any], groups: Groups) -> None:
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


def _staging(out: Path) -> Path:
    for leftover in out.glob(".packing-*"):
        logger.warning("%s: from a pack that is running or was interrupted", leftover)
    return Path(tempfile.mkdtemp(prefix=".packing-", dir=out))


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


def _existing(out: Path, *, dataset: str) -> Manifest | None:
    if not (out / MANIFEST_NAME).exists():
        return None
    existing = load_manifest(out)
    held = existing.metadata.get("dataset")
    if held != dataset:
        raise DataError(f"{out}: already holds data set {held!r}; choose another folder")
    return existing


def _same(existing: Manifest, manifest: Manifest) -> Manifest:
    if existing.fingerprint != manifest.fingerprint or existing.shards != manifest.shards:
        raise DataError(
            f"{existing.root}: already holds another version of this data set; "
            "choose another folder or delete that one"
        )
    return existing


def _publish(manifest: Manifest, staging: Path) -> None:
    """Move the finished shards into place, then write the manifest."""
    root = Path(manifest.root)
    names = {shard.name for shard in manifest.shards}
    for path in root.iterdir():  # shards without a manifest: an interrupted pack's
        if path.name not in names and _SHARD_NAME.fullmatch(path.name):
            logger.warning("%s: left by an interrupted pack, removed", path)
            path.unlink()
    for name in sorted(names):
        os.replace(staging / name, root / name)
    write_manifest(manifest)


def _in_order(
    work: Callable[[Record], Encoded], group: list[Record], *, threads: int | None
) -> Iterator[tuple[Record, Encoded]]:
    """Encode in threads, yield in the group's order, hold only a few results."""
    threads = threads or min(8, os.cpu_count() or 1)
    waiting: deque[tuple[Record, Future[Encoded]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for record in group:
                waiting.append((record, pool.submit(work, record)))
                if len(waiting) > 2 * threads:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

"""Opening a packed data set: its manifest, without the samples that are in quarantine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataio.records import DataError
from dataio.shards.location import NotFound, is_remote, join, normal, read_bytes, shown
from dataio.shards.manifest import MANIFEST_NAME, META_KEY, SCHEMA_VERSION, Manifest, from_table
from dataio.shards.quarantine import (
    QUARANTINE_NAME,
    REMEDY,
    Quarantine,
    RepairedShard,
    read_quarantine,
)


def load_manifest(root: str | Path, *, quarantined: bool = True) -> Manifest:
    """Read a packed data set's manifest and check, by size, that its shards are there.

    `root` is a folder or a URL (http, https, s3, gs). Shards at a URL are checked when they are
    fetched, against their size and SHA-256.

    The samples that `quarantine.json` lists are left out. `quarantined=False` gives the data set as
    it was packed, all samples, and does not look at the shards.

    Raises:
        DataError: no manifest, an unreadable or damaged one, one of another schema version, a
            shard that is missing or whose size has changed.
    """
    root = normal(root)
    path = shown(join(root, MANIFEST_NAME))
    content = _content(root)
    try:
        table = pq.read_table(pa.BufferReader(content))
        header = json.loads((table.schema.metadata or {})[META_KEY])
    except (pa.ArrowException, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a readable manifest ({reason}); pack again") from error
    version = header.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: manifest schema version {version}, this program reads {SCHEMA_VERSION}; "
            "pack again with this version"
        )
    manifest = from_table(table, header, root=root, path=path)
    if not quarantined:
        return manifest
    manifest = without_quarantined(manifest, read_quarantine(root))
    _check_shards(manifest)
    return manifest


def _content(root: str) -> bytes:
    try:
        return read_bytes(join(root, MANIFEST_NAME))
    except NotFound as error:
        raise DataError(
            f"{shown(root)}: not a packed data set (no {MANIFEST_NAME}); make it with pack"
        ) from error


def _check_shards(manifest: Manifest) -> None:
    for shard in manifest.shards:
        if shard.samples == 0:  # all in quarantine
            continue
        place = join(manifest.root, shard.name)
        if is_remote(place):
            continue
        path = Path(place)
        if not path.is_file():
            raise DataError(f"{path}: shard is missing; copy it again or pack again")
        size_bytes = path.stat().st_size
        if size_bytes != shard.size_bytes:
            raise DataError(
                f"{path}: shard has {size_bytes} bytes, the manifest says {shard.size_bytes}; "
                "copy it again or pack again"
            )


def without_quarantined(manifest: Manifest, quarantine: Quarantine) -> Manifest:
    """The manifest without the quarantined rows, with the present sizes and hashes of shards.

    Classes and shards keep their numbers; a shard without samples stays in the list with a count of
    0. The fingerprint is that of the remaining rows: training on them is another run.

    Raises DataError if the quarantine is of other data than the manifest.
    """
    if quarantine == Quarantine():
        return manifest
    kept = np.ones(len(manifest), dtype=bool)
    kept[_rows(manifest, quarantine)] = False
    rows = np.flatnonzero(kept)
    present = {shard.name: shard for shard in quarantine.shards}
    unknown = sorted(set(present) - {shard.name for shard in manifest.shards})
    if unknown:
        raise _other_data(manifest, f"shard {unknown[0]}")
    counts = np.bincount(manifest.shard_ids[rows], minlength=len(manifest.shards)).tolist()
    shards = tuple(
        replace(shard, samples=count, **_present(present.get(shard.name)))
        for shard, count in zip(manifest.shards, counts, strict=True)
    )
    return replace(
        manifest,
        keys=[manifest.keys[row] for row in rows],
        streams=manifest.streams[rows],
        splits=manifest.splits[rows],
        labels=manifest.labels[rows],
        class_ids=manifest.class_ids[rows],
        shard_ids=manifest.shard_ids[rows],
        members=[manifest.members[row] for row in rows],
        content_sha256=[manifest.content_sha256[row] for row in rows],
        views=manifest.views[rows],
        origins=[manifest.origins[row] for row in rows],
        instances=[manifest.instances[row] for row in rows],
        shards=shards,
        fingerprint="",
    )


def _rows(manifest: Manifest, quarantine: Quarantine) -> list[int]:
    row_of = {key: row for row, key in enumerate(manifest.keys)}
    rows = []
    for sample in quarantine.samples:
        row = row_of.get(sample.key)
        if row is None or manifest.content_sha256[row] != sample.content_sha256:
            raise _other_data(manifest, f"sample {sample.key!r}")
        rows.append(row)
    return rows


def _present(shard: RepairedShard | None) -> Mapping[str, Any]:
    return {} if shard is None else {"size_bytes": shard.size_bytes, "sha256": shard.sha256}


def _other_data(manifest: Manifest, item: str) -> DataError:
    return DataError(
        f"{shown(join(manifest.root, QUARANTINE_NAME))}: {item} is not in the manifest with that "
        f"content, the data set was packed again; {REMEDY}"
    )

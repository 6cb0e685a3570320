"""Samples of a packed data set that are left out, because they are damaged.

`<root>/quarantine.json` lists them beside the shards, which stay as they are. Whoever loads the
manifest gets it without these rows, so no plan ever meets a bad sample.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataio.atomic import write_whole
from dataio.location import exists, is_remote, join, read_bytes, shown
from dataio.records import DataError

if TYPE_CHECKING:  # the manifest's own module imports this one
    from dataio.manifest import Manifest

__all__ = [
    "QUARANTINE_NAME",
    "Quarantine",
    "QuarantinedSample",
    "RepairedShard",
    "apply",
    "read_quarantine",
    "write_quarantine",
]

QUARANTINE_NAME = "quarantine.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class QuarantinedSample:
    """A sample to leave out; the hash is the manifest's, so it is this sample and no other."""

    key: str
    content_sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class RepairedShard:
    """A shard that differs from the manifest, but whose other samples are proven good by their
    content hashes: its size and SHA-256 as it is now."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Quarantine:
    """What is left out of one data set."""

    samples: tuple[QuarantinedSample, ...] = ()
    shards: tuple[RepairedShard, ...] = ()


def read_quarantine(root: str | Path) -> Quarantine:
    """The quarantine of the data set at `root`, empty where there is no file.

    Raises DataError if the file is not a readable quarantine of this schema version.
    """
    if not exists(root, QUARANTINE_NAME):
        return Quarantine()
    place = join(root, QUARANTINE_NAME)
    content = read_bytes(place)
    try:
        tree = json.loads(content)
        if tree["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"schema version {tree['schema_version']}, this program reads {SCHEMA_VERSION}"
            )
        return Quarantine(
            tuple(QuarantinedSample(**sample) for sample in tree["samples"]),
            tuple(RepairedShard(**shard) for shard in tree["shards"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{shown(place)}: not a readable quarantine ({error}); {_REMEDY}"
        ) from error


def write_quarantine(root: str | Path, quarantine: Quarantine) -> Path:
    """Write `<root>/quarantine.json` atomically and return its path.

    Raises DataError for a URL.
    """
    if is_remote(root):
        raise DataError(f"{shown(str(root))}: not a folder; repair a local copy and upload that")
    path = Path(root) / QUARANTINE_NAME
    tree = {"schema_version": SCHEMA_VERSION, **asdict(quarantine)}
    write_whole(path, json.dumps(tree, indent=1).encode())
    return path


def apply(manifest: Manifest, quarantine: Quarantine) -> Manifest:
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
        shards=shards,
        fingerprint="",
    )


_REMEDY = f"delete {QUARANTINE_NAME} and run `img2shape data verify --repair` again"


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
        f"content, the data set was packed again; {_REMEDY}"
    )

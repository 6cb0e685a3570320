"""Samples of a packed data set that are left out, because they are damaged.

`<root>/quarantine.json` lists them beside the shards, which stay as they are. Whoever loads the
manifest gets it without these rows, so no plan ever meets a bad sample.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dataio.atomic import write_whole
from dataio.records import DataError
from dataio.shards.location import exists, is_remote, join, read_bytes, shown

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
        raise DataError(f"{shown(place)}: not a readable quarantine ({error}); {REMEDY}") from error


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


REMEDY = f"delete {QUARANTINE_NAME} and run `img2shape data verify --repair` again"

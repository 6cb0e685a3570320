"""The index of a packed data set: where each sample lies, what it is, and its content's hash."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataio.atomic import write_whole
from dataio.records import DataError
from dataio.shards.location import is_remote, join, shown

MANIFEST_NAME = "manifest.parquet"
SCHEMA_VERSION = 1

META_KEY = b"img2shape"
_UNION = "union"
_ORIGIN, _INSTANCE = _LATER = ("origin", "instance")  # manifests of older programs lack them
_MEMBER = pa.struct([("suffix", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("stream", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("class_id", pa.int64()),
        ("shard_id", pa.int64()),
        ("members", pa.list_(_MEMBER)),
        ("content_sha256", pa.string()),
        ("views", pa.int64()),
        (_ORIGIN, pa.string()),
        (_INSTANCE, pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample: the byte range of its data in the shard."""

    suffix: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file: name under the root, SHA-256 of its bytes, size, number of samples."""

    name: str
    sha256: str
    size_bytes: int
    samples: int


@dataclass(frozen=True, eq=False)
class Manifest:
    """A packed data set of N samples, row by row in the order they lie in the shards.

    `fingerprint` is a SHA-256 over keys, labels, contents and order; it does not depend on where
    the data set lies, and two data sets with one fingerprint train alike. `origins` say where the
    samples came from: the path of the file or folder under the root of the data set that was
    packed, or `library.sh3f#id`; never where that lay on the machine that packed it. `instances`
    name the object that a sample shows: a picture and the shape of one object have one name. Like
    origins they decide nothing in training, so they are not in the fingerprint.
    """

    root: str
    keys: list[str]  # [N]
    streams: np.ndarray  # str [N]: image | sketch | shape
    splits: np.ndarray  # str [N]: train | val | test
    labels: np.ndarray  # object [N]: class name or None
    class_ids: np.ndarray  # int64 [N], index into `classes`, -1 = unlabelled
    shard_ids: np.ndarray  # int64 [N], index into `shards`
    members: list[tuple[Member, ...]]  # [N]
    content_sha256: list[str]  # [N], hash of the image's or the views' encoded bytes
    views: np.ndarray  # int64 [N], 0 for image and sketch
    shards: tuple[Shard, ...]
    classes: tuple[str, ...]  # sorted names
    metadata: dict[str, Any] = field(default_factory=dict)  # creator, dataset, options, versions
    fingerprint: str = ""
    origins: list[str] = field(default_factory=list)  # [N], "" = not known; none given: all ""
    instances: list[str] = field(default_factory=list)  # [N], the same

    def __post_init__(self) -> None:
        for name in ("origins", "instances"):
            if not getattr(self, name):
                object.__setattr__(self, name, [""] * len(self.keys))
        counts = {len(column) for column in self._columns()}
        assert counts == {len(self.keys)}, f"manifest columns of unequal length: {counts}"
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _fingerprint(self))

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, stream: str, split: str) -> np.ndarray:
        """Rows of one stream and split, int64 [n] ascending; split "all" takes every split.

        Raises DataError, naming what the data set holds, if there are none.
        """
        in_split = (self.splits == split) | (split == "all")
        rows = np.flatnonzero((self.streams == stream) & in_split).astype(np.int64)
        if len(rows) == 0:
            pairs = Counter(zip(self.streams.tolist(), self.splits.tolist(), strict=True))
            held = ", ".join(f"{s}/{p} ({n})" for (s, p), n in sorted(pairs.items())) or "nothing"
            raise DataError(f"{shown(self.root)}: no samples of {stream}/{split}; it holds {held}")
        return rows

    def _columns(self) -> list[Sequence[Any] | np.ndarray]:
        return [
            self.keys, self.streams, self.splits, self.labels, self.class_ids, self.shard_ids,
            self.members, self.content_sha256, self.views, self.origins, self.instances,
        ]  # fmt: skip


def write_manifest(manifest: Manifest) -> Path:
    """Write `<root>/manifest.parquet` atomically and return its path.

    Write it last: a folder without it is not a data set. Raises DataError for a `union` and where
    the root is a URL.
    """
    if _UNION in manifest.metadata:
        raise DataError(
            f"{shown(manifest.root)}: a union of data sets is not written; load its parts and "
            "unite them"
        )
    if is_remote(manifest.root):
        raise DataError(
            f"{shown(manifest.root)}: a data set is written to a folder, not to a URL; pack into a "
            "folder and upload that"
        )
    table = pa.table(
        [
            pa.array(column, type=kind)
            for column, kind in zip(_arrow_columns(manifest), _SCHEMA.types, strict=True)
        ],
        schema=_SCHEMA.with_metadata({META_KEY: json.dumps(_header(manifest), sort_keys=True)}),
    )
    path = Path(manifest.root) / MANIFEST_NAME
    data = io.BytesIO()
    pq.write_table(table, data, compression="zstd")
    write_whole(path, data.getvalue())
    return path


def union(manifests: Sequence[Manifest]) -> Manifest:
    """Several data sets as one: all rows, part after part, classes merged by name.

    Shards keep their places, named by absolute paths or URLs. Where a key is in two parts, all keys
    get their part's index (`0-`, `1-`, ..) in front; otherwise none does. So it is with instances,
    because equal names in two data sets do not make one object. The fingerprint follows from the
    parts' fingerprints in order. The union of one data set is that data set.

    Raises DataError for no data sets and for one that is listed twice, wherever the copies lie.
    """
    if not manifests:
        raise DataError("a union needs at least one data set")
    if len(manifests) == 1:
        return manifests[0]
    _check_distinct(manifests)
    classes = tuple(sorted({name for part in manifests for name in part.classes}))
    starts = np.cumsum([0, *(len(part.shards) for part in manifests[:-1])])
    prints = [part.fingerprint for part in manifests]

    def joined(columns: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate(list(columns))

    return Manifest(
        root=" + ".join(part.root for part in manifests),
        keys=_distinct_keys(manifests),
        streams=joined(part.streams for part in manifests),
        splits=joined(part.splits for part in manifests),
        labels=joined(part.labels for part in manifests),
        class_ids=joined(_renumbered(part, classes) for part in manifests),
        shard_ids=joined(p.shard_ids + n for p, n in zip(manifests, starts, strict=True)),
        members=[members for part in manifests for members in part.members],
        content_sha256=[content for part in manifests for content in part.content_sha256],
        views=joined(part.views for part in manifests),
        shards=tuple(_absolute(shard, part.root) for part in manifests for shard in part.shards),
        classes=classes,
        origins=[origin for part in manifests for origin in part.origins],
        instances=_distinct_instances(manifests),
        metadata={_UNION: [{**p.metadata, "fingerprint": p.fingerprint} for p in manifests]},
        fingerprint=hashlib.sha256(json.dumps([_UNION, prints]).encode()).hexdigest(),
    )


def _check_distinct(manifests: Sequence[Manifest]) -> None:
    first: dict[str, Manifest] = {}
    for part in manifests:
        if part.fingerprint in first:
            same = first[part.fingerprint]
            raise DataError(
                f"{shown(part.root)}: the same data set as {shown(same.root)}; list it once"
            )
        first[part.fingerprint] = part


def _distinct_keys(manifests: Sequence[Manifest]) -> list[str]:
    keys = [key for part in manifests for key in part.keys]
    if len(set(keys)) == len(keys):
        return keys
    return [f"{i}-{key}" for i, part in enumerate(manifests) for key in part.keys]


def _distinct_instances(manifests: Sequence[Manifest]) -> list[str]:
    held = [set(part.instances) - {""} for part in manifests]
    shared = sum(map(len, held)) > len(set().union(*held))
    return [
        f"{i}-{name}" if shared and name else name
        for i, part in enumerate(manifests)
        for name in part.instances
    ]


def _renumbered(manifest: Manifest, classes: tuple[str, ...]) -> np.ndarray:
    numbers = np.array([*map(classes.index, manifest.classes), -1], dtype=np.int64)
    return numbers[manifest.class_ids]  # -1 takes the last


def _absolute(shard: Shard, root: str) -> Shard:
    place = join(root, shard.name)
    return replace(shard, name=place if is_remote(place) else str(Path(place).absolute()))


def _fingerprint(manifest: Manifest) -> str:
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, manifest.classes]).encode())
    rows = zip(
        manifest.keys, manifest.streams.tolist(), manifest.splits.tolist(),
        manifest.labels.tolist(), manifest.shard_ids.tolist(), manifest.content_sha256,
        strict=True,
    )  # fmt: skip
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _header(manifest: Manifest) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "classes": list(manifest.classes),
        "shards": [asdict(shard) for shard in manifest.shards],
        "metadata": manifest.metadata,
        "fingerprint": manifest.fingerprint,
    }


def _arrow_columns(manifest: Manifest) -> list[Sequence[Any]]:
    members = [[asdict(member) for member in row] for row in manifest.members]
    return [
        manifest.keys, manifest.streams.tolist(), manifest.splits.tolist(),
        manifest.labels.tolist(), manifest.class_ids.tolist(), manifest.shard_ids.tolist(),
        members, manifest.content_sha256, manifest.views.tolist(),
        [origin or None for origin in manifest.origins],
        [instance or None for instance in manifest.instances],
    ]  # fmt: skip


def from_table(table: pa.Table, header: Mapping[str, Any], *, root: str, path: str) -> Manifest:
    try:
        for name in _LATER:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(len(table), pa.string()))
        columns = {name: table.column(name).combine_chunks() for name in _SCHEMA.names}
        manifest = Manifest(
            root=root,
            keys=columns["key"].to_pylist(),
            streams=np.array(columns["stream"].to_pylist(), dtype=np.str_),
            splits=np.array(columns["split"].to_pylist(), dtype=np.str_),
            labels=np.array(columns["label"].to_pylist(), dtype=object),
            class_ids=columns["class_id"].to_numpy(zero_copy_only=False),
            shard_ids=columns["shard_id"].to_numpy(zero_copy_only=False),
            members=_members(columns["members"]),
            content_sha256=columns["content_sha256"].to_pylist(),
            views=columns["views"].to_numpy(zero_copy_only=False),
            shards=tuple(_inside(Shard(**shard)) for shard in header["shards"]),
            classes=tuple(header["classes"]),
            metadata=dict(header["metadata"]),
            origins=[origin or "" for origin in columns[_ORIGIN].to_pylist()],
            instances=[instance or "" for instance in columns[_INSTANCE].to_pylist()],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged manifest ({error}); pack again") from error
    if manifest.fingerprint != header.get("fingerprint"):
        raise DataError(f"{path}: rows do not match the manifest's fingerprint; pack again")
    return manifest


def _inside(shard: Shard) -> Shard:
    """The shard, checked to lie in the data set's folder: a manifest may name no other file."""
    parts = shard.name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise ValueError(f"shard {shard.name!r} is not inside the data set")
    return shard


def _members(column: Any) -> list[tuple[Member, ...]]:
    flat = column.flatten()
    fields = [flat.field(i).to_pylist() for i in range(flat.type.num_fields)]
    members = [Member(*values) for values in zip(*fields, strict=True)]
    ends = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False)).tolist()
    return [tuple(members[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

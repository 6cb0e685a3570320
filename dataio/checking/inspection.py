"""What a packed data set holds: counts, sizes, and what the headers of its pictures say."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dataio.records import SPLITS, STREAMS, DataError
from dataio.shards import Manifest, ShardReader, content_member, decode_views, sniff


@dataclass(frozen=True)
class Header:
    """Size of a picture, or of one view of a shape, in pixels, and its stored channels."""

    height: int
    width: int
    channels: int  # 1 = grey; a colour file may still show grey


def groups(manifest: Manifest) -> dict[str, np.ndarray]:
    """`stream/split` -> its rows int64 [n], in the order of STREAMS and SPLITS."""
    kinds = [(s, p) for s in STREAMS for p in SPLITS]
    rows = {
        f"{s}/{p}": np.flatnonzero((manifest.streams == s) & (manifest.splits == p))
        for s, p in kinds
    }
    return {kind: found for kind, found in rows.items() if len(found)}


def class_counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Class -> `stream/split` -> samples, classes by name; unlabelled samples are in none."""
    counts = {
        kind: Counter(manifest.labels[rows].tolist()) for kind, rows in groups(manifest).items()
    }
    return {
        name: {kind: count[name] for kind, count in counts.items() if count[name]}
        for name in manifest.classes
    }


def one_sided(manifest: Manifest) -> dict[str, dict[str, list[str]]]:
    """Split -> classes that only its queries (images, sketches) or only its shapes have.

    Splits without queries, without shapes or without such classes are left out.
    """
    found = {}
    for split in SPLITS:
        here = (manifest.splits == split) & (manifest.labels != None)  # noqa: E711 - elementwise
        shapes = manifest.streams == "shape"
        sides = [set(manifest.labels[here & side].tolist()) for side in (~shapes, shapes)]
        if all(sides) and sides[0] != sides[1]:
            found[split] = {
                "queries_only": sorted(sides[0] - sides[1]),
                "gallery_only": sorted(sides[1] - sides[0]),
            }
    return found


def chosen(manifest: Manifest, rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `rows`, int64 ascending: those whose keys have the lowest hashes.

    So the choice favours no sample and is always the same.
    """
    order = sorted(
        rows.tolist(), key=lambda row: hashlib.sha256(manifest.keys[row].encode()).digest()
    )
    return np.array(sorted(order[:count]), dtype=np.int64)


def read_header(data: bytes, *, views: int, key: str) -> Header:
    """The header of an encoded picture (`views` = 0) or of a shape's views.

    Views that are not one picture have no header of their own and are decoded.

    Raises DataError for bytes that are neither.
    """
    try:
        if sniff(data) in ("npy", None):  # None: a tar of views
            _, height, width, channels = decode_views(data, key=key, views=views).shape
            return Header(height, width, channels)
        with Image.open(io.BytesIO(data)) as picture:
            grey = picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I")
            return Header(picture.height // max(1, views), picture.width, 1 if grey else 3)
    except (OSError, ValueError, IndexError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"sample {key!r}: no picture ({error}); see data verify") from error


def read_headers(manifest: Manifest, rows: Iterable[int]) -> list[Header]:
    """The headers of several samples; raises DataError for one that cannot be read."""
    reader = ShardReader(manifest.root, manifest.shards)
    try:
        return [
            read_header(
                reader.read(int(manifest.shard_ids[row]), content_member(manifest, row)),
                views=int(manifest.views[row]),
                key=manifest.keys[row],
            )
            for row in map(int, rows)
        ]
    finally:
        reader.close()


def describe(manifest: Manifest, *, sampled: int = 64) -> dict[str, Any]:
    """Everything there is to know without decoding, as plain JSON values.

    Args:
        manifest: the data set.
        sampled: samples of each stream and split whose headers are read.

    Raises:
        DataError: a sampled header cannot be read.
    """
    metadata = manifest.metadata
    return {
        "root": manifest.root,
        "dataset": metadata.get("dataset"),
        "fingerprint": manifest.fingerprint,
        "samples": len(manifest),
        "size_bytes": sum(shard.size_bytes for shard in manifest.shards),
        "groups": {
            kind: _describe_group(manifest, rows, sampled=sampled)
            for kind, rows in groups(manifest).items()
        },
        "classes": class_counts(manifest),
        "one_sided": one_sided(manifest),
        "metadata": {k: v for k, v in metadata.items() if k not in ("dataset", "counts")},
    }


def _describe_group(manifest: Manifest, rows: np.ndarray, *, sampled: int) -> dict[str, Any]:
    headers = read_headers(manifest, chosen(manifest, rows, sampled))
    held = Counter(manifest.shard_ids[rows].tolist())
    labels = manifest.labels[rows].tolist()
    group = {
        "samples": len(rows),
        "unlabelled": labels.count(None),
        "classes": len(set(labels) - {None}),
        "content_bytes": sum(content_member(manifest, int(row)).size for row in rows),
        "shards": len(held),
        "shard_bytes": _spread([manifest.shards[shard].size_bytes for shard in held]),
        "samples_per_shard": _spread(held.values()),
        "headers_read": len(headers),
        "height": _spread([header.height for header in headers]),
        "width": _spread([header.width for header in headers]),
        "grey_share": sum(header.channels == 1 for header in headers) / len(headers),
    }
    if manifest.views[rows].any():
        group["views"] = _spread(manifest.views[rows].tolist())
    return group


def _spread(values: Iterable[int]) -> dict[str, int]:
    ordered = sorted(values)
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]}

"""What a stream loads: the description that a run gives, where the samples lie, and the checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dataio.loading.augment import AugmentConfig
from dataio.loading.features import FeatureCopies
from dataio.loading.preprocessing import IMAGENET, Preprocessing
from dataio.records import DataError
from dataio.shards import CONTENT_SUFFIXES, Fit, Manifest, Member, content_member

DIGEST_BYTES = 8  # of a sample's SHA-256


@dataclass(frozen=True, eq=False)
class StreamSource:
    """One stream of a run: which samples, and how they are loaded.

    `classes` defines the labels' numbers. With `labelled=False` the samples' labels are hidden:
    they never reach the code that makes the batches.
    """

    manifest: Manifest
    rows: np.ndarray  # int64 [N], distinct rows of the manifest
    classes: tuple[str, ...]
    labelled: bool
    image_size: int  # side in pixels of the network's input
    views: int | None = None  # views drawn of each shape in training, None = all
    augment: AugmentConfig | None = None
    fit: Fit = "stretch"  # how pictures that are not square become square
    preprocessing: Preprocessing = IMAGENET  # what the trunk's weights were trained on
    features: FeatureCopies | None = None  # read in place of pixels, where a trunk is frozen

    @property
    def decoded_size(self) -> int:
        """Side in pixels of the decoded pictures, before augmentation or the crop of the centre."""
        return self.preprocessing.decoded(self.image_size)

    @property
    def window(self) -> tuple[int, int]:
        """Sides in pixels of the network's input and of the decoded picture that it is cut from."""
        return self.image_size, self.decoded_size


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Where the pixels of N samples lie: plain arrays, small to send to another process."""

    rows: np.ndarray  # int64 [N], rows in the manifest
    shard_ids: np.ndarray  # int32 [N]
    offsets: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N]
    suffixes: np.ndarray  # uint8 [N], index into CONTENT_SUFFIXES
    views: np.ndarray  # int16 [N], 0 = a single picture
    digests: np.ndarray  # uint8 [N, 8], first bytes of the SHA-256 of the encoded picture
    stacked: bool  # shapes rather than single pictures

    @classmethod
    def of(cls, source: StreamSource) -> SampleTable:
        """The table of a source's rows; DataError if it mixes single pictures with shapes."""
        manifest, rows = source.manifest, np.asarray(source.rows)
        members = [content_member(manifest, int(row)) for row in rows]
        views = manifest.views[rows]
        if len(set((views > 0).tolist())) > 1:
            raise DataError(f"{manifest.root}: a source mixes shapes with single pictures")
        return cls(
            rows=np.asarray(rows, dtype=np.int64),
            shard_ids=manifest.shard_ids[rows].astype(np.int32),
            offsets=np.array([m.offset for m in members], dtype=np.int64),
            sizes=np.array([m.size for m in members], dtype=np.int64),
            suffixes=np.array([CONTENT_SUFFIXES.index(m.suffix) for m in members], dtype=np.uint8),
            views=views.astype(np.int16),
            digests=_digests(manifest, rows),
            stacked=bool(views[0] > 0),
        )

    def member(self, position: int) -> Member:
        """The byte range of one sample's pixels."""
        suffix = CONTENT_SUFFIXES[self.suffixes[position]]
        return Member(suffix, int(self.offsets[position]), int(self.sizes[position]))


def _digests(manifest: Manifest, rows: np.ndarray) -> np.ndarray:
    """The first bytes of each hash: they show damage, and workers are sent half as much."""
    joined = "".join(manifest.content_sha256[row][: 2 * DIGEST_BYTES] for row in rows)
    return np.frombuffer(bytes.fromhex(joined), dtype=np.uint8).reshape(len(rows), DIGEST_BYTES)


def check_source(name: str, source: StreamSource) -> None:
    rows = np.asarray(source.rows)
    if len(rows) == 0:
        raise DataError(f"stream {name!r} has no rows; choose them with Manifest.select")
    if rows.min() < 0 or rows.max() >= len(source.manifest):
        raise DataError(f"stream {name!r}: rows outside the manifest's {len(source.manifest)}")
    if len(np.unique(rows)) != len(rows):
        raise DataError(f"stream {name!r}: a row is listed twice; rows must be distinct")
    if source.image_size < 1:
        raise DataError(f"stream {name!r}: image_size must be positive, got {source.image_size}")
    if source.views is not None and source.views < 1:
        raise DataError(f"stream {name!r}: views must be at least 1, got {source.views}")
    if source.fit not in ("stretch", "crop"):
        raise DataError(f"stream {name!r}: fit must be 'stretch' or 'crop', got {source.fit!r}")


def class_numbers(source: StreamSource) -> np.ndarray:
    numbers = {name: i for i, name in enumerate(source.classes)}
    labels = source.manifest.labels[source.rows].tolist()
    return np.array([numbers.get(label, -1) for label in labels], dtype=np.int64)


def required_labels(name: str, source: StreamSource) -> np.ndarray:
    """Class numbers of a labelled stream; DataError naming a sample that has none."""
    labels = class_numbers(source)
    if (labels < 0).any():
        row = int(np.asarray(source.rows)[np.argmax(labels < 0)])
        label = source.manifest.labels[row]
        problem = "has no label" if label is None else f"has label {label!r}, not among the classes"
        raise DataError(
            f"stream {name!r} is labelled but sample {source.manifest.keys[row]!r} {problem}; "
            "leave it out of rows, extend classes, or pass labelled=False"
        )
    return labels


def check_balanced(sources: Mapping[str, StreamSource]) -> None:
    first = next(iter(sources.values()))
    for name, source in sources.items():
        if not source.labelled:
            raise DataError(
                f"balance needs labels, but stream {name!r} is unlabelled; pass labelled=True, or "
                "name batch instead of balance"
            )
        if source.classes != first.classes:
            raise DataError(
                f"balance: stream {name!r} numbers its classes unlike the first stream; give all "
                "sources the same classes"
            )

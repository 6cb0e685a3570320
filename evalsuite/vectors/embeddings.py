"""Embeddings with their keys and labels, in memory and in Parquet."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evalsuite.atomic import write_atomically

COLUMNS = ("key", "label", "embedding")
INSTANCE = "instance"  # a column that a file may have


class EvaluationError(ValueError):
    """Input that cannot be scored; the message names the file or option and the remedy."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """N vectors of width D with a unique key and a class name each.

    ``keys`` and ``labels`` are lists of N strings, the labels brought to Unicode's form NFC,
    ``vectors`` is float32 [N, D] (other numeric types are cast), ``metadata`` is free text that
    travels with the Parquet file. Row order matters: it breaks ties between equal distances.
    ``instances`` are N names of objects, in NFC as well: a query and an item of the gallery that
    show one object have one name, "" where that is not known; none given: all "".

    Raises ``EvaluationError`` for no rows, lengths that differ, duplicate keys, null or
    non-string labels or instances, or vectors that are not [N, D] with D >= 1.
    """

    keys: list[str]
    labels: list[str]
    vectors: np.ndarray
    metadata: dict[str, str] = field(default_factory=dict)
    instances: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        vectors = as_float32(self.vectors)
        if vectors.ndim != 2 or vectors.shape[1] == 0:
            raise EvaluationError(f"vectors have shape {vectors.shape}; expected [N, D], D >= 1")
        keys, labels = list(self.keys), list(self.labels)
        if not len(keys) == len(labels) == len(vectors):
            raise EvaluationError(
                f"{len(keys)} keys, {len(labels)} labels and {len(vectors)} vectors; "
                "give one key and one label per vector"
            )
        if not keys:
            raise EvaluationError("no rows; extract at least one embedding")
        require_strings("key", keys, keys)
        require_strings("label", labels, keys)
        instances = list(self.instances) or [""] * len(keys)
        if len(instances) != len(keys):
            raise EvaluationError(
                f"{len(instances)} instances for {len(keys)} keys; give one per vector, or none"
            )
        require_strings(INSTANCE, instances, keys)
        _require_unique(keys)
        object.__setattr__(self, "keys", [str(key) for key in keys])
        object.__setattr__(self, "labels", [in_one_form(str(x)) for x in labels])
        object.__setattr__(self, "instances", [in_one_form(str(x)) for x in instances])
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "metadata", dict(self.metadata))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def width(self) -> int:
        """D, the number of components of a vector."""
        return self.vectors.shape[1]


def in_one_form(label: str) -> str:
    """The label in Unicode's form NFC: one from macOS, in NFD, looks the same and is another."""
    return unicodedata.normalize("NFC", label)


def non_finite_rows(vectors_ND: np.ndarray) -> np.ndarray:
    """Ascending int64 indices of the rows of [N, D] that hold NaN or an infinity."""
    return np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))


def write_embeddings(path: str | Path, embeddings: Embeddings) -> None:
    """Write ``embeddings`` to a Parquet file, atomically, as fixed-size lists of float32.

    The file has the column ``instance`` where any instance is known.
    """
    values = pa.array(embeddings.vectors.reshape(-1), type=pa.float32())
    columns = [
        pa.array(embeddings.keys, type=pa.string()),
        pa.array(embeddings.labels, type=pa.string()),
        pa.FixedSizeListArray.from_arrays(values, embeddings.width),
    ]
    names: list[str] = list(COLUMNS)
    if any(embeddings.instances):
        columns.append(pa.array(embeddings.instances, type=pa.string()))
        names.append(INSTANCE)
    table = pa.table(columns, names=names).replace_schema_metadata(embeddings.metadata)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def require_finite(embeddings: Embeddings) -> None:
    """Raise ``EvaluationError`` naming the first keys whose vectors hold NaN or Inf."""
    rows = non_finite_rows(embeddings.vectors)
    if len(rows):
        raise EvaluationError(
            f"{len(rows)} rows hold NaN or Inf: {named(embeddings.keys, rows)}; "
            "fix the network, or pass nan_policy='last' to score them as failures"
        )


def require_same_width(queries: Embeddings, width: int) -> None:
    """Raise ``EvaluationError`` unless the queries have the gallery's ``width``."""
    if queries.width != width:
        raise EvaluationError(
            f"queries have {queries.width} components, the gallery has {width}; "
            "extract both with one network"
        )


def as_float32(vectors: np.ndarray) -> np.ndarray:
    """``vectors`` as contiguous float32; a value beyond the range becomes an infinity."""
    with np.errstate(over="ignore"):  # beyond the float32 range: Inf, found by require_finite
        return np.ascontiguousarray(vectors, dtype=np.float32)


def require_strings(column: str, values: Sequence[Any], keys: Sequence[Any]) -> None:
    """Raise ``EvaluationError`` naming the first ``keys`` whose value in ``column`` is not text."""
    bad = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if bad:
        where = f"rows {bad[:5]}" if column == "key" else f"rows {named(keys, bad)}"
        raise EvaluationError(
            f"{len(bad)} values of column {column!r} are null or not text: {where}; "
            f"every row needs a {column}"
        )


def _require_unique(keys: Sequence[str]) -> None:
    if len(set(keys)) == len(keys):
        return
    seen: set[str] = set()
    repeated = sorted({key for key in keys if key in seen or seen.add(key)})
    raise EvaluationError(
        f"{len(repeated)} duplicate keys: {', '.join(map(repr, repeated[:5]))}; "
        "write each item exactly once"
    )


def named(keys: Sequence[Any], rows: Sequence[int] | np.ndarray) -> str:
    """The keys of the first five ``rows``, for a message."""
    names = ", ".join(repr(keys[row]) for row in rows[:5])
    return names + (", ..." if len(rows) > 5 else "")

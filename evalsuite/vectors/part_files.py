"""One part file of embeddings: its columns, what it carries in its metadata, its hashes."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Dtype = Literal["float32", "float16"]
# What reading a torn or foreign file may raise.
DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Part:
    """One part file: rows ``first`` to ``first + rows - 1`` of the stream."""

    file: str
    first: int
    rows: int
    width: int
    sha256: str  # of the file


def part_name(first: int) -> str:
    """Name of the file whose first row is row ``first`` of the stream; names sort as the rows."""
    return f"part-{first:012d}.parquet"


def encoded(
    keys: Sequence[str],
    labels: Sequence[str],
    vectors: np.ndarray,
    *,
    first: int,
    about: Mapping[str, str],
) -> bytes:
    """The file of n rows from row ``first`` on, ``vectors`` float32 or float16 [n, D].

    Its metadata are ``about`` and a ``digest`` of its content.
    """
    table = pa.table(
        {
            "position": pa.array(np.arange(first, first + len(keys), dtype=np.int64)),
            "key": pa.array(keys, type=pa.string()),
            "label": pa.array(labels, type=pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1)), vectors.shape[1]
            ),
        }
    )
    table = table.replace_schema_metadata({**about, "digest": content_digest(table)})
    sink = io.BytesIO()
    # Vectors do not compress. Who reads single columns has no hash but those of the pages.
    pq.write_table(table, sink, compression="none", write_page_checksum=True)
    return sink.getvalue()


def part_table(source: bytes | Path, *, columns: list[str] | None = None) -> pa.Table:
    """The columns of a part file, or of its content; raises one of ``DAMAGED``."""
    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(opened, page_checksum_verification=True) as file:
        return file.read(columns=columns)


def part_metadata(table: pa.Table) -> dict[str, str]:
    """What :func:`encoded` was told the part is ``about``, and its ``digest``."""
    raw = table.schema.metadata or {}
    return {key.decode(): value.decode() for key, value in raw.items()}


def part_vectors(table: pa.Table) -> np.ndarray:
    """The column of embeddings as it is stored, [n, D]."""
    column = table.column("embedding").combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)


def part_width(table: pa.Table) -> int:
    """D, the number of components of an embedding."""
    kind = table.schema.field("embedding").type
    if not pa.types.is_fixed_size_list(kind):
        raise ValueError(f"column 'embedding' is {kind}")
    return kind.list_size


def content_digest(table: pa.Table) -> str:
    """SHA-256 of the rows: positions, keys, labels and vectors, in order."""
    names = [table.column(name).to_pylist() for name in ("position", "key", "label")]
    digest = hashlib.sha256(json.dumps([part_width(table), *names]).encode())
    digest.update(np.ascontiguousarray(part_vectors(table)).tobytes())
    return digest.hexdigest()


def file_sha256(content: bytes) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(content).hexdigest()

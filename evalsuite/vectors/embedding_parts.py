"""Embeddings of one stream as a folder of Parquet parts, of which only the needed ones are read.

``part-<first row>.parquet`` holds a run of rows of the stream: position int64, key, label and
embedding, a fixed-size list of float32 or float16, and instance where any of its rows has one.
``embeddings.json`` is written last and names every part with the hash of its file; a folder without
it is unfinished (see ``parts_writer``).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evalsuite.vectors.embeddings import INSTANCE, Embeddings, EvaluationError, in_one_form

MANIFEST_NAME = "embeddings.json"
FORMAT = "img2shape-embeddings-1"
REMEDY = "extract these embeddings again; parts that are whole are kept"

Dtype = Literal["float32", "float16"]
_NAMES = ("position", "key", "label")
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


def is_part_name(name: str) -> bool:
    """Whether a file has a name of :func:`part_name`; part-00000.parquet of others is none."""
    return re.fullmatch(r"part-\d{12}\.parquet", name) is not None


def encoded(
    keys: Sequence[str],
    labels: Sequence[str],
    vectors: np.ndarray,
    *,
    first: int,
    about: Mapping[str, str],
    instances: Sequence[str] = (),
) -> bytes:
    """The file of n rows from row ``first`` on, ``vectors`` float32 or float16 [n, D].

    Its metadata are ``about`` and a ``digest`` of its content. The file has a column ``instance``
    where any of ``instances`` is not empty.
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
    if any(instances):
        table = table.append_column(INSTANCE, pa.array(instances, type=pa.string()))
    table = table.replace_schema_metadata({**about, "digest": content_digest(table)})
    sink = io.BytesIO()
    # Vectors do not compress. Page checksums protect readers of single columns.
    pq.write_table(table, sink, compression="none", write_page_checksum=True)
    return sink.getvalue()


def part_table(source: bytes | Path, *, columns: list[str] | None = None) -> pa.Table:
    """The columns of a part file, or of its content; raises one of ``DAMAGED``."""
    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(opened, page_checksum_verification=True) as file:
        return file.read(columns=columns)


def part_metadata(table: pa.Table) -> dict[str, str]:
    """The ``about`` that :func:`encoded` was given, and the ``digest``."""
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
    """SHA-256 of the rows: positions, keys, labels, instances and vectors, in order."""
    held = [name for name in (*_NAMES, INSTANCE) if name in table.column_names]
    names = [table.column(name).to_pylist() for name in held]
    digest = hashlib.sha256(json.dumps([part_width(table), *names]).encode())
    digest.update(np.ascontiguousarray(part_vectors(table)).tobytes())
    return digest.hexdigest()


def file_sha256(content: bytes) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def is_finished(folder: str | Path) -> bool:
    """Whether ``folder`` holds embeddings that were written to the end; no part is read."""
    return (Path(folder) / MANIFEST_NAME).is_file()


@dataclass(frozen=True)
class EmbeddingParts:
    """The embeddings of one stream in a folder; vectors are read when they are asked for."""

    folder: Path
    fingerprint: str
    dtype: Dtype
    total: int
    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return self.total

    @property
    def width(self) -> int:
        """D, the number of components of a vector."""
        return self.parts[0].width

    @property
    def metadata(self) -> dict[str, str]:
        """Free text as an ``Embeddings`` object carries it."""
        return {"fingerprint": self.fingerprint, "dtype": self.dtype}

    @property
    def keys(self) -> list[str]:
        """The items' keys in stream order."""
        return self._names[0]

    @property
    def labels(self) -> list[str]:
        """The items' class names in stream order."""
        return self._names[1]

    @property
    def instances(self) -> list[str]:
        """The objects that the items show, in stream order; "" = not known."""
        return self._names[2]

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Vectors of ``rows`` (int64 [n], any order, also repeated), float32 [n, D].

        Only the parts that hold them are read, one at a time.

        Raises ``EvaluationError`` for a row that is not there, or a part that is missing or does
        not have its hash.
        """
        asked = np.asarray(rows, dtype=np.int64).reshape(-1)
        outside = asked[(asked < 0) | (asked >= self.total)]
        if len(outside):
            raise EvaluationError(f"{self.folder}: has rows 0 to {self.total - 1}, no {outside[0]}")
        found = np.empty((len(asked), self.width), dtype=np.float32)
        firsts = np.array([part.first for part in self.parts])
        holder = firsts.searchsorted(asked, side="right") - 1
        for number in np.unique(holder):
            part, here = self.parts[number], np.flatnonzero(holder == number)
            found[here] = self._read(part)[asked[here] - part.first]
        return found

    def read(self) -> Embeddings:
        """Everything in memory; NaN and Inf are let through. Raises as :meth:`vectors`."""
        vectors = self.vectors(np.arange(self.total))
        return Embeddings(self.keys, self.labels, vectors, self.metadata, self.instances)

    def require_complete(self) -> None:
        """Raise ``EvaluationError`` unless the parts hold every row once, in one width."""
        expected = 0
        for part in self.parts:
            if part.first != expected:
                what = "missing" if part.first > expected else "there twice"
                low, high = sorted((part.first, expected))
                raise EvaluationError(
                    f"{self.folder}: rows {low} to {high - 1} are {what}, see {part.file}; {REMEDY}"
                )
            if part.width != self.width:
                raise EvaluationError(
                    f"{self.folder}: embeddings of two widths, {self.width} in "
                    f"{self.parts[0].file} and {part.width} in {part.file}; write all with one "
                    "network"
                )
            expected += part.rows
        if expected != self.total:
            raise EvaluationError(
                f"{self.folder}: rows {expected} to {self.total - 1} are missing; {REMEDY}"
            )

    def to_json(self) -> dict[str, Any]:
        """The manifest: fingerprint, width, dtype, rows, and the parts with their hashes."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "width": self.width,
            "dtype": self.dtype,
            "rows": self.total,
            "parts": [asdict(part) for part in self.parts],
        }

    @cached_property
    def _names(self) -> tuple[list[str], list[str], list[str]]:
        """Keys, labels and instances. Only these columns are read, with their page checksums."""
        keys: list[str] = []
        labels: list[str] = []
        instances: list[str] = []
        for part in self.parts:
            path = self.folder / part.file
            if not path.is_file():
                raise EvaluationError(f"{path}: no such file; {REMEDY}")
            try:
                table = part_table(path, columns=[*_NAMES, INSTANCE])  # what there is of them
                position = table.column("position").to_numpy()
                expected = np.arange(part.first, part.first + part.rows)
                whole = (
                    part_metadata(table)["fingerprint"] == self.fingerprint
                    and np.array_equal(position, expected)
                    and not table.column("key").null_count
                    and not table.column("label").null_count
                )
            except DAMAGED:
                whole = False
            if not whole:
                raise self._altered(part)
            keys += table.column("key").to_pylist()
            labels += map(in_one_form, table.column("label").to_pylist())
            named = INSTANCE in table.column_names
            said = table.column(INSTANCE).to_pylist() if named else [""] * part.rows
            instances += [in_one_form(name or "") for name in said]
        seen: dict[str, int] = {}
        for row, key in enumerate(keys):
            if seen.setdefault(key, row) != row:
                raise EvaluationError(
                    f"{self.folder}: duplicate key {key!r} in rows {seen[key]} and {row}; write "
                    "each item exactly once"
                )
        return keys, labels, instances

    def _read(self, part: Part) -> np.ndarray:
        """The vectors of one part, [rows, D], once its file has its hash."""
        path = self.folder / part.file
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise EvaluationError(f"{path}: no such file; {REMEDY}") from None
        if file_sha256(content) != part.sha256:
            raise self._altered(part)
        return part_vectors(part_table(content, columns=["embedding"]))

    def _altered(self, part: Part) -> EvaluationError:
        return EvaluationError(
            f"{self.folder / part.file}: torn or altered, it is not the file that "
            f"{MANIFEST_NAME} names; {REMEDY}"
        )


def open_parts(folder: str | Path) -> EmbeddingParts:
    """The finished embeddings in ``folder``; no part is read yet.

    Raises ``EvaluationError``: no such folder, not finished, or a manifest that is not whole.
    """
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["dtype"] not in get_args(Dtype):
            raise ValueError("another format")
        parts = tuple(Part(**part) for part in content["parts"])
        found = EmbeddingParts(
            folder, content["fingerprint"], content["dtype"], content["rows"], parts
        )
        found.require_complete()
        return found
    except FileNotFoundError:
        unfinished = any(folder.glob("part-*.parquet"))
        reason = "unfinished" if unfinished else "holds no embeddings"
        raise EvaluationError(f"{folder}: {reason} (no {MANIFEST_NAME}); {REMEDY}") from None
    except EvaluationError:
        raise
    except (ValueError, KeyError, TypeError):
        raise EvaluationError(f"{path}: not a whole manifest of embeddings; {REMEDY}") from None

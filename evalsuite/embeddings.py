"""Embeddings with their keys and labels, in memory and in Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalsuite.atomic import write_atomically

__all__ = [
    "Embeddings",
    "EvaluationError",
    "non_finite_rows",
    "read_embeddings",
    "write_embeddings",
]

COLUMNS = ("key", "label", "embedding")


class EvaluationError(ValueError):
    """Input that cannot be scored; the message names the file or option and the remedy."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """N vectors of width D with a unique key and a class name each.

    ``keys`` and ``labels`` are lists of N strings, ``vectors`` is float32 [N, D] (other numeric
    types are cast), ``metadata`` is free text that travels with the Parquet file. Row order
    matters: it breaks ties between equal distances.

    Raises ``EvaluationError`` for no rows, lengths that differ, duplicate keys, null or
    non-string labels, or vectors that are not [N, D] with D >= 1.
    """

    keys: list[str]
    labels: list[str]
    vectors: np.ndarray
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vectors = _as_float32(self.vectors)
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
        _require_strings("key", keys, keys)
        _require_strings("label", labels, keys)
        _require_unique(keys)
        object.__setattr__(self, "keys", [str(key) for key in keys])
        object.__setattr__(self, "labels", [str(label) for label in labels])
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "metadata", dict(self.metadata))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def width(self) -> int:
        """D, the number of components of a vector."""
        return self.vectors.shape[1]


def non_finite_rows(vectors_ND: np.ndarray) -> np.ndarray:
    """Ascending int64 indices of the rows of [N, D] that hold NaN or an infinity."""
    return np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))


def read_embeddings(
    path: str | Path, *, non_finite: Literal["raise", "keep"] = "raise"
) -> Embeddings:
    """Read columns ``key``, ``label`` and ``embedding`` of a Parquet file, in row order.

    ``embedding`` may be a list, large list, fixed-size list or fixed-shape tensor of any float or
    integer type; the result is float32 [N, D]. ``key`` and ``label`` may be of any type that casts
    to text. ``non_finite="keep"`` lets NaN and Inf rows through, for ``nan_policy="last"``. Of a
    folder of parts (``evalsuite.embedding_parts``) all are read.

    Raises ``EvaluationError`` naming the file, the rows and the remedy: no such file, not Parquet,
    missing column, no rows, two widths, NaN or Inf, null labels, duplicate keys.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, non_finite=non_finite)
    try:
        table = _read_table(path)
        keys = _text_column(table, "key")
        _require_strings("key", keys, keys)
        labels = _text_column(table, "label")
        embeddings = Embeddings(keys, labels, _vectors(table, keys), _metadata(table.schema))
        if non_finite == "raise":
            require_finite(embeddings)
        return embeddings
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from None


def write_embeddings(path: str | Path, embeddings: Embeddings) -> None:
    """Write ``embeddings`` to a Parquet file, atomically, as fixed-size lists of float32."""
    values = pa.array(embeddings.vectors.reshape(-1), type=pa.float32())
    columns = [
        pa.array(embeddings.keys, type=pa.string()),
        pa.array(embeddings.labels, type=pa.string()),
        pa.FixedSizeListArray.from_arrays(values, embeddings.width),
    ]
    table = pa.table(columns, names=list(COLUMNS)).replace_schema_metadata(embeddings.metadata)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def require_finite(embeddings: Embeddings) -> None:
    """Raise ``EvaluationError`` naming the first keys whose vectors hold NaN or Inf."""
    rows = non_finite_rows(embeddings.vectors)
    if len(rows):
        raise EvaluationError(
            f"{len(rows)} rows hold NaN or Inf: {_named(embeddings.keys, rows)}; "
            "fix the network, or pass nan_policy='last' to score them as failures"
        )


def _read_folder(path: Path, *, non_finite: Literal["raise", "keep"]) -> Embeddings:
    from evalsuite.embedding_parts import open_parts  # which needs this file

    embeddings = open_parts(path).read()
    if non_finite == "raise":
        try:
            require_finite(embeddings)
        except EvaluationError as error:
            raise EvaluationError(f"{path}: {error}") from None
    return embeddings


def _read_table(path: Path) -> pa.Table:
    if not path.is_file():
        raise EvaluationError("no such file; extract the embeddings first")
    try:
        names = pq.read_schema(path).names
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise EvaluationError(
                f"column {missing[0]!r} is missing (found: {', '.join(names) or 'none'}); "
                f"the columns must be {', '.join(COLUMNS)}"
            )
        # One file by itself: no dataset discovery, so a folder named label=x adds no column.
        table = pq.ParquetFile(path).read(columns=list(COLUMNS))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(f"not a readable Parquet file ({reason}); write it again") from None
    if table.num_rows == 0:
        raise EvaluationError("no rows; extract at least one embedding")
    return table


def _text_column(table: pa.Table, name: str) -> list[Any]:
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        return column.cast(pa.string()).to_pylist()
    except pa.ArrowException:
        raise EvaluationError(f"column {name!r} is {column.type}; store it as string") from None


def _vectors(table: pa.Table, keys: Sequence[str]) -> np.ndarray:
    column = table.column("embedding").combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    if not is_list or not _is_number(kind.value_type):
        raise EvaluationError(f"column 'embedding' is {kind}; store it as list<float>")
    if array.null_count:
        rows = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
        raise EvaluationError(f"no embedding in rows {_named(keys, rows)}; extract them again")
    widths = pc.list_value_length(array).to_numpy(zero_copy_only=False)  # pyright: ignore
    odd = np.flatnonzero(widths != widths[0])
    if len(odd):
        raise EvaluationError(
            f"embeddings of two widths: {keys[0]!r} has {widths[0]} components, {keys[odd[0]]!r} "
            f"has {widths[odd[0]]}; write all rows with one network"
        )
    values = array.flatten().to_numpy(zero_copy_only=False)  # a null component becomes NaN
    return _as_float32(values).reshape(len(array), int(widths[0]))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _as_float32(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond the float32 range: Inf, found by require_finite
        return np.ascontiguousarray(vectors, dtype=np.float32)


def _metadata(schema: pa.Schema) -> dict[str, str]:
    raw: Mapping[bytes, bytes] = schema.metadata or {}
    skipped = (b"ARROW:schema", b"pandas")
    return {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in raw.items()
        if key not in skipped
    }


def _require_strings(column: str, values: Sequence[Any], keys: Sequence[Any]) -> None:
    bad = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if bad:
        where = f"rows {bad[:5]}" if column == "key" else f"rows {_named(keys, bad)}"
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


def _named(keys: Sequence[Any], rows: Sequence[int] | np.ndarray) -> str:
    names = ", ".join(repr(keys[row]) for row in rows[:5])
    return names + (", ..." if len(rows) > 5 else "")

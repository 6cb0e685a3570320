"""Reading embeddings: from one Parquet file, or from a folder of parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalsuite.vectors.embedding_parts import open_parts
from evalsuite.vectors.embeddings import (
    COLUMNS,
    Embeddings,
    EvaluationError,
    as_float32,
    named,
    require_finite,
    require_strings,
)


def read_embeddings(
    path: str | Path, *, non_finite: Literal["raise", "keep"] = "raise"
) -> Embeddings:
    """Read columns ``key``, ``label`` and ``embedding`` of a Parquet file, in row order.

    ``embedding`` may be a list, large list, fixed-size list or fixed-shape tensor of any float or
    integer type; the result is float32 [N, D]. ``key`` and ``label`` may be of any type that casts
    to text. ``non_finite="keep"`` lets NaN and Inf rows through, for ``nan_policy="last"``. Of a
    folder of parts (``evalsuite.vectors.embedding_parts``) all are read.

    Raises ``EvaluationError`` naming the file, the rows and the remedy: no such file, not Parquet,
    missing column, no rows, two widths, NaN or Inf, null labels, duplicate keys.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, non_finite=non_finite)
    try:
        table = _read_table(path)
        keys = _text_column(table, "key")
        require_strings("key", keys, keys)
        labels = _text_column(table, "label")
        embeddings = Embeddings(keys, labels, _vectors(table, keys), _metadata(table.schema))
        if non_finite == "raise":
            require_finite(embeddings)
        return embeddings
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from None


def _read_folder(path: Path, *, non_finite: Literal["raise", "keep"]) -> Embeddings:
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
        raise EvaluationError(f"no embedding in rows {named(keys, rows)}; extract them again")
    widths = pc.list_value_length(array).to_numpy(zero_copy_only=False)  # pyright: ignore
    odd = np.flatnonzero(widths != widths[0])
    if len(odd):
        raise EvaluationError(
            f"embeddings of two widths: {keys[0]!r} has {widths[0]} components, {keys[odd[0]]!r} "
            f"has {widths[odd[0]]}; write all rows with one network"
        )
    values = array.flatten().to_numpy(zero_copy_only=False)  # a null component becomes NaN
    return as_float32(values).reshape(len(array), int(widths[0]))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _metadata(schema: pa.Schema) -> dict[str, str]:
    raw: Mapping[bytes, bytes] = schema.metadata or {}
    skipped = (b"ARROW:schema", b"pandas")
    return {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in raw.items()
        if key not in skipped
    }

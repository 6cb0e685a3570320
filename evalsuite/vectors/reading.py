"""Reading embeddings: from one Parquet file, or from a folder of parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalsuite.vectors.embedding_parts import is_finished, is_part_name, open_parts
from evalsuite.vectors.embeddings import (
    COLUMNS,
    INSTANCE,
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
    to text, and so may ``instance``, which a file may have: null says that it is not known.
    ``non_finite="keep"`` lets NaN and Inf rows through, for ``nan_policy="last"``. Of a
    folder of parts (``evalsuite.vectors.embedding_parts``) all are read, and so are the Parquet
    files that another program put into a folder, in the order of their names.

    Raises ``EvaluationError`` naming the file, the rows and the remedy: no such file, not Parquet,
    missing column, no rows, two widths, NaN or Inf, null labels, duplicate keys.
    """
    path = Path(path)
    others = _foreign_parts(path) if path.is_dir() else []
    if path.is_dir() and not others:
        embeddings = open_parts(path).read()
    elif others:
        embeddings = _joined(path, [_named(file, _read_file) for file in others])
    else:
        embeddings = _named(path, _read_file)
    if embeddings is None:
        raise EvaluationError(f"{path}: no rows; extract at least one embedding")
    if non_finite == "raise":
        try:
            require_finite(embeddings)
        except EvaluationError as error:
            raise EvaluationError(f"{path}: {error}") from None
    return embeddings


def _named(path: Path, read: Callable[[Path], Embeddings | None]) -> Embeddings | None:
    """What ``read`` gives; its errors get the file's name in front."""
    try:
        return read(path)
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from None


def _read_file(path: Path) -> Embeddings | None:
    """The rows of one file; None if it has none."""
    table = _read_table(path)
    if not table.num_rows:
        return None
    keys = _text_column(table, "key")
    require_strings("key", keys, keys)
    labels = _text_column(table, "label")
    known = INSTANCE in table.column_names
    instances = [name or "" for name in _text_column(table, INSTANCE)] if known else []
    return Embeddings(keys, labels, _vectors(table, keys), _metadata(table.schema), instances)


def _foreign_parts(folder: Path) -> list[Path]:
    """The Parquet files of a folder that another program wrote, as Spark, Dask and Ray Data do."""
    if is_finished(folder):
        return []
    files = sorted(path for path in folder.glob("*.parquet") if path.name[0] not in "._")
    return [] if any(is_part_name(path.name) for path in files) else files


def _joined(folder: Path, parts: Sequence[Embeddings | None]) -> Embeddings | None:
    """The rows of all files that have some."""
    held = [part for part in parts if part is not None]
    if not held:
        return None
    widths = sorted({part.width for part in held})
    if len(widths) > 1:
        raise EvaluationError(
            f"{folder}: embeddings of two widths, {widths[0]} and {widths[1]}; write all files "
            "with one network"
        )
    try:
        return Embeddings(
            [key for part in held for key in part.keys],
            [label for part in held for label in part.labels],
            np.concatenate([part.vectors for part in held]),
            held[0].metadata,
            [name for part in held for name in part.instances],
        )
    except EvaluationError as error:
        raise EvaluationError(f"{folder}: {error}") from None


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
        columns = [name for name in (*COLUMNS, INSTANCE) if name in names]
        table = pq.ParquetFile(path).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(f"not a readable Parquet file ({reason}); write it again") from None
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

"""Rows of a ledger as a flat table in a file: CSV, Parquet or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.ledger.rows import Row
from cluster.ledger.store import Ledger
from dataio.names import nearest
from evalsuite.atomic import write_atomically
from trainer.config import ConfigError

SECTIONS = ("cell", "selected", "metrics", "low", "high", "oracle", "seconds")
ORDER = (
    *("key", "status", "written", "sweep", "method", "dataset", "seed"),
    *SECTIONS,
    *("selection", "steps", "world_size", "images_per_second", "cpu_seconds", "gpu_seconds"),
    *("attempts", "error", "identity", "fingerprint", "code", "host", "run"),
)
Table = dict[str, list[Any]]


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row as columns: ``cell.*``, ``selected.*``, ``metrics.*``, ``oracle.*``, ``low.*`` and
    ``high.*`` of the intervals, ``seconds.*``, and the plain values. The configuration and the
    learning curve are left out.
    """
    oracle = dict(row.get("oracle") or {})
    bounds = {name: pair for name, pair in (row.get("intervals") or {}).items() if pair}
    parts = {
        **row,
        "oracle": {**(oracle.pop("metrics", None) or {}), **oracle},
        "low": {name: low for name, (low, _) in bounds.items()},
        "high": {name: high for name, (_, high) in bounds.items()},
    }
    columns = {}
    for name in ORDER:
        if name in SECTIONS:
            columns |= {f"{name}.{key}": value for key, value in (parts.get(name) or {}).items()}
        elif name in row:
            columns[name] = row[name]
    return columns


def export_rows(ledger: Ledger, rows: Sequence[Row], to: Path) -> int:
    """Write the rows into ``to``, by its ending, whole or not at all; returns how many columns.

    The table has every column that some row has; the others have an empty value there. A column
    that holds both text and numbers becomes text.

    Raises:
        ConfigError: the ending is unknown, or ``to`` is a file of the ledger.
        OSError: the file cannot be written.
    """
    write = WRITERS.get(to.suffix)
    if write is None:
        raise ConfigError(f"--to {to}: unknown ending '{to.suffix}'{nearest(to.suffix, WRITERS)}")
    if to.resolve() == ledger.old_file.resolve() or to.resolve().parent == ledger.path.resolve():
        raise ConfigError(f"--to {to}: is the ledger itself; give another file")
    table = _columns([flat(row) for row in rows])
    write_atomically(to, lambda temporary: write(table, temporary))
    return len(table)


def _columns(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows may differ in their columns; the columns of a section stand together."""
    names = dict.fromkeys(name for row in rows for name in row)
    order = sorted(names, key=lambda name: ORDER.index(name.partition(".")[0]))  # stable
    return {name: _of_one_kind([row.get(name) for row in rows]) for name in order}


def _of_one_kind(values: list[Any]) -> list[Any]:
    """The values of a column in one type; other types and mixtures become text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 and kinds <= {bool, int, float, str}:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]


def _write_csv(table: Table, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def _write_lines(table: Table, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for values in zip(*table.values(), strict=True):
            file.write(json.dumps(dict(zip(table, values, strict=True))) + "\n")


def _write_parquet(table: Table, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(table), path)


WRITERS: dict[str, Callable[[Table, Path], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".jsonl": _write_lines,
}

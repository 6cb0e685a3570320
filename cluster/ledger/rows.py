"""Rows of a ledger: what one is, reading the lines of a file, and which row of a cell counts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import ConfigError

FORMAT = 1
STATUSES = ("failed", "stopped", "finished")  # each counts more than those before it
KEY = re.compile(r"[0-9a-f]{16}")

Row = dict[str, Any]


@dataclass(frozen=True)
class Lines:
    """The lines of a ledger: whole rows with their lines, how many are torn, and the last one."""

    rows: list[Row]
    raw: list[bytes]
    torn: int
    ends_torn: bool


def parse_lines(
    data: bytes, path: Path, *, keep: Callable[[Row], bool] = lambda row: True
) -> Lines:
    """Rows of a ledger's bytes, oldest first; a line that is no JSON is a torn one.

    Args:
        path: for error messages.
        keep: rows that it denies are left out.

    Raises:
        ConfigError: a line is whole but no row, naming file and line.
    """
    rows, raw, torn, ends_torn = [], [], 0, False
    for number, line in enumerate(data.split(b"\n"), start=1):
        ends_torn = False
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            torn, ends_torn = torn + 1, True
            continue
        require_row(row, f"{path}:{number}")
        if keep(row):
            rows.append(row)
            raw.append(line)
    return Lines(rows, raw, torn, ends_torn)


def require_row(row: object, where: str) -> None:
    """Check what every row has: format, key, status and cell.

    Raises:
        ConfigError: one is missing or wrong, or the row was made by a newer program.
    """
    written = row.get("format") if isinstance(row, dict) else None
    if isinstance(row, dict) and isinstance(written, int) and written > FORMAT:
        raise ConfigError(
            f"{where}: made by a newer img2shape (format {written}, this one reads {FORMAT}); "
            "update img2shape or use another store"
        )
    reason = _fault(row)
    if reason:
        raise ConfigError(f"{where}: not a row of a ledger ({reason}); mend or remove it")


def _fault(row: object) -> str | None:
    if not isinstance(row, dict):
        return f"expected an object, found {type(row).__name__}"
    if row.get("format") != FORMAT:
        return f"format is {row.get('format')!r}, not {FORMAT}"
    if not isinstance(row.get("key"), str) or not KEY.fullmatch(row["key"]):
        return f"key is {row.get('key')!r}, not 16 hex digits"
    if row.get("status") not in STATUSES:
        return f"status is {row.get('status')!r}, not {', '.join(STATUSES)}"
    if not isinstance(row.get("cell", {}), dict):
        return f"cell is {row.get('cell')!r}, not an object"
    return None


def newest_rows(rows: Iterable[Row]) -> dict[str, Row]:
    """For each cell the row that counts: finished before stopped before failed, then the newest.

    Cells are in the order of their first rows; of rows written in the same second the later counts.
    """
    found: dict[str, Row] = {}
    for row in rows:
        held = found.get(row["key"])
        if held is None or _rank(row) >= _rank(held):
            found[row["key"]] = row
    return found


def _rank(row: Mapping[str, Any]) -> tuple[int, str]:
    return STATUSES.index(row["status"]), str(row.get("written", ""))

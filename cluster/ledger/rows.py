"""Rows of a ledger: what one is, reading the lines of a file, and which row of a cell counts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config import ConfigError

FORMAT = 1
STATUSES = ("failed", "stopped", "finished")  # each counts more than those before it
KEY = re.compile(r"[0-9a-f]{16}")

Row = dict[str, Any]


def parse_rows(data: bytes, path: Path) -> tuple[list[Row], int]:
    """The rows of a file, a JSON object a line, and how many lines are not JSON.

    Args:
        path: for error messages.

    Raises:
        ConfigError: a line is JSON but not a row; the message names file and line.
    """
    rows, unfinished = [], 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            unfinished += 1
            continue
        require_row(row, f"{path}:{number}")
        rows.append(row)
    return rows, unfinished


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
        raise ConfigError(f"{where}: not a row of a ledger ({reason}); correct or remove it")


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


def current_row(rows: Sequence[Row]) -> Row | None:
    """The row of a cell that counts: finished before stopped before failed, then the newest.

    Of rows written in the same second the later one counts. None for a cell without rows.
    """
    return sorted(rows, key=_rank)[-1] if rows else None


def _rank(row: Mapping[str, Any]) -> tuple[int, str]:
    return STATUSES.index(row["status"]), str(row.get("written", ""))

"""A folder's stamp: a small JSON file that says what was made there, and whether it is complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dataio.atomic import write_whole
from dataio.records import DataError


def read_stamp(file: Path) -> dict[str, Any] | None:
    """What `write_stamp` wrote; None if there is no file, DataError if it is another's."""
    try:
        stamp = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(stamp, dict) or "complete" not in stamp:
            raise ValueError("not a stamp")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(
            f"procedural: {str(file)!r} is not readable ({error}); delete the folder"
        ) from error
    return stamp


def write_stamp(file: Path, key: dict[str, Any], *, complete: bool) -> None:
    """Write the stamp in one step."""
    write_whole(file, json.dumps({**key, "complete": complete}).encode())

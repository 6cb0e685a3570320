"""Step records, such as ``log.jsonl``, and JSON files of a run that are written whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataio.atomic import write_whole
from evalsuite.run_records import read_records


class StepLog:
    """One JSON object with a ``step`` a line, flushed at once: ``log.jsonl``, ``validation.jsonl``.

    Opening for a resumed run drops the lines at and after ``from_step``, which will be written
    again, and a line that a crash cut short.
    """

    def __init__(self, path: Path, *, from_step: int) -> None:
        drop_records(path, from_step=from_step)
        self._path, self._file = path, path.open("a")

    def write(self, record: Mapping[str, Any]) -> None:
        with naming(self._path):
            self._file.write(json.dumps(finite_json(record)) + "\n")
            self._file.flush()

    def close(self) -> None:
        with naming(self._path):  # writes again what a full disk refused
            self._file.close()


def drop_records(path: Path, *, from_step: int) -> None:
    """Remove the lines of a :class:`StepLog` at and after ``from_step``, and damaged ones."""
    kept = [r for r in read_records(path, skip_damaged=True) if r["step"] < from_step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def finite_json(value: Any) -> Any:
    """``value`` with NaN and infinities as null, since JSON has neither."""
    if isinstance(value, dict):
        return {k: finite_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """:func:`write_text` of ``value`` as JSON."""
    write_text(path, json.dumps(finite_json(value), indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, fsync, rename: the file is whole or absent.

    Raises:
        OSError: naming ``path``.
    """
    write_whole(path, text.encode())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add ``path`` to an OSError in the block: that of a full disk names no file."""
    try:
        yield
    except OSError as err:
        raise OSError(err.errno, err.strerror or str(err), str(path)) from err

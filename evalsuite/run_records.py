"""The records of a run, one JSON object a line: ``log.jsonl``, ``validation.jsonl`` and
``attempts.jsonl``."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from evalsuite.vectors import EvaluationError

logger = logging.getLogger(__name__)
Record = dict[str, Any]


def read_records(path: Path, *, skip_damaged: bool = False) -> list[Record]:
    """All records of a file, oldest first; none where there is no such file.

    A torn last line is left out: its writer was killed, or is writing it now.

    Args:
        skip_damaged: leave out other lines too that are not a JSON object.

    Raises:
        EvaluationError: a line before the last is not a JSON object.
        OSError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    records = []
    for number, line in enumerate(lines, start=1):
        record = _parsed(line)
        if record is not None:
            records.append(record)
        elif number == len(lines):
            logger.debug("%s: the last line is cut short and left out", path)
        elif line.strip() and not skip_damaged:
            raise EvaluationError(
                f"{path}: record {number} is not JSON; remove the line or train again"
            )
    return records


class NewRecords:
    """The records that a growing file gets, each step once.

    The file may be replaced as a whole: a run that continues writes the last steps again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._inode, self._offset = path, -1, 0
        self.step = -1  # the last one seen

    def read(self) -> list[Record]:
        """Whole records whose step was not seen yet."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            facts = os.fstat(file.fileno())
            if facts.st_ino != self._inode or facts.st_size < self._offset:
                self._inode, self._offset = facts.st_ino, 0
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        records = [json.loads(line) for line in whole.splitlines()]
        found = [record for record in records if record["step"] > self.step]
        self.step = max([self.step, *(record["step"] for record in found)])
        return found


def _parsed(line: bytes) -> Record | None:
    """None where the line is not a whole JSON object."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None

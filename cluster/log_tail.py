"""Reading a run's JSON lines while the run writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class LogTail:
    """New lines of a file that grows, or that a restarted run replaces; each step comes once."""

    def __init__(self, path: Path) -> None:
        self._path, self._inode, self._offset = path, -1, 0
        self.step = -1  # the last one seen

    def news(self) -> list[dict[str, Any]]:
        """Whole lines whose steps were not seen yet."""
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

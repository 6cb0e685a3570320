"""The ledger of a store of sweeps: one file for each cell that finished, failed or was stopped.

A store is a folder with ``ledger/<key>.jsonl``, the rows of one cell, and the run folders
``cells/<name>``. A cell that failed and was tried again has several rows: a JSON object a line, the
oldest first. Writers take turns by the lock ``ledger.lock`` and replace a cell's file as a whole,
so that readers need no lock and a writer that is killed leaves the old file.

Earlier versions kept the rows of all cells in one file ``ledger.jsonl``. Its rows are read as the
oldest ones of their cells; :func:`cluster.ledger.cleaning.clean` moves them into the cells' files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from cluster.ledger.rows import FORMAT, KEY, Row, current_row, parse_rows, require_row
from cluster.terminal import say
from dataio.atomic import write_whole
from trainer.config import ConfigError
from trainer.runs import finite_json, naming

NAME = "ledger"
ENDING = ".jsonl"


@dataclass(frozen=True)
class Conflict:
    """A finished cell whose scores differ in two ledgers; the first one's stand.

    Attributes:
        metrics: by name the value here and the value there, None where there is none.
    """

    key: str
    source: Path
    metrics: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Merged:
    """What a merge did: rows taken over, rows that were here already, and disagreements."""

    added: int
    known: int
    conflicts: list[Conflict]


class Ledger:
    """The ledger in the folder ``path``, which the first row makes.

    Attributes:
        unfinished: files with lines that are not JSON, and how many.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unfinished: dict[Path, int] = {}

    @property
    def store(self) -> Path:
        """The folder that the rows' ``run`` is relative to."""
        return self.path.parent

    @property
    def old_file(self) -> Path:
        """Where earlier versions kept the rows of all cells."""
        return self.path.with_name(f"{self.path.name}{ENDING}")

    def run_folder(self, row: Mapping[str, Any]) -> Path | None:
        """Where the run of a row lies, None for a row without one."""
        return self.store / row["run"] if row.get("run") else None

    def append(self, row: Mapping[str, Any]) -> bool:
        """Add a row; it is on disk when this returns.

        ``format`` and ``written`` (UTC) are filled in where they are missing. Returns False, and
        adds nothing, for a finished row of a cell that is finished already: the first one stands.

        Raises:
            ConfigError: ``row`` is not a row, or the cell's file is damaged.
            OSError: the disk is full or the folder cannot be written.
        """
        whole = {"format": FORMAT, **row}
        whole.setdefault("written", datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"))
        require_row(whole, "the new row")
        with self.writing():
            rows = self._rows_of(whole["key"])
            if whole["status"] == "finished" and _finished(rows) is not None:
                return False
            self.write(whole["key"], [*rows, whole])
            return True

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Nobody else changes the ledger during the block."""
        with naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        # Group and others may write: the members of a team share a store.
        with FileLock(self.path.with_name(f"{self.path.name}.lock"), mode=0o666):
            yield

    def write(self, key: str, rows: Sequence[Row]) -> None:
        """Make ``rows`` the rows of a cell; call it inside :meth:`writing`."""
        if not rows:
            self._file(key).unlink(missing_ok=True)
            return
        data = "".join(f"{json.dumps(finite_json(row))}\n" for row in rows)
        write_whole(self._file(key), data.encode())

    def cells(self) -> dict[str, list[Row]]:
        """The rows of each cell by its key, oldest first; cells in the order of their first rows.

        Lines that are not JSON are left out, and told once for each file on standard error.

        Raises:
            ConfigError: a line is JSON but not a row; the message names file and line.
        """
        found: dict[str, list[Row]] = {}
        for row in self._read(self.old_file):
            found.setdefault(row["key"], []).append(row)
        for path in sorted(self.path.glob(f"*{ENDING}")):
            if KEY.fullmatch(path.stem):
                found[path.stem] = _joined(found.get(path.stem, []), self._read(path))
        first = {key: (str(rows[0].get("written", "")), key) for key, rows in found.items() if rows}
        return {key: found[key] for key in sorted(first, key=lambda key: first[key])}

    def rows(self) -> list[Row]:
        """The rows of all cells; none where there is no ledger. Errors as of :meth:`cells`."""
        return [row for rows in self.cells().values() for row in rows]

    def current(self) -> dict[str, Row]:
        """For each cell the row that counts: finished before stopped before failed, then newest."""
        return {key: row for key, rows in self.cells().items() if (row := current_row(rows))}

    def current_of(self, key: str) -> Row | None:
        """The row of one cell that counts, None where the cell has no row."""
        return current_row(self._rows_of(key))

    def find(self, prefix: str) -> Row:
        """The current row of the cell whose key begins with ``prefix``.

        Raises:
            ConfigError: there is none, or more than one.
        """
        found = [row for key, row in self.current().items() if key.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise ConfigError(
                f"{self.path}: no cell's key begins with '{prefix}'; "
                "`img2shape ledger ls` lists them"
            )
        keys = ", ".join(row["key"] for row in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ConfigError(f"{self.path}: '{prefix}' begins several keys: {keys}{more}; give more")

    def merge(self, others: Sequence[Path]) -> Merged:
        """Take over the rows of other ledgers that are missing here.

        Run folders are not copied: ``run`` becomes a path into the other store. Nothing is taken
        over for a cell that is finished here; where its scores differ, that is a conflict.

        Args:
            others: what :func:`ledger_of` takes.

        Raises:
            ConfigError: there is no ledger, or it is damaged.
        """
        read = [(other, other.rows()) for other in map(ledger_of, others)]
        added: list[str] = []
        known, conflicts = 0, []
        with self.writing():
            mine = self.cells()
            for other, rows in read:
                for row in rows:
                    here = mine.setdefault(row["key"], [])
                    first = _finished(here)
                    if first is not None or _same(row) in map(_same, here):
                        known += 1
                        conflicts += _conflict(first, row, source=other.path)
                    else:
                        here.append({**row, "run": self._reachable(other.run_folder(row))})
                        added.append(row["key"])
            for key in dict.fromkeys(added):
                self.write(key, mine[key])
        return Merged(len(added), known, conflicts)

    def _reachable(self, folder: Path | None) -> str | None:
        """How ``run`` of this ledger names a folder of another store."""
        if folder is None:
            return None
        folder, store = folder.resolve(), self.store.resolve()
        return str(folder.relative_to(store) if folder.is_relative_to(store) else folder)

    def _file(self, key: str) -> Path:
        return self.path / f"{key}{ENDING}"

    def _rows_of(self, key: str) -> list[Row]:
        old = [row for row in self._read(self.old_file) if row["key"] == key]
        return _joined(old, self._read(self._file(key)))

    def _read(self, path: Path) -> list[Row]:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        rows, unfinished = parse_rows(data, path)
        if unfinished and path not in self.unfinished:
            lines = "a line" if unfinished == 1 else f"{unfinished} lines"
            say(f"{path}: passed over {lines} that a killed writer left unfinished")
            self.unfinished[path] = unfinished
        return rows


def ledger_at(path: Path) -> Ledger:
    """The ledger of the store ``path``, or the one that the old file ``path`` belongs to."""
    if path.suffix == ENDING and not path.is_dir():
        return Ledger(path.with_suffix(""))
    return Ledger(path / NAME)


def ledger_of(path: Path) -> Ledger:
    """As :func:`ledger_at`, for a ledger that is there.

    Raises:
        ConfigError: there is none.
    """
    ledger = ledger_at(path)
    if not (ledger.path.is_dir() or ledger.old_file.is_file()):
        raise ConfigError(f"{ledger.path}: no ledger there; `img2shape sweep` makes one")
    return ledger


def _joined(old: Sequence[Row], own: Sequence[Row]) -> list[Row]:
    """Rows of the old file before those of the cell's own, which may repeat them."""
    return [*(row for row in old if row not in own), *own]


def _finished(rows: Sequence[Row]) -> Row | None:
    """The first finished row of a cell."""
    return next((row for row in rows if row["status"] == "finished"), None)


def _same(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Rows with the same value tell of the same end of the same cell."""
    if row["status"] == "finished":
        return (row["key"], "finished")
    return (row["key"], row["status"], row.get("written"), row.get("host"))


def _conflict(mine: Row | None, row: Row, *, source: Path) -> list[Conflict]:
    if mine is None or row["status"] != "finished":
        return []
    first, second = mine.get("metrics") or {}, row.get("metrics") or {}
    differing = {
        name: (first.get(name), second.get(name))
        for name in dict.fromkeys((*first, *second))
        if first.get(name) != second.get(name)
    }
    return [Conflict(row["key"], source, differing)] if differing else []

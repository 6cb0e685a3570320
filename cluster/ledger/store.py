"""The ledger of a store of sweeps: one row for each finished, failed or stopped cell.

A store is a folder with ``ledger.jsonl`` (a JSON object a line, only ever appended to) and the run
folders ``cells/<name>``. Many processes may write: each row is one ``write`` under a lock on
``ledger.jsonl.lock``, flushed to disk before the lock is given back. A writer that is killed inside
its ``write`` leaves a torn last line; the next writer ends it, and readers pass over it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cluster.ledger.rows import FORMAT, Lines, Row, newest_rows, parse_lines, require_row
from cluster.terminal import say
from dataio.file_locks import locked
from trainer.config import ConfigError
from trainer.runs import finite_json, naming

NAME = "ledger.jsonl"
ENDING_BYTES = 64  # of what was read, to know the file again


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


@dataclass
class _Seen:
    """Which cells are finished, by the first ``offset`` bytes of the file ``inode``."""

    inode: int = -1
    offset: int = 0
    ending: bytes = b""
    finished: set[str] = field(default_factory=set)


class Ledger:
    """The ledger in the file ``path``; its folder is made by the first row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = _Seen()
        self._told = 0  # torn lines

    @property
    def lock(self) -> Path:
        """Held by whoever changes the ledger; the file stays."""
        return self.path.with_name(f"{self.path.name}.lock")

    @property
    def store(self) -> Path:
        """The folder that the rows' ``run`` is relative to."""
        return self.path.parent

    def run_folder(self, row: Mapping[str, Any]) -> Path | None:
        """Where the run of a row lies, None for a row without one."""
        return self.store / row["run"] if row.get("run") else None

    def append(self, row: Mapping[str, Any]) -> bool:
        """Add a row; it is on disk when this returns.

        ``format`` and ``written`` (UTC) are filled in where they are missing. Returns False, and
        adds nothing, for a finished row of a cell that is finished already: the first one stands.

        Raises:
            ConfigError: ``row`` is not a row, or the ledger is damaged.
            OSError: the disk is full or the folder cannot be written.
        """
        whole = {"format": FORMAT, **row}
        whole.setdefault("written", datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"))
        require_row(whole, "the new row")
        with self.writing() as add:
            if whole["status"] == "finished" and whole["key"] in self._finished():
                return False
            add([whole])
            return True

    @contextmanager
    def writing(self) -> Iterator[Callable[[Sequence[Row]], None]]:
        """Nobody else changes the ledger during the block; gives the call that appends rows."""
        with naming(self.path):
            self.store.mkdir(parents=True, exist_ok=True)
        with locked(self.lock):
            yield self._write

    def rows(self) -> list[Row]:
        """All whole rows, oldest first; none where there is no ledger.

        Torn lines are left out, and told once in a line on standard error.

        Raises:
            ConfigError: a whole line is no row, naming file and line.
        """
        found = self.read_lines()
        if found.ends_torn:  # perhaps a write that is going on
            with suppress(OSError), locked(self.lock):  # a store may be read-only
                found = self.read_lines()
        if found.torn > self._told:
            self._told = found.torn
            lines = "a line" if found.torn == 1 else f"{found.torn} lines"
            say(f"{self.path}: passed over {lines} that a killed writer left unfinished")
        return found.rows

    def current(self) -> dict[str, Row]:
        """For each cell the row that counts: finished before stopped before failed, then newest."""
        return newest_rows(self.rows())

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
        """Take over the rows of other ledgers (files or stores) that are missing here.

        Run folders are not copied: ``run`` becomes a path into the other store. Nothing is taken
        over for a cell that is finished here; where its scores differ, that is a conflict.

        Raises:
            ConfigError: there is no ledger, or it is damaged.
        """
        read = [(other, other.rows()) for other in map(ledger_of, others)]
        added, known, conflicts = 0, 0, []
        with self.writing() as add:
            mine = self.read_lines().rows
            finished = {row["key"]: row for row in reversed(mine) if row["status"] == "finished"}
            there = {_same(row) for row in mine}
            for other, rows in read:
                new = []
                for row in rows:
                    key, first = row["key"], finished.get(row["key"])
                    if first is not None or _same(row) in there:
                        known += 1
                        conflicts += _conflict(first, row, source=other.path)
                        continue
                    row = {**row, "run": self._reachable(other.run_folder(row))}
                    there.add(_same(row))
                    if row["status"] == "finished":
                        finished[key] = row
                    new.append(row)
                add(new)
                added += len(new)
        return Merged(added, known, conflicts)

    def _reachable(self, folder: Path | None) -> str | None:
        """How ``run`` of this ledger names a folder of another store."""
        if folder is None:
            return None
        folder, store = folder.resolve(), self.store.resolve()
        return str(folder.relative_to(store) if folder.is_relative_to(store) else folder)

    def _write(self, rows: Sequence[Row]) -> None:
        """Append ``rows`` under the lock: all at once, whole on disk or not at all."""
        if not rows:
            return
        data = "".join(f"{json.dumps(finite_json(row))}\n" for row in rows).encode()
        with naming(self.path):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                size = os.fstat(file).st_size
                if size and os.pread(file, 1, size - 1) != b"\n":
                    data = b"\n" + data  # heals a torn line, or ends one that lacks only this
                try:
                    _write_all(file, data)
                    os.fsync(file)
                except OSError:
                    os.ftruncate(file, size)  # a full disk: no part of a row stays
                    raise
            finally:
                os.close(file)

    def _finished(self) -> set[str]:
        """Keys of the finished cells; only what was appended since the last call is read."""
        seen = self._seen
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return set()
        with file:
            inode = os.fstat(file.fileno()).st_ino
            file.seek(seen.offset - len(seen.ending))
            if inode != seen.inode or file.read(len(seen.ending)) != seen.ending:
                seen = self._seen = _Seen(inode)  # another file, or another content
                file.seek(0)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # a torn end is read again once it is healed
        try:
            found = parse_lines(data, self.path, keep=lambda row: row["status"] == "finished")
        except ConfigError:
            self.read_lines()  # raises with the right number of the line
            raise
        seen.finished |= {row["key"] for row in found.rows}
        seen.offset += len(whole)
        seen.ending = (seen.ending + whole)[-ENDING_BYTES:]
        return seen.finished

    def read_lines(self) -> Lines:
        """The file as it is now, without waiting for a write that is going on."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            data = b""
        return parse_lines(data, self.path)


def ledger_of(path: Path) -> Ledger:
    """The ledger that ``path`` is, or that the store ``path`` holds.

    Raises:
        ConfigError: there is none.
    """
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{file}: no ledger there; `img2shape sweep` makes one")
    return Ledger(file)


def _write_all(file: int, data: bytes) -> None:
    while data:  # a write is cut short only where the disk gets full
        data = data[os.write(file, data) :]


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
        for name in (*first, *(n for n in second if n not in first))
        if first.get(name) != second.get(name)
    }
    return [Conflict(row["key"], source, differing)] if differing else []

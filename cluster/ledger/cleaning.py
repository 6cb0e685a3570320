"""Removing what a store needs no more: rows that count for nothing, and folders of no row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.ledger.cell_folders import (
    CELLS,
    folder_bytes,
    folders,
    held,
    remove_leftovers,
    set_aside,
)
from cluster.ledger.rows import Lines, Row, newest_rows
from cluster.ledger.store import Ledger
from dataio.atomic import write_whole


@dataclass(frozen=True)
class Dropped:
    """A row that goes, and why."""

    key: str
    status: str
    reason: str


@dataclass
class Cleaned:
    """What was removed, or would be.

    Attributes:
        kept: rows that stay.
        torn: unfinished lines that go.
        folders: of cells that no remaining row refers to.
        folder_bytes: of those folders.
        busy: such folders that stay since a process works in them.
    """

    kept: int = 0
    torn: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    folder_bytes: int = 0
    busy: list[Path] = field(default_factory=list)


def clean(
    ledger: Ledger,
    *,
    keep_code: Sequence[str] | None = None,
    drop_gone: bool = False,
    dry_run: bool = True,
) -> Cleaned:
    """Drop superseded rows by an atomic rewrite, then the folders in ``cells/`` of no row.

    A row is superseded when another one of its cell counts (see ``newest_rows``). A cell that was
    killed before it had a row has a folder of no row: its checkpoints go too, unless it runs again
    by now. Nothing outside ``cells/`` is removed, and no folder of a cell whose lock is held.

    Args:
        keep_code: when given, rows of other code versions go too; beginnings of them will do.
        drop_gone: rows whose run folder is no more go too.
        dry_run: remove nothing, only tell.

    Raises:
        ConfigError: the ledger is damaged.
        OSError: it cannot be written.
    """
    done = Cleaned()
    with ledger.writing():
        lines = ledger.read_lines()
        kept = _sort_out(ledger, lines, done, keep_code=keep_code, drop_gone=drop_gone)
        done.kept, done.torn = len(kept), lines.torn
        if not dry_run and (done.dropped or done.torn):
            data = b"".join(lines.raw[n] + b"\n" for n in kept)
            write_whole(ledger.path, data)
        # Whoever ends a cell holds its lock until its row is here, which needs the ledger's lock:
        # a folder of no row whose lock is free will get none.
        _clear_folders(ledger, [lines.rows[n] for n in kept], done, dry_run=dry_run)
    if not dry_run:
        remove_leftovers(ledger.store)
    return done


def _sort_out(
    ledger: Ledger,
    lines: Lines,
    done: Cleaned,
    *,
    keep_code: Sequence[str] | None,
    drop_gone: bool,
) -> list[int]:
    """Numbers of the rows that stay; the others are noted in ``done``."""
    current = newest_rows(lines.rows)
    kept = []
    for number, row in enumerate(lines.rows):
        reason = None
        if row is not current[row["key"]]:
            reason = f"superseded: the cell is {current[row['key']]['status']}"
        elif keep_code is not None and not str(row.get("code")).startswith(tuple(keep_code)):
            reason = f"of code version {row.get('code')}"
        elif drop_gone and (folder := ledger.run_folder(row)) and not folder.is_dir():
            reason = f"its folder {folder} is gone"
        if reason is None:
            kept.append(number)
        else:
            done.dropped.append(Dropped(row["key"], row["status"], reason))
    return kept


def _clear_folders(ledger: Ledger, rows: Sequence[Row], done: Cleaned, *, dry_run: bool) -> None:
    cells = (ledger.store / CELLS).resolve()
    runs = (folder.resolve() for row in rows if (folder := ledger.run_folder(row)))
    needed = {run.relative_to(cells).parts[:1] for run in runs if run.is_relative_to(cells)}
    for folder in folders(ledger.store):
        if (folder.name,) in needed:
            continue
        with held(folder) as free:
            if not free:
                done.busy.append(folder)
                continue
            done.folders.append(folder)
            done.folder_bytes += folder_bytes(folder)
            if not dry_run:
                set_aside(folder)

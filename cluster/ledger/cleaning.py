"""Removing what a store no longer needs: superseded rows, and run folders without a row."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.ledger.cell_folders import CELLS, REMOVED, lock_if_free
from cluster.ledger.rows import Row, current_row
from cluster.ledger.store import Ledger
from trainer.runs import naming


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
        torn: unfinished lines of an old ``ledger.jsonl`` that go.
        folders: run folders that no remaining row refers to.
        folder_bytes: of those folders.
        busy: folders without a row that stay because a process works in them.
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
    """Drop superseded rows, then the folders in ``cells/`` that no row refers to.

    A row is superseded when another row of its cell counts (see ``current_row``). A cell that was
    killed before it had a row leaves a folder without a row: its checkpoints are removed too,
    unless the cell is running again. Nothing outside ``cells/`` is removed, and no folder of a cell
    whose lock is held. Rows of an old ``ledger.jsonl`` move into the files of their cells.

    Args:
        keep_code: when given, rows of other code versions go too; the first digits suffice.
        drop_gone: rows whose run folder no longer exists go too.
        dry_run: remove nothing, only tell.

    Raises:
        ConfigError: the ledger is damaged.
        OSError: it cannot be written.
    """
    done = Cleaned()
    with ledger.writing():
        cells = ledger.cells()
        stay = {
            key: _sorted_out(ledger, rows, done, keep_code=keep_code, drop_gone=drop_gone)
            for key, rows in cells.items()
        }
        kept = [row for rows in stay.values() for row in rows]
        done.kept, done.torn = len(kept), sum(ledger.unfinished.values())
        if not dry_run:
            _rewrite(ledger, cells, stay)
        # A process that ends a cell holds the cell's lock until its row is written, and writing
        # needs the ledger's lock. So a folder without a row whose lock is free will get no row.
        _clear_folders(ledger, kept, done, dry_run=dry_run)
    if not dry_run:
        for folder in (ledger.store / CELLS).glob(f"{REMOVED}*"):  # also those of a killed call
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)
    return done


def _sorted_out(
    ledger: Ledger,
    rows: Sequence[Row],
    done: Cleaned,
    *,
    keep_code: Sequence[str] | None,
    drop_gone: bool,
) -> list[Row]:
    """The rows of one cell that stay; the others are noted in ``done``."""
    current = current_row(rows)
    assert current is not None, "a cell without rows is no cell"
    stay = []
    for row in rows:
        reason = None
        if row is not current:
            reason = f"superseded: the cell is {current['status']}"
        elif keep_code is not None and not str(row.get("code")).startswith(tuple(keep_code)):
            reason = f"of code version {row.get('code')}"
        elif drop_gone and (folder := ledger.run_folder(row)) and not folder.is_dir():
            reason = f"its folder {folder} is gone"
        if reason is None:
            stay.append(row)
        else:
            done.dropped.append(Dropped(row["key"], row["status"], reason))
    return stay


def _rewrite(ledger: Ledger, cells: dict[str, list[Row]], stay: dict[str, list[Row]]) -> None:
    moves = ledger.old_file.exists()
    for key, rows in stay.items():
        if moves or rows != cells[key]:
            ledger.write(key, rows)
    ledger.old_file.unlink(missing_ok=True)
    for left in ledger.path.glob(".*.tmp"):  # of a writer that was killed
        left.unlink(missing_ok=True)


def _clear_folders(ledger: Ledger, rows: Sequence[Row], done: Cleaned, *, dry_run: bool) -> None:
    cells = (ledger.store / CELLS).resolve()
    runs = (folder.resolve() for row in rows if (folder := ledger.run_folder(row)))
    needed = {run.relative_to(cells).parts[:1] for run in runs if run.is_relative_to(cells)}
    for folder in sorted((ledger.store / CELLS).glob("[!.]*")):
        if (folder.name,) in needed or folder.is_symlink() or not folder.is_dir():
            continue
        with lock_if_free(ledger.store, folder.name) as free:
            if not free:
                done.busy.append(folder)
                continue
            done.folders.append(folder)
            files = (path for path in folder.rglob("*") if not path.is_dir())
            done.folder_bytes += sum(path.lstat().st_size for path in files)
            if not dry_run:
                _set_aside(folder)


def _set_aside(folder: Path) -> None:
    """Rename a folder, which takes no time: a kill while it is deleted leaves no half a cell."""
    aside = folder.with_name(f"{REMOVED}{folder.name}")
    with naming(folder):
        if aside.exists():  # of a call that was killed
            shutil.rmtree(aside)
        os.replace(folder, aside)

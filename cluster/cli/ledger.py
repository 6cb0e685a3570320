"""The commands about the ledger of a store of sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.terminal import Json, only_json, say, shown

if TYPE_CHECKING:
    from cluster.ledger import Ledger, Row

ledger_app = typer.Typer(
    add_completion=False, help="The results of sweeps: list, compare, export, merge, clean up."
)

Store = Annotated[Path, typer.Option(help="Folder of sweeps, or its old file ledger.jsonl.")]
Status = Annotated[str | None, typer.Option(help="finished | stopped | failed")]
OfMethod = Annotated[str | None, typer.Option("--method", help="Cells of this method.")]
OfSweep = Annotated[str | None, typer.Option("--sweep", help="Cells of the sweep of this name.")]
STORE = Path("runs/sweeps")


@ledger_app.command("ls")
def list_rows(
    store: Store = STORE,
    status: Status = None,
    method: OfMethod = None,
    sweep: OfSweep = None,
    as_json: Json = False,
) -> None:
    """List the cells, each by the row that counts: finished before stopped before failed."""
    from cluster.ledger import ledger_of

    with only_json(as_json) as emit:
        ledger = ledger_of(store)
        rows = _chosen(ledger, status=status, method=method, sweep=sweep)
        emit({"ledger": str(ledger.path), "rows": rows})
    if not as_json:
        from cluster.cli.ledger_tables import print_ls

        print_ls(ledger, rows)


@ledger_app.command()
def show(
    key: Annotated[str, typer.Argument(help="The beginning of a cell's key.")],
    other: Annotated[
        str | None, typer.Argument(help="Another key: how does its cell differ?")
    ] = None,
    store: Store = STORE,
    as_json: Json = False,
) -> None:
    """Show the row of a cell; with a second key, how they differ: options, code, data, scores."""
    from cluster.cli.ledger_tables import differing, print_differing, print_row
    from cluster.ledger import ledger_of

    with only_json(as_json) as emit:
        ledger = ledger_of(store)
        row, second = ledger.find(key), ledger.find(other) if other else None
        found = differing(row, second) if second else {}
        emit({"row": row, "other": second, "differences": found} if second else {"row": row})
    if not as_json:
        print_differing(row, second, found) if second else print_row(row)


@ledger_app.command()
def export(
    to: Annotated[Path, typer.Option(help="File ending in .csv, .parquet or .jsonl.")],
    store: Store = STORE,
    status: Status = None,
    method: OfMethod = None,
    sweep: OfSweep = None,
    as_json: Json = False,
) -> None:
    """Write the cells as a flat table: cell.*, metrics.*, oracle.*, seconds.* and more."""
    from cluster.ledger import export_rows, ledger_of

    with only_json(as_json) as emit:
        ledger = ledger_of(store)
        rows = _chosen(ledger, status=status, method=method, sweep=sweep)
        columns = export_rows(ledger, rows, to)
        emit({"file": str(to), "rows": len(rows), "columns": columns})
    if not as_json:
        say(f"{shown(to)}: {len(rows)} rows, {columns} columns")


@ledger_app.command(epilog="Example: img2shape ledger merge /mnt/other/sweeps --store runs/sweeps")
def merge(
    stores: Annotated[list[Path], typer.Argument(help="Other stores, or their ledger files.")],
    store: Store = STORE,
    as_json: Json = False,
) -> None:
    """Take over the rows of other ledgers that are missing in this one.

    Run folders stay where they are. Where a cell is finished in both with different scores, the row
    here stands, the difference is printed, and the exit code is 1.
    """
    from cluster.cli.ledger_tables import print_merged
    from cluster.ledger import ledger_at

    with only_json(as_json) as emit:
        result = ledger_at(store).merge(stores)
        conflicts = [
            {"key": c.key, "source": str(c.source), "metrics": c.metrics} for c in result.conflicts
        ]
        emit({"added": result.added, "known": result.known, "conflicts": conflicts})
    if not as_json:
        print_merged(result)
    if conflicts:
        raise typer.Exit(1)


@ledger_app.command("gc")
def collect(
    store: Store = STORE,
    keep_code: Annotated[
        list[str] | None,
        typer.Option(help="Also drop rows of other code versions; may be given again."),
    ] = None,
    gone: Annotated[
        bool, typer.Option("--gone", help="Also drop rows whose run folder no longer exists.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this, only tell (--dry-run).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing, only tell: the default.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Drop superseded rows, and run folders in cells/ that no row refers to.

    Folders in which a process works stay. A cell that was killed before it had a row loses its
    checkpoints.
    """
    from cluster.ledger import clean, ledger_of
    from trainer.config import ConfigError

    if yes and dry_run:
        raise ConfigError("--yes and --dry-run exclude each other; give one")
    with only_json(as_json) as emit:
        result = clean(
            ledger_of(store), keep_code=keep_code or None, drop_gone=gone, dry_run=not yes
        )
        emit(_as_json(result, done=yes))
    if not as_json:
        from cluster.cli.ledger_tables import print_cleaned

        print_cleaned(result, done=yes)


def _as_json(result: Any, *, done: bool) -> dict[str, Any]:
    return {
        "done": done,
        "kept": result.kept,
        "torn": result.torn,
        "dropped": [vars(row) for row in result.dropped],
        "folders": [str(folder) for folder in result.folders],
        "folder_bytes": result.folder_bytes,
        "busy": [str(folder) for folder in result.busy],
    }


def _chosen(
    ledger: Ledger, *, status: str | None, method: str | None, sweep: str | None
) -> list[Row]:
    """The current rows with these values; a value that no row has is refused."""
    from cluster.ledger import STATUSES
    from dataio.names import nearest
    from trainer.config import ConfigError

    rows = found = list(ledger.current().values())
    for name, wanted in (("status", status), ("method", method), ("sweep", sweep)):
        if wanted is None:
            continue
        known = STATUSES if name == "status" else {str(row.get(name)) for row in found}
        if wanted not in known:
            near = nearest(wanted, sorted(known))
            raise ConfigError(f"{ledger.path}: --{name} '{wanted}' is unknown{near}")
        rows = [row for row in rows if str(row.get(name)) == wanted]
    return rows

"""The papers' tables: their cells run as one sweep, the results beside the published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.data_jobs import make_benchmark
from cluster.sweeps import (
    Asked,
    Cell,
    Choice,
    Choosing,
    Outcome,
    Running,
    Skipped,
    Store,
    check_data,
    code_version,
    make_cell,
    run_planned,
)
from cluster.sweeps.tables.table_cells import TableCell, table_benchmarks, table_cells
from cluster.sweeps.tables.table_description import DataChoice, PaperTable
from cluster.sweeps.tables.table_results import result_table
from dataio.records import DataError
from evalsuite.tables import ResultTable
from trainer.config import ConfigError, load_config

Place = tuple[str, str]


def run_tables(
    tables: Sequence[PaperTable],
    asked: Asked,
    *,
    name: str,
    data: DataChoice = "procedural",
    quick: bool = False,
    seeds: int | None = None,
    selection: Choice = "last",
    keys: Sequence[str] = (),
) -> tuple[list[ResultTable], Outcome]:
    """Train what is missing of ``tables``, each cell once; returns them beside the papers' figures.

    The built-in benchmark is made where it is missing.

    Args:
        name: of the page's folder.
        seeds: how many; None: each table's own number.
        keys: ``key=value``, set in all cells above the tables' own.

    Raises:
        ConfigError, DataError: not one cell can be trained, as when the data sets are not there.
    """
    chosen = None if seeds is None else range(seeds)
    wanted = {t.name: table_cells(t, data, quick=quick, seeds=chosen) for t in tables}
    _require_usable([one for cells in wanted.values() for one in cells], keys)
    if data == "procedural":
        _make_benchmarks(tables, quick=quick)
    choosing = Choosing(selection=selection, oracle=not quick)
    found = {t: _cells(w, Store(asked.store), choosing, keys) for t, w in wanted.items()}
    cells = {cell.key: cell for own, _ in found.values() for cell in own.values()}
    skipped = {lost.reason: lost for _, lost_cells in found.values() for lost in lost_cells}
    if any(wanted.values()) and not cells:
        raise ConfigError(f"{name}: no cell can be trained: {next(iter(skipped))}")
    whole = f"{name}{'-quick' * quick}{'-real' * (data == 'real')}"
    running = Running(sweep=whole, reports=not quick)
    outcome = run_planned(list(cells.values()), list(skipped.values()), running, asked)
    rows = {row["key"]: row for row in outcome.rows}
    results = [_filled(table, *found[table.name], rows=rows, data=data) for table in tables]
    return results, outcome


def _filled(
    table: PaperTable,
    cells: Mapping[tuple[str, str, int], Cell],
    skipped: Sequence[Skipped],
    *,
    rows: Mapping[str, Mapping[str, Any]],
    data: DataChoice,
) -> ResultTable:
    found: dict[Place, list[Mapping[str, Any]]] = {}
    for (row, column, _), cell in cells.items():
        found.setdefault((row, column), []).append(rows[cell.key])
    reasons = {(lost.labels["row"], lost.labels["column"]): lost.reason for lost in skipped}
    return result_table(table, found, reasons, data=data)


def _make_benchmarks(tables: Sequence[PaperTable], *, quick: bool) -> None:
    trained = [table for table in tables if table.kind == "retrieval"]
    needed = {f: of for t in trained for f, of in table_benchmarks(t, quick=quick).items()}
    for folder, (size, style) in needed.items():
        make_benchmark(Path(folder), size=size, style=style, seed=0)


def _require_usable(wanted: Sequence[TableCell], keys: Sequence[str]) -> None:
    """Refuse ``keys`` that fit no cell before data are made."""
    errors = []
    for one in wanted:
        try:
            load_config(one.config, [*one.overrides, *keys])
        except ConfigError as err:
            errors.append(err)
    if errors and len(errors) == len(wanted):
        raise errors[0]


def _cells(
    wanted: Sequence[TableCell], store: Store, choosing: Choosing, keys: Sequence[str]
) -> tuple[dict[tuple[str, str, int], Cell], list[Skipped]]:
    """Cells by row, column and seed: those that start from others after these."""
    cells: dict[tuple[str, str, int], Cell] = {}
    skipped: list[Skipped] = []
    for one in sorted(wanted, key=lambda cell: cell.start_from is not None):
        labels = {"row": one.row, "column": one.column, "training.seed": one.seed}
        before: Cell | None = None
        if one.start_from is not None:
            before = cells.get((*one.start_from, one.seed))
            if before is None:
                start = " in ".join(one.start_from)
                skipped.append(Skipped(labels, f"starts from {start}, which cannot be trained"))
                continue
        try:
            cells[one.row, one.column, one.seed] = _cell(one, labels, before, store, choosing, keys)
        except (ConfigError, DataError) as err:
            skipped.append(Skipped(labels, str(err)))
    order = [(one.row, one.column, one.seed) for one in wanted]
    return {place: cells[place] for place in order if place in cells}, skipped


def _cell(
    one: TableCell,
    labels: Mapping[str, Any],
    before: Cell | None,
    store: Store,
    choosing: Choosing,
    keys: Sequence[str],
) -> Cell:
    start = [] if before is None else [f"training.init_from={store.folder(before).path}"]
    config = load_config(one.config, [*one.overrides, *keys, *start])
    cell = make_cell(
        labels,
        config,
        choosing,
        code=code_version(),
        after=None if before is None else before.key,
    )
    check_data(cell.config)
    return cell

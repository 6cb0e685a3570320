"""A paper's table: its cells run as a sweep, its result beside the published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.jobs import make_benchmark
from cluster.sweeps.cells import Cell, Choosing, check_data, make_cell
from cluster.sweeps.code_version import code_version
from cluster.sweeps.description import Choice
from cluster.sweeps.engine import Running
from cluster.sweeps.grid import Skipped
from cluster.sweeps.paper_tables import (
    PaperTable,
    TableCell,
    result_table,
    table_benchmarks,
    table_cells,
)
from cluster.sweeps.run import Asked, Outcome, run_planned
from cluster.sweeps.table_description import DataChoice
from cluster.sweeps.trial import Store
from dataio.records import DataError
from evalsuite.result_table import ResultTable
from trainer.config import ConfigError, load_config

__all__ = ["run_table"]

Place = tuple[str, str]


def run_table(
    table: PaperTable,
    asked: Asked,
    *,
    data: DataChoice = "procedural",
    quick: bool = False,
    seeds: int | None = None,
    selection: Choice = "last",
    keys: Sequence[str] = (),
) -> tuple[ResultTable, Outcome]:
    """Train what is missing of ``table``; returns it beside the paper's figures.

    The built-in benchmark is made where it is missing.

    Args:
        seeds: how many; None: the table's own number.
        keys: ``key=value``, set in all cells above the table's own.

    Raises:
        ConfigError, DataError: not one cell can be trained, as when the data sets are not there.
    """
    if data == "procedural" and table.kind == "retrieval":
        for folder, (size, style) in table_benchmarks(table, quick=quick).items():
            make_benchmark(Path(folder), size=size, style=style, seed=0)
    chosen = None if seeds is None else range(seeds)
    wanted = table_cells(table, data, quick=quick, seeds=chosen)
    choosing = Choosing(selection=selection)
    cells, skipped = _cells(wanted, Store(asked.store), choosing, keys)
    if wanted and not cells:
        raise ConfigError(f"{table.name}: no cell can be trained: {skipped[0].reason}")
    name = f"{table.name}{'-quick' * quick}{'-real' * (data == 'real')}"
    unique = list({cell.key: cell for cell in cells.values()}.values())
    outcome = run_planned(unique, skipped, Running(sweep=name, retries=1, reports=not quick), asked)
    rows = {row["key"]: row for row in outcome.rows}
    found: dict[Place, list[Mapping[str, Any]]] = {}
    for (row, column, _), cell in cells.items():
        found.setdefault((row, column), []).append(rows[cell.key])
    reasons = {(s.labels["row"], s.labels["column"]): s.reason for s in skipped}
    return result_table(table, found, reasons, data=data), outcome


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

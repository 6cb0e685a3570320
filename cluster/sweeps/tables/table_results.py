"""Filling the papers' tables: their cells run as one sweep, ours beside the published figures."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.data_jobs import make_benchmark
from cluster.sweeps import (
    Cell,
    Choice,
    Choosing,
    Outcome,
    Point,
    Running,
    Skipped,
    cell_of,
    run_planned,
)
from cluster.sweeps.tables.paper_tables import COMPLEXITY_METRICS, published_row, published_size
from cluster.sweeps.tables.table_description import DataChoice, PaperTable, TableRow
from cluster.sweeps.tables.table_points import (
    SEED,
    Place,
    described,
    place_of,
    table_benchmarks,
    table_points,
    table_skips,
)
from dataio.records import DataError
from dataio.shards import Manifest
from evalsuite.published import SOURCES, PublishedRow
from evalsuite.tables import Column, Entry, Numbers, ResultTable, build_table
from trainer.config import ConfigError, load_config

_COMPLEXITY = "complexity"
LedgerRow = Mapping[str, Any]


def run_tables(
    tables: Sequence[PaperTable],
    running: Running,
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
    points = {t.name: table_points(t, data, quick=quick, seeds=chosen) for t in tables}
    _require_usable([point for own in points.values() for point in own], keys)
    if data == "procedural":
        _make_benchmarks(tables, quick=quick)
    whole = f"{name}{'-quick' * quick}{'-real' * (data == 'real')}"
    running = replace(running, sweep=whole, reports=not quick)
    choosing = Choosing(selection=selection, oracle=not quick)
    found = {t: _cells(own, running, choosing, keys) for t, own in points.items()}
    cells = {cell.key: cell for own, _ in found.values() for cell in own}
    skipped = {lost.reason: lost for _, own in found.values() for lost in own}
    if any(points.values()) and not cells:
        raise ConfigError(f"{name}: no cell can be trained: {next(iter(skipped))}")
    outcome = run_planned(list(cells.values()), list(skipped.values()), running)
    rows = {row["key"]: row for row in outcome.rows}
    results = []
    for table in tables:
        own, lost = found[table.name]
        runs: dict[Place, list[LedgerRow]] = {}
        for cell in own:
            runs.setdefault(place_of(cell.labels), []).append(rows[cell.key])
        reasons = {place_of(one.labels): one.reason for one in lost}
        result = result_table(table, runs, reasons, data=data)
        if quick and table.kind == "retrieval":
            title = f"{result.title} (--quick: it runs, the numbers mean nothing)"
            result = replace(result, title=title)
        results.append(result)
    return results, outcome


def _make_benchmarks(tables: Sequence[PaperTable], *, quick: bool) -> None:
    trained = [table for table in tables if table.kind == "retrieval"]
    needed = {f: of for t in trained for f, of in table_benchmarks(t, quick=quick).items()}
    for folder, (size, style) in needed.items():
        make_benchmark(Path(folder), size=size, style=style, seed=0)


def _require_usable(points: Sequence[Point], keys: Sequence[str]) -> None:
    """Refuse ``keys`` that fit no cell before data are made."""
    errors = []
    for point in points:
        try:
            load_config(point.config, [*point.keys, *keys])
        except ConfigError as err:
            errors.append(err)
    if errors and len(errors) == len(points):
        raise errors[0]


def _cells(
    points: Sequence[Point], running: Running, choosing: Choosing, keys: Sequence[str]
) -> tuple[list[Cell], list[Skipped]]:
    """The cells of a table in the order of its points, and the points that cannot be trained."""
    cells: dict[tuple[Place, int], Cell] = {}
    skipped: list[Skipped] = []
    opened: dict[str, Manifest] = {}
    for point in sorted(points, key=lambda point: point.start_from is not None):
        after: tuple[Cell, Path] | None = None
        if point.start_from is not None:
            before = cells.get(_at(point.start_from))
            if before is None:
                start = " in ".join(place_of(point.start_from))
                reason = f"starts from {start}, which cannot be trained"
                skipped.append(Skipped(point.labels, reason))
                continue
            after = before, running.store.folder(before).path
        try:
            cells[_at(point.labels)] = cell_of(
                point, choosing, keys=keys, after=after, opened=opened
            )
        except (ConfigError, DataError) as err:
            skipped.append(Skipped(point.labels, str(err)))
    return [cells[at] for at in map(_at, (p.labels for p in points)) if at in cells], skipped


def _at(labels: Mapping[str, Any]) -> tuple[Place, int]:
    return place_of(labels), labels[SEED]


def result_table(
    table: PaperTable,
    found: Mapping[Place, Sequence[LedgerRow]],
    skipped: Mapping[Place, str] | None = None,
    *,
    data: DataChoice = "procedural",
) -> ResultTable:
    """Ours beside the published figures.

    A complexity table has no runs: its networks are built and counted here.

    Args:
        found: ledger rows by row label and column name, one for each seed.
        skipped: why a place has no run, beyond what the table itself says.
        data: which data the runs had; columns are named after it.

    Raises:
        ConfigError: a place that the table does not have, or a network that cannot be built.
    """
    if table.kind == "complexity":
        return _complexity_table(table)
    reasons = {**table_skips(table, data), **(skipped or {})}
    _require_places(table, [*found, *reasons])
    columns = {name: _column(table, name, data) for name in table.columns}
    entries = [_entry(table, row, found, reasons, columns, data) for row in table.rows]
    return build_table(_title(table), list(columns.values()), entries)


def _title(table: PaperTable) -> str:
    """``ASTN, table 3: Ablation of ASTN on MI3DOR``."""
    if table.source is None:
        return table.title
    return f"{SOURCES[table.source]}, table {table.table}: {table.title}"


def _column(table: PaperTable, name: str, data: DataChoice) -> Column:
    about = table.site(data).columns[name]
    note = about.note
    if data == "procedural" and table.source is not None:
        note = f"{note}; compare its rows among themselves, not with the published figures"
    return Column(about.title, table.metrics, note, comparable=data == "real")


def _require_places(table: PaperTable, places: Iterable[Place]) -> None:
    labels = {row.label for row in table.rows}
    for label, column in places:
        if label not in labels or column not in table.columns:
            raise ConfigError(f"{table.name}: has no row '{label}' with column '{column}'")


def _entry(
    table: PaperTable,
    row: TableRow,
    found: Mapping[Place, Sequence[LedgerRow]],
    reasons: Mapping[Place, str],
    columns: Mapping[str, Column],
    data: DataChoice,
) -> Entry:
    """``columns`` are those of the result by the table's own names."""
    runs = {name: found.get((row.label, name), ()) for name in columns}
    scored = {name: [run for run in runs[name] if run.get("metrics")] for name in columns}
    missing = {name: _missing(runs[name], reasons.get((row.label, name))) for name in columns}
    printed = {name: published_row(table, row, name) for name in columns}
    selections = dict.fromkeys(run["selection"] for own in scored.values() for run in own)
    return Entry(
        label=_label(row, printed.values(), [run for own in scored.values() for run in own]),
        published={
            columns[name].name: {} if figures is None else dict(figures.metrics)
            for name, figures in printed.items()
        },
        ours={c.name: [run["metrics"] for run in scored[name]] for name, c in columns.items()},
        oracle={c.name: _oracles(scored[name]) for name, c in columns.items()},
        intervals={c.name: _intervals(scored[name]) for name, c in columns.items()},
        note="; ".join(filter(None, (row.note, row.at(data).note))),
        skipped={
            columns[name].name: reason
            for name, reason in missing.items()
            if reason is not None and not scored[name]
        },
        # An oracle's number stays one beside others.
        selection=" and ".join(sorted(selections, key=lambda s: s != "oracle")) or "last",
    )


def _label(row: TableRow, printed: Iterable[PublishedRow | None], runs: Sequence[LedgerRow]) -> str:
    """The row's label; one that names the paper's trunk also says which one was trained here."""
    papers = {figures.backbone for figures in printed if figures is not None}
    words = re.sub(r"[^a-z0-9]", "", row.label.casefold())
    if not any(trunk and trunk in words for trunk in papers):
        return row.label
    ours = {run["config"]["network"]["backbone"] for run in runs} - papers
    return f"{row.label} (ours: {', '.join(sorted(ours))})" if ours else row.label


def _missing(runs: Sequence[LedgerRow], reason: str | None) -> str | None:
    """Why there is no number: said by the table, or the error of the run."""
    errors = [run["error"] for run in runs if run.get("error")]
    return f"failed: {errors[0]}" if reason is None and errors else reason


def _oracles(runs: Sequence[LedgerRow]) -> list[Numbers]:
    return [run["oracle"]["metrics"] for run in runs if run.get("oracle")]


def _intervals(runs: Sequence[LedgerRow]) -> dict[str, tuple[float, float]]:
    """Mean of the seeds' lower and of their upper bounds, for metrics that all seeds have."""
    known = [run.get("intervals") or {} for run in runs]
    shared = set.intersection(*map(set, known)) if known else set()
    return {
        metric: (
            statistics.fmean(bounds[metric][0] for bounds in known),
            statistics.fmean(bounds[metric][1] for bounds in known),
        )
        for metric in sorted(shared)
    }


def _complexity_table(table: PaperTable) -> ResultTable:
    entries = [
        Entry(
            label=row.label,
            published={_COMPLEXITY: published_size(table, row)},
            ours={_COMPLEXITY: [_counted(table, row)] if row.method is not None else []},
            note=row.note,
            skipped={} if row.absent is None else {_COMPLEXITY: row.absent},
            selection="",  # there is no checkpoint
        )
        for row in table.rows
    ]
    columns = [Column(_COMPLEXITY, COMPLEXITY_METRICS)]
    return build_table(_title(table), columns, entries, decimals=2, ranked=False)


def _counted(table: PaperTable, row: TableRow) -> Numbers:
    """Millions of parameters and multiply-adds of the row's network on the paper's data."""
    from cluster.complexity import model_complexity

    cost = model_complexity(load_config(*described(table, row, table.columns[0], data="real")))
    values = (cost["parameters"] / 1e6, cost["multiply_adds"] / 1e6)
    return dict(zip(COMPLEXITY_METRICS, values, strict=True))

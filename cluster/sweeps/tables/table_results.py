"""A table's numbers: ours from finished runs, the paper's from ``evalsuite.published``."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cluster.sweeps.tables.table_cells import Place, as_overrides, starting_point, table_skips
from cluster.sweeps.tables.table_description import DataChoice, PaperTable, TableRow
from evalsuite.published import SOURCES, PublishedRow, published_complexity, published_figures
from evalsuite.tables import Column, Entry, Numbers, ResultTable, build_table
from evalsuite.vectors import EvaluationError
from trainer.config import ConfigError, load_config

COMPLEXITY_METRICS = ("parameters (M)", "multiply-adds (M)")
_COMPLEXITY = "complexity"
LedgerRow = Mapping[str, Any]


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


def published_numbers(table: PaperTable, row: TableRow, column: str) -> Numbers:
    """What the paper gives for a row in a column, by metric; empty where it gives nothing."""
    figures = _published(table, row, column)
    return dict(figures.metrics) if figures is not None else {}


def require_published(table: PaperTable, *, where: str) -> None:
    """Check that the paper prints what each row names.

    Raises ConfigError naming the row.
    """
    if table.source is None:
        return
    for row in table.rows:
        try:
            if table.kind == "complexity":
                known = row.published is None or _published_size(table, row) is not None
            else:
                known = row.published is None or any(
                    _published(table, row, column) for column in table.columns
                )
        except EvaluationError as err:
            raise ConfigError(f"{where}: row '{row.label}': {err}") from None
        if not known:
            raise ConfigError(
                f"{where}: row '{row.label}': no such figures in table {table.table} of "
                f"{table.source}; see published, published_method and quoted, or published: null"
            )


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
    selections = dict.fromkeys(run["selection"] for own in scored.values() for run in own)
    return Entry(
        label=row.label,
        published={c.name: published_numbers(table, row, name) for name, c in columns.items()},
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


def _published(table: PaperTable, row: TableRow, column: str) -> PublishedRow | None:
    if table.source is None or table.table is None or row.published is None:
        return None
    variant = row.published
    if isinstance(variant, dict):
        if column not in variant:
            return None
        variant = variant[column]
    wanted = (row.published_method or row.method, variant, column)
    for number in row.quoted or (table.table,):
        for figures in published_figures(table.source, number):
            same = (figures.method, figures.variant, figures.dataset) == wanted
            if same and row.published_backbone in (None, figures.backbone):
                return figures
    return None


def _complexity_table(table: PaperTable) -> ResultTable:
    entries = [
        Entry(
            label=row.label,
            published={_COMPLEXITY: _published_size(table, row) or {}},
            ours={_COMPLEXITY: [_counted(table, row)] if row.method is not None else []},
            note=row.note,
            skipped={} if row.absent is None else {_COMPLEXITY: row.absent},
            selection="",  # there is no checkpoint
        )
        for row in table.rows
    ]
    columns = [Column(_COMPLEXITY, COMPLEXITY_METRICS)]
    return build_table(_title(table), columns, entries, decimals=2, ranked=False)


def _published_size(table: PaperTable, row: TableRow) -> Numbers | None:
    if table.source is None or table.table is None:
        return None
    for size in published_complexity(table.source, table.table):
        if size.model == row.published:
            values = (size.parameters_millions, size.multiply_adds_millions)
            return dict(zip(COMPLEXITY_METRICS, values, strict=True))
    return None


def _counted(table: PaperTable, row: TableRow) -> Numbers:
    """Millions of parameters and multiply-adds of the row's network on the paper's data."""
    from cluster.complexity import model_complexity

    assert row.method is not None
    site, where = table.site("real"), f"{table.name}: row '{row.label}'"
    config, first = starting_point(site, row.method)
    column = site.columns[table.columns[0]].set
    layers = [first, site.methods.get(row.method, {}), column, row.set, row.real.set]
    cost = model_complexity(load_config(config, as_overrides(layers, site.folders, where=where)))
    values = (cost["parameters"] / 1e6, cost["multiply_adds"] / 1e6)
    return dict(zip(COMPLEXITY_METRICS, values, strict=True))

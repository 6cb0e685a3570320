"""Filling the papers' tables: their cells run as one sweep, ours beside the published figures."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.sweeps import Outcome, Running
from cluster.sweeps.tables.paper_tables import COMPLEXITY_METRICS, published_row, published_size
from cluster.sweeps.tables.part_runs import LedgerRow, run_parts
from cluster.sweeps.tables.table_description import DataChoice, PaperTable, TableRow
from cluster.sweeps.tables.table_points import Place, described, table_skips
from evalsuite.published import SOURCES, PublishedRow
from evalsuite.tables import Column, Entry, Numbers, ResultTable, build_table
from trainer.config import ConfigError, load_config

_COMPLEXITY = "complexity"


def run_tables(
    tables: Sequence[PaperTable],
    running: Running,
    *,
    name: str,
    data: DataChoice = "procedural",
    quick: bool = False,
    **choices: Any,
) -> tuple[list[ResultTable], Outcome]:
    """Train what is missing of ``tables``, each cell once; returns them beside the papers' figures.

    Arguments and errors as of :func:`cluster.sweeps.tables.part_runs.run_parts`.
    """
    found, outcome = run_parts(tables, running, name=name, data=data, quick=quick, **choices)
    results = []
    for table, filling in zip(tables, found, strict=True):
        result = result_table(table, filling.runs, filling.reasons, data=data)
        if quick and table.is_trained:
            title = f"{result.title} (--quick: it runs, the numbers mean nothing)"
            result = replace(result, title=title)
        results.append(result)
    return results, outcome


def result_table(
    table: PaperTable,
    found: Mapping[Place, Sequence[LedgerRow]],
    skipped: Mapping[Place, str] | None = None,
    *,
    data: DataChoice = "procedural",
) -> ResultTable:
    """Ours beside the published figures.

    The networks of a complexity table are built and counted here.

    Args:
        found: ledger rows by row label and column name, one for each seed.
        skipped: why a place has no run, beyond what the table itself says.
        data: which data the runs had; columns are named after it.

    Raises:
        ConfigError: a place that the table does not have, or a network that cannot be built.
    """
    reasons = {**table_skips(table, data), **(skipped or {})}
    _require_places(table, [*found, *reasons])
    columns = {name: _column(table, name, data) for name in table.columns_on(data)}
    trained = table.rows if table.is_trained else ()
    entries = [_entry(table, row, found, reasons, columns, data) for row in trained]
    if table.kind == "complexity":
        return _complexity_table(table, entries, columns)
    shown = {row.label: entry.label for row, entry in zip(table.rows, entries, strict=True)}
    full = None if table.full is None else shown[table.full]
    return build_table(_title(table), list(columns.values()), entries, full=full)


def _title(table: PaperTable) -> str:
    """``ASTN, table 3: Ablation of ASTN on MI3DOR``."""
    if table.source is None:
        return table.title
    return f"{SOURCES[table.source]}, table {table.table}: {table.title}"


def _column(table: PaperTable, name: str, data: DataChoice) -> Column:
    about = table.site(data).columns[name]
    notes = [about.note]
    if data != "real" and table.source is not None:
        notes.append("compare its rows among themselves, not with the published figures")
        alike = [one for one in table.columns if table.site(data).columns[one] == about]
        if len(alike) > 1:
            notes.append(
                f"the published figures are those of {table.site('real').columns[name].title}"
            )
    note = "; ".join(filter(None, notes))
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
        seeds={c.name: [run.get("seed") for run in scored[name]] for name, c in columns.items()},
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
    networks = [run["config"]["network"] for run in runs]
    ours = {
        network.get(f"{modality}_backbone") or network["backbone"]
        for network in networks
        for modality in ("image", "shape")
    } - papers
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


def _complexity_table(
    table: PaperTable, trained: Sequence[Entry], columns: Mapping[str, Column]
) -> ResultTable:
    """``trained`` are the entries of trainings in ``columns``, one a row, or none."""
    size = Column(_COMPLEXITY, COMPLEXITY_METRICS, decimals=2, trained=False)
    counted = [
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
    if not trained:
        return build_table(_title(table), [size], counted, ranked=False)
    merged = [
        replace(
            one,
            label=sized.label,
            published={**sized.published, **one.published},
            ours={**sized.ours, **one.ours},
            skipped={**sized.skipped, **one.skipped},
        )
        for sized, one in zip(counted, trained, strict=True)
    ]
    return build_table(_title(table), [size, *columns.values()], merged, ranked=False)


def _counted(table: PaperTable, row: TableRow) -> Numbers:
    """Millions of parameters and multiply-adds of the row's network on the paper's data."""
    from cluster.complexity import model_complexity

    cost = model_complexity(load_config(*described(table, row, table.columns[0], data="real")))
    values = (cost["parameters"] / 1e6, cost["multiply_adds"] / 1e6)
    return dict(zip(COMPLEXITY_METRICS, values, strict=True))

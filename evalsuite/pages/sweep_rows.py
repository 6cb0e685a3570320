"""The ledger rows of a sweep, as tables and figures need them.

A row is one cell that finished, was stopped or failed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from evalsuite.pages.headline import number
from evalsuite.scoring import HEADLINES, LOWER_IS_BETTER
from evalsuite.tables import Column, Entry, ResultTable, build_table

LedgerRow = Mapping[str, Any]
SEED_AXES = ("training.seed", "seed")
COLUMN_AXES = ("transfer", "pair", "dataset", "data")
"""Axes that name what a cell is evaluated on; the first that varies makes a table's columns."""
_MOST_ENTRIES = 60


def axis_names(rows: Sequence[LedgerRow]) -> list[str]:
    """Every axis of the cells, in the order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.get("cell") or {}))


def varying_axes(rows: Sequence[LedgerRow]) -> list[str]:
    """The axes on which the cells differ; a cell without the axis differs from one with it."""
    return [
        name
        for name in axis_names(rows)
        if len({label_words((row.get("cell") or {}).get(name)) for row in rows}) > 1
    ]


def axis_words(names: Sequence[str]) -> list[str]:
    """The last part of each dotted name; the whole name where two names end alike."""
    last = [name.rsplit(".", 1)[-1] for name in names]
    return [
        short if last.count(short) == 1 else name for name, short in zip(names, last, strict=True)
    ]


def label_words(label: object) -> str:
    """An axis' label as it is written: text as it is, other values as YAML has them."""
    if isinstance(label, str):
        return label
    if isinstance(label, float) and math.isfinite(label):
        return f"{label:g}"
    return "–" if label is None else json.dumps(label, ensure_ascii=False, default=str)


def cell_words(row: LedgerRow, axes: Sequence[str]) -> str:
    """``astn · photos a · seed 0``: the labels on ``axes``; the key of a cell without any."""
    cell = row.get("cell") or {}
    words = [
        label if isinstance(label, str) else f"{name.rsplit('.', 1)[-1]} {label_words(label)}"
        for name in axes
        if name in cell and (label := cell[name]) is not None
    ]
    return " · ".join(words) or str(row.get("key", "cell"))


def method_name(row: LedgerRow) -> str:
    """The method of the row, "?" where it does not say."""
    return str(row.get("method") or (row.get("cell") or {}).get("method") or "?")


def is_oracle(row: LedgerRow) -> bool:
    """True if the checkpoint of the row's metrics was chosen with the target's labels."""
    chosen = (row.get("selected") or {}).get("selection") or row.get("selection") or ""
    return str(chosen).partition(" ")[0] == "oracle"


def main_metric(rows: Sequence[LedgerRow]) -> str:
    """The metric that orders the rows: mAP if any row has it, else the first headline found."""
    for metric in ("mAP", *HEADLINES):
        if any(math.isfinite(metric_of(row, metric)) for row in rows):
            return metric
    return "mAP"


def metric_of(row: LedgerRow, metric: str) -> float:
    """The row's value of ``metric``, NaN if it has none."""
    return number((row.get("metrics") or {}).get(metric))


def best_first(rows: Sequence[LedgerRow], metric: str) -> list[LedgerRow]:
    """The rows by ``metric``, equal ones in their order, rows without the value last."""
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0

    def place(row: LedgerRow) -> float:
        value = metric_of(row, metric)
        return sign * value if math.isfinite(value) else math.inf

    return sorted(rows, key=place)


def seed_table(rows: Sequence[LedgerRow]) -> ResultTable | None:
    """The means of finished cells over their seeds: one entry a setting, one column a data set.

    None for fewer than two settings, more than 60, or no number at all.
    """
    rows = [row for row in rows if row.get("status") == "finished" and row.get("metrics")]
    axes = [name for name in varying_axes(rows) if name not in SEED_AXES]
    across = next((name for name in COLUMN_AXES if name in axes), None)
    down = [name for name in axes if name != across] or ["method"]
    metrics = [m for m in HEADLINES if any(math.isfinite(metric_of(r, m)) for r in rows)]
    settings: dict[str, dict[str, list[LedgerRow]]] = {}
    for row in rows:
        column = cell_words(row, [across]) if across else str(row.get("dataset") or "results")
        settings.setdefault(cell_words(row, down), {}).setdefault(column, []).append(row)
    if not 1 < len(settings) <= _MOST_ENTRIES or not metrics:
        return None
    names = dict.fromkeys(name for columns in settings.values() for name in columns)
    columns = [Column(name, tuple(metrics)) for name in names]
    entries = [_entry(label, found) for label, found in settings.items()]
    return build_table("Means over seeds", columns, entries)


def _entry(label: str, found: Mapping[str, Sequence[LedgerRow]]) -> Entry:
    rows = [row for column in found.values() for row in column]
    oracle = {
        name: [
            row["oracle"]["metrics"] for row in column if (row.get("oracle") or {}).get("metrics")
        ]
        for name, column in found.items()
    }
    # With several seeds no single run's interval is that of their mean.
    intervals = {
        name: {m: (low, high) for m, (low, high) in (column[0].get("intervals") or {}).items()}
        for name, column in found.items()
        if len(column) == 1
    }
    chosen = dict.fromkeys(
        "oracle" if is_oracle(row) else str(row.get("selection", "last")) for row in rows
    )
    return Entry(
        label,
        ours={name: [row["metrics"] for row in column] for name, column in found.items()},
        oracle={name: runs for name, runs in oracle.items() if runs},
        intervals=intervals,
        selection="oracle" if "oracle" in chosen else ", ".join(chosen),
    )

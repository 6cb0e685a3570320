"""The table of headline measures over runs: best values, differences, intervals, warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evalsuite.pages.runs import RunView
from evalsuite.scoring import INSTANCE_METRICS, LOWER_IS_BETTER
from evalsuite.statistics import bootstrap_mean


@dataclass(frozen=True)
class Measure:
    """A headline measure: its key in metrics.json, and its words for a reader."""

    key: str
    name: str
    meaning: str

    @property
    def lower_is_better(self) -> bool:
        return self.key in LOWER_IS_BETTER


MEASURES = (
    Measure("NN", "nearest neighbour", "share of queries whose nearest shape has their class"),
    Measure("FT", "first tier", "recall within the first n results, n = shapes of the class"),
    Measure(
        "ST",
        "second tier",
        "recall within the first 2n-1 (protocol mi3dor) or 2n (protocol shrec) results",
    ),
    Measure(
        "F",
        "F-measure at 20",
        "harmonic mean of precision and recall after 20 results, by default over all queries "
        "pooled; with large classes its ceiling is far below 1",
    ),
    Measure("E", "E-measure", "F1 after 32 results, mean over queries; its ceiling is below 1"),
    Measure(
        "DCG",
        "discounted cumulative gain",
        "gain discounted by the logarithm of the rank, relative to a perfect order; over ranks "
        "1..n (protocol mi3dor) or the whole list (protocol shrec)",
    ),
    Measure(
        "ANMRR",
        "average normalised modified retrieval rank",
        "how late the shapes of the class come, 0 perfect, 1 none among the first n: lower is "
        "better",
    ),
    Measure(
        "AUC",
        "area under the pooled precision-recall curve",
        "without a point at recall 0, so that even a perfect run stays below 1",
    ),
    Measure("mAP", "mean average precision", "average precision, mean over queries"),
)

_WITH_INTERVAL = {"FT": "FT", "mAP": "AP"}


@dataclass
class MeasureCell:
    """One value of the table. `better` says which way `delta` points, None for no difference."""

    value: float
    text: str
    best: bool = False
    delta: str = ""
    better: bool | None = None
    interval: str = ""


@dataclass
class RunRow:
    """One run of the table, with one cell a measure."""

    name: str
    method: str
    is_source_only: bool
    cells: list[MeasureCell] = field(default_factory=list)


def number(value: object) -> float:
    """The value as a float, NaN for anything that is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value)


def headline_rows(runs: Sequence[RunView], names: Sequence[str]) -> list[RunRow]:
    """Rows in the order of the runs; values equal to three decimals share the mark for the best."""
    rows = []
    for run, name in zip(runs, names, strict=True):
        values = [run.evaluation.headline[measure.key] for measure in MEASURES]
        cells = [MeasureCell(value, _decimals(value)) for value in values]
        _add_intervals(cells, run)
        rows.append(RunRow(name, str(run.info.get("method", "")), run.is_source_only, cells))
    for column, measure in enumerate(MEASURES):
        _mark_best([row.cells[column] for row in rows], measure)
        _mark_deltas(rows, column, measure)
    return rows


def instance_rows(
    runs: Sequence[RunView], names: Sequence[str]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """How early runs find exact shapes: (run, one (value, interval) a metric), of runs that say it.

    The metrics are ``INSTANCE_METRICS``.
    """
    rows = []
    for run, name in zip(runs, names, strict=True):
        said = run.evaluation.about.get("instance")
        if isinstance(said, dict):
            rows.append((name, [_instance_cell(said, metric) for metric in INSTANCE_METRICS]))
    return rows


def _instance_cell(said: Mapping[str, Any], metric: str) -> tuple[str, str]:
    digits = 1 if metric == "median_rank" else 3
    ends = said.get("intervals", {}).get(metric, {})
    numbers = [number(said.get(metric)), *(number(ends.get(end)) for end in ("low", "high"))]
    value, low, high = (_decimals(one, digits) for one in numbers)
    return value, f"[{low}, {high}]" if "–" not in (low, high) else ""


def cautions(runs: Sequence[RunView], names: Sequence[str]) -> list[str]:
    """What to know before comparing the numbers: differing conditions, evaluation warnings."""
    facts = {
        "were trained on different data": [_fingerprint(run) for run in runs],
        "were evaluated with different options": [run.evaluation.options for run in runs],
        "were evaluated on different numbers of queries or shapes": [
            (run.evaluation.n_evaluated, run.evaluation.n_gallery) for run in runs
        ],
    }
    said = [
        f"These runs {fact}: their numbers should not be compared."
        for fact, values in facts.items()
        if any(value != values[0] for value in values)
    ]
    warned: dict[str, list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        for warning in run.evaluation.warnings:
            warned.setdefault(warning, []).append(name)
    return said + [f"{', '.join(who)}: {warning}" for warning, who in warned.items()]


def _fingerprint(run: RunView) -> object:
    data = run.info.get("data")
    return data.get("fingerprint") if isinstance(data, dict) else data


def _add_intervals(cells: Sequence[MeasureCell], run: RunView) -> None:
    """Bootstrap intervals of the measures that are plain means over queries, for FT and mAP."""
    table = run.evaluation.per_query
    if not len(table) or run.evaluation.options.average != "query":
        return
    for key, column in _WITH_INTERVAL.items():
        values = table.column(column).drop_null().to_numpy()
        if len(values) and np.isfinite(values).all():
            interval = bootstrap_mean(values)
            cell = cells[[measure.key for measure in MEASURES].index(key)]
            cell.interval = f"[{interval.low:.3f}, {interval.high:.3f}]"


def _mark_best(cells: Sequence[MeasureCell], measure: Measure) -> None:
    values = [round(cell.value, 3) for cell in cells if not math.isnan(cell.value)]
    if len(cells) > 1 and values:
        best = min(values) if measure.lower_is_better else max(values)
        for cell in cells:
            cell.best = round(cell.value, 3) == best


def _mark_deltas(rows: Sequence[RunRow], column: int, measure: Measure) -> None:
    yardstick = next((row for row in rows if row.is_source_only), None)
    for row in rows:
        if yardstick is None or row is yardstick:
            continue
        cell = row.cells[column]
        difference = round(cell.value - yardstick.cells[column].value, 3)
        if not math.isnan(difference):
            cell.delta = f"{difference:+.3f}".replace("-", "−") if difference else "±0.000"
            cell.better = (difference < 0) == measure.lower_is_better if difference else None


def _decimals(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"

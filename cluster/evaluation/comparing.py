"""Differences between evaluated runs, with intervals, as JSON values and as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.tables import standard_output
from cluster.terminal import task
from evalsuite.scoring import HEADLINES, LOWER_IS_BETTER, QueryScores, read_scores
from evalsuite.statistics import Comparison, Difference, compare, compare_classes, intervals

ABOUT = (
    "The intervals are about the choice of queries: all runs see the same resampled queries. They "
    "say nothing about other training seeds or other galleries."
)
# Of each class the table shows these; the JSON object has all.
OF_A_CLASS = ("NN", "FT", "mAP")


def compare_runs(
    runs: Sequence[Path],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    per_class: bool = False,
) -> dict[str, Any]:
    """Intervals of each run, and the first against each other one; JSON values.

    Reads ``metrics.json`` and ``per_query.parquet`` alone. Raises ``EvaluationError`` for a run
    that is not evaluated, and for runs that cannot be paired, naming what differs.
    """
    chosen = {"confidence": confidence, "resamples": resamples, "seed": seed}
    named = _named([read_scores(path) for path in runs], runs)
    first, *others = named
    comparisons = []
    for other in others:
        with task(f"comparing {first.name} and {other.name}", resamples) as bar:
            found = _values(compare(first, other, progress=bar.at, **chosen))
            if per_class:
                found["per_class"] = [
                    {
                        "label": row.label,
                        "n_queries": row.n_queries,
                        "n_relevant": row.n_relevant,
                        "metrics": _metrics(row.metrics),
                    }
                    for row in compare_classes(first, other, **chosen)
                ]
        comparisons.append(found)
    own = []
    for one in named:
        found = intervals(one, **chosen)
        own.append({name: [value.low, value.high] for name, value in found.items()})
    return {
        "runs": [one.name for one in named],
        **chosen,
        "about": ABOUT,
        "headlines": [one.headline for one in named],
        "intervals": own,
        "left_out": [one.left_out for one in named],
        "comparisons": comparisons,
    }


def print_comparisons(result: Mapping[str, Any]) -> None:
    """Tables: each run's intervals, each pair's differences, those of its classes; then notes."""
    out = standard_output()
    percent = f"{100 * result['confidence']:g} %"
    out.print(_interval_table(result, percent))
    for pair in result["comparisons"]:
        out.print(_table(pair, percent, resamples=result["resamples"]))
        if "per_class" in pair:
            out.print(_class_table(pair, percent, confidence=result["confidence"]))
        for note in pair["notes"]:
            out.print(note, markup=False, highlight=False)
    for run, left_out in zip(result["runs"], result["left_out"], strict=True):
        for metric, reason in left_out.items():
            out.print(f"{run}: {metric} is left out: {reason}", markup=False, highlight=False)
    out.print(result["about"], markup=False, highlight=False)


def _named(scores: Sequence[QueryScores], runs: Sequence[Path]) -> list[QueryScores]:
    """The scores with names: the run's folder, with as many parents as make the names differ."""
    parts = [path.resolve().parts for path in runs]
    depth = 1
    while len({one[-depth:] for one in parts}) < len({*parts}):
        depth += 1
    names = [str(Path(*one[-depth:])) for one in parts]
    return [replace(one, name=name) for one, name in zip(scores, names, strict=True)]


def _values(found: Comparison) -> dict[str, Any]:
    return {
        "first": found.first,
        "second": found.second,
        "n_queries": found.n_queries,
        "n_gallery": found.n_gallery,
        "metrics": _metrics(found.metrics),
        "left_out": found.left_out,
        "notes": list(found.notes),
    }


def _metrics(differences: Mapping[str, Difference]) -> dict[str, Any]:
    return {
        metric: {
            "first": found.first,
            "second": found.second,
            "difference": found.difference,
            "low": found.low,
            "high": found.high,
            "share_above_zero": found.share_above_zero,
            "beyond_queries": found.beyond_queries,
            "better": _better(metric, found),
        }
        for metric, found in differences.items()
    }


def _better(metric: str, found: Difference) -> str | None:
    """``first`` or ``second``; None where the choice of queries may explain the difference."""
    if not found.beyond_queries:
        return None
    return "second" if (found.low > 0.0) != (metric in LOWER_IS_BETTER) else "first"


def _interval_table(result: Mapping[str, Any], percent: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption=f"value and {percent} interval of each run alone")
    table.add_column("metric")
    for run in result["runs"]:
        table.add_column(Text(run), justify="right", overflow="fold")
    columns = list(zip(result["headlines"], result["intervals"], strict=True))
    for metric in HEADLINES:
        cells = [
            f"{values[metric]:.3f} [{low_high[metric][0]:.3f}, {low_high[metric][1]:.3f}]"
            if metric in low_high
            else "–"
            for values, low_high in columns
        ]
        table.add_row(metric, *map(Text, cells))
    return table


def _table(pair: Mapping[str, Any], percent: str, *, resamples: int) -> Table:
    table = _columns(
        pair,
        "metric",
        percent,
        caption=f"{pair['n_queries']} queries · {pair['n_gallery']} shapes · {resamples} "
        "resamples · ANMRR: lower is better · better: beyond the choice of queries",
    )
    for metric, found in pair["metrics"].items():
        table.add_row(Text(metric), *_cells(pair, found))
    return table


def _class_table(pair: Mapping[str, Any], percent: str, *, confidence: float) -> Table:
    rows = pair["per_class"]
    shown = [metric for metric in OF_A_CLASS if metric in rows[0]["metrics"]]
    by_chance = (1.0 - confidence) * len(rows)
    table = _columns(
        pair,
        "class (queries)",
        percent,
        caption="within each class · better: beyond the choice of queries, of each metric about "
        f"{by_chance:.1f} times in {len(rows)} classes by chance alone",
    )
    for row in rows:
        table.add_row(Text(f"{row['label']} ({row['n_queries']})", "bold"))
        for metric in shown:
            table.add_row(Text(f"  {metric}"), *_cells(pair, row["metrics"][metric]))
    return table


def _columns(pair: Mapping[str, Any], first: str, percent: str, *, caption: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption=caption)
    table.add_column(first, overflow="fold")
    for run in (pair["first"], pair["second"]):
        table.add_column(Text(run), justify="right", overflow="fold", min_width=5)
    table.add_column(f"difference, {percent} interval", justify="right", no_wrap=True)
    table.add_column("above 0", justify="right", no_wrap=True)
    table.add_column("better", overflow="fold")
    return table


def _cells(pair: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[Text, ...]:
    better = found["better"]
    return (
        Text(f"{found['first']:.3f}"),
        Text(f"{found['second']:.3f}"),
        Text(f"{_signed(found['difference'])} {_bounds(found)}"),
        Text(f"{100 * found['share_above_zero']:.1f} %"),
        Text(pair[better], "bold") if better else Text("–"),
    )


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _bounds(found: Mapping[str, Any]) -> str:
    return f"[{_signed(found['low'])}, {_signed(found['high'])}]"

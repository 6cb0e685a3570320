"""One self-contained HTML file about a sweep: results, failures with their reasons, and cost."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from evalsuite.pages.headline import MEASURES, number
from evalsuite.pages.page_templates import render_page
from evalsuite.pages.sweep_plots import TransferMatrix, transfer_matrix
from evalsuite.pages.sweep_rows import (
    SEED_AXES,
    LedgerRow,
    axis_names,
    axis_words,
    best_first,
    cell_words,
    is_oracle,
    label_words,
    main_metric,
    method_name,
    metric_of,
    seed_table,
)
from evalsuite.pages.sweep_views import curve_groups, parallel_view
from evalsuite.scoring import LOWER_IS_BETTER
from evalsuite.statistics import seed_half_width
from evalsuite.tables import ResultTable, to_html

_STATES = ("finished", "stopped", "failed")
_MOST_WORDS = 600


@dataclass(frozen=True)
class _Number:
    """A number of the table: as shown, and as sorted ("" if unknown)."""

    text: str
    sort: str


def write_sweep_page(
    rows: Sequence[LedgerRow],
    out: Path,
    *,
    title: str,
    planned: Mapping[str, Any],
    matrices: Sequence[TransferMatrix] = (),
    links_from: Path,
    tables: Sequence[ResultTable] = (),
) -> Path:
    """Write the page of a sweep's ledger rows to the file ``out`` in one step, and return ``out``.

    ``planned`` may hold ``skipped``, a list of {"cell": labels, "reason": words}, and ``counts``,
    further numbers by their words ("planned", "to run"). A row's ``run`` is a folder under
    ``links_from`` (or an absolute one); a cell is linked to the ``report.html`` in it if that file
    exists. Without ``tables``, one table is made of the means over seeds. The same rows and files
    give the same bytes; the page needs no network and no JavaScript.
    """
    out = Path(out)
    by_state = {state: [row for row in rows if row.get("status") == state] for state in _STATES}
    finished = by_state["finished"]
    metric = main_metric(finished)
    axes = axis_names(rows)
    skipped = planned.get("skipped") or []
    if not tables and (summary := seed_table(finished)) is not None:
        tables = [summary]
    return render_page(
        out,
        "sweep.html.j2",
        title=title,
        counts=_counts(by_state, len(skipped), planned.get("counts") or {}),
        totals=_totals(rows),
        best=_best(finished, metric, axes),
        metric=metric,
        tables=[Markup(to_html(table)) for table in tables],
        cells=_cell_table(finished, axes, out=out, links_from=Path(links_from)),
        matrices=[
            (matrix, transfer_matrix(matrix, name=f"matrix-{index}"), _reasons(matrix))
            for index, matrix in enumerate(matrices)
        ],
        parallel=parallel_view(finished, metric),
        curves=curve_groups([*finished, *by_state["stopped"]], metric),
        lower_is_better=metric in LOWER_IS_BETTER,
        failed=[_ended(row, axes) for row in by_state["failed"]],
        stopped=[_ended(row, axes) for row in by_state["stopped"]],
        skipped=_by_reason(skipped),
        skipped_count=len(skipped),
    )


def _counts(
    by_state: Mapping[str, Sequence[LedgerRow]], skipped: int, more: Mapping[str, int]
) -> list[tuple[str, int]]:
    return [
        *((str(words), int(count)) for words, count in more.items()),
        *((state, len(rows)) for state, rows in by_state.items()),
        ("skipped", skipped),
    ]


def _totals(rows: Sequence[LedgerRow]) -> list[tuple[str, str]]:
    """Hours that all cells together took, as far as their rows say."""
    names = (("cpu_seconds", "CPU hours"), ("gpu_seconds", "GPU hours"))
    totals = []
    for key, words in names:
        known = [value for row in rows if math.isfinite(value := number(row.get(key)))]
        if any(known):
            totals.append((words, f"{math.fsum(known) / 3600:.2f}"))
    return totals


def _best(finished: Sequence[LedgerRow], metric: str, axes: Sequence[str]) -> dict[str, Any] | None:
    """The setting with the best mean over its seeds, of those whose checkpoints no label of the
    target has chosen; else of all. Its interval is over seeds, or over queries for one seed."""
    honest = [row for row in finished if not is_oracle(row)] or finished
    down = [name for name in axes if name not in SEED_AXES]
    settings: dict[tuple[str, ...], list[LedgerRow]] = {}
    for row in best_first(honest, metric):
        if math.isfinite(metric_of(row, metric)):
            place = tuple(label_words((row.get("cell") or {}).get(name)) for name in down)
            settings.setdefault(place, []).append(row)
    means = [
        (math.fsum(metric_of(row, metric) for row in rows) / len(rows), rows)
        for rows in settings.values()
    ]
    if not means:
        return None
    choose = min if metric in LOWER_IS_BETTER else max
    mean, rows = choose(means, key=lambda found: found[0])
    text, words = f"{mean:.3f}", cell_words(rows[0], axes)
    if len(rows) == 1:
        interval = _interval(rows[0], metric)
        words += (
            f" · one seed; 95 % interval over queries {interval}" if interval else " · one seed"
        )
    else:
        setting = cell_words(rows[0], down) if down else method_name(rows[0])
        words = f"{setting} · mean over {len(rows)} seeds with its 95 % interval"
        text += f" ± {seed_half_width([metric_of(row, metric) for row in rows]):.3f}"
    return {"text": text, "cell": words, "oracle": is_oracle(rows[0])}


def _cell_table(
    finished: Sequence[LedgerRow], axes: Sequence[str], *, out: Path, links_from: Path
) -> dict[str, Any]:
    """Axes (name, short name, all numbers?), measures that some cell has, and one row a cell."""
    measures = [
        measure
        for measure in MEASURES
        if any(math.isfinite(metric_of(row, measure.key)) for row in finished)
    ]
    metric = main_metric(finished)
    rows = [
        {
            "labels": [label_words((row.get("cell") or {}).get(name)) for name in axes],
            "key": str(row.get("key", "")),
            "method": method_name(row),
            "selection": _selection(row),
            "is_oracle": is_oracle(row),
            "metrics": [_shown(metric_of(row, m.key), ".3f") for m in measures],
            "intervals": [_interval(row, m.key) for m in measures],
            "oracle": _shown(metric_of(row.get("oracle") or {}, metric), ".3f"),
            "cost": [_shown(value, form) for value, form in _cost(row)],
            "link": _link(row, out=out, links_from=links_from),
        }
        for row in best_first(finished, metric)
    ]
    labels = [[(row.get("cell") or {}).get(name) for row in finished] for name in axes]
    heads = [
        (name, word, all(math.isfinite(number(label)) for label in column))
        for name, word, column in zip(axes, axis_words(axes), labels, strict=True)
    ]
    return {"axes": heads, "measures": measures, "metric": metric, "rows": rows}


def _cost(row: LedgerRow) -> list[tuple[float, str]]:
    """Images in a second, seconds in all, CPU hours and GPU hours."""
    seconds = row.get("seconds") or {}
    return [
        (number(row.get("images_per_second")), ".1f"),
        (number(seconds.get("total", seconds.get("train"))), ".1f"),
        (number(row.get("cpu_seconds")) / 3600, ".3f"),
        (number(row.get("gpu_seconds")) / 3600, ".3f"),
    ]


def _interval(row: LedgerRow, name: str) -> str:
    bounds = (row.get("intervals") or {}).get(name) or ()
    values = [number(bound) for bound in bounds]
    if len(values) != 2 or not all(map(math.isfinite, values)):
        return ""
    return f"[{values[0]:.3f}, {values[1]:.3f}]"


def _shown(value: float, form: str) -> _Number:
    """The text, and its own digits to sort by, so that equal texts sort as equal."""
    if not math.isfinite(value):
        return _Number("–", "")
    text = f"{value:{form}}"
    return _Number(text.replace("-", "−"), text)


def _selection(row: LedgerRow) -> str:
    """``im on target_shapes/train, step 400``."""
    chosen = row.get("selected") or {}
    words = str(chosen.get("selection") or row.get("selection") or "–")
    step = chosen.get("step")
    return words if step is None else f"{words}, step {step}"


def _link(row: LedgerRow, *, out: Path, links_from: Path) -> str:
    """The run's report relative to the page, empty if there is none."""
    run = row.get("run")
    if not isinstance(run, str) or not run:
        return ""
    report = links_from / run / "report.html"
    if not report.is_file():
        return ""
    return quote(Path(os.path.relpath(report, out.parent)).as_posix())


def _ended(row: LedgerRow, axes: Sequence[str]) -> dict[str, Any]:
    """A cell without results: its last step, and the reason."""
    curve = row.get("curve") or []
    step = curve[-1].get("step") if curve else None
    return {
        "cell": cell_words(row, axes),
        "key": str(row.get("key", "")),
        "step": "–" if step is None else str(step),
        "attempts": str(row.get("attempts", "–")),
        "words": _cut(row.get("error") or "no reason was recorded"),
    }


def _by_reason(skipped: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The cells that were not trained, by reason, in the order of first appearance."""
    groups: dict[str, list[str]] = {}
    for one in skipped:
        labels = one.get("cell") or {}
        words = cell_words({"cell": labels}, list(labels))
        groups.setdefault(_cut(one.get("reason") or "no reason was given"), []).append(words)
    return list(groups.items())


def _reasons(matrix: TransferMatrix) -> list[tuple[str, str]]:
    return [(f"{s} → {t}", why) for (s, t), why in matrix.reasons.items()]


def _cut(words: object) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= _MOST_WORDS else text[:_MOST_WORDS] + "…"

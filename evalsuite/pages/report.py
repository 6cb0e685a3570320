"""One self-contained HTML file about one or more runs: numbers, curves, pictures, origins.

`view_run` reads a run folder, `build_report` writes the page. The page needs no network, follows
the reader's light or dark mode, prints, and works without JavaScript. The same runs give the same
bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.pages import plots
from evalsuite.pages.class_views import class_bars, confusions
from evalsuite.pages.domains import domain_section
from evalsuite.pages.headline import MEASURES, cautions, headline_rows
from evalsuite.pages.page_templates import render_page
from evalsuite.pages.provenance import comparisons
from evalsuite.pages.runs import RunLine, RunView, run_lines
from evalsuite.pages.signals import signal_panels
from evalsuite.pages.strips import PicturesByKey, retrieval_strips
from evalsuite.vectors import EvaluationError

_RECALLS = (0.1, 0.25, 0.5, 0.75)


def build_report(
    runs: Sequence[RunView], out: Path, *, title: str, pictures: PicturesByKey | None = None
) -> Path:
    """Write the report of `runs` to the file `out`, replacing it in one step, and return `out`.

    `pictures` maps sample keys to encoded PNG or JPEG bytes for the retrieval strips (a shape's
    views may be stacked vertically); without it the strips show class names. A sentence takes the
    place of a part for which a run has no files. Raises EvaluationError if there is no run.
    """
    if not runs:
        raise EvaluationError("a report needs at least one run folder")
    lines = run_lines(runs)
    return render_page(
        out,
        "report.html.j2",
        title=title,
        lines=lines,
        **_summary(runs, lines),
        strips=retrieval_strips(runs, lines, pictures=pictures),
        **_curves(runs, lines),
        bars=class_bars(runs, lines),
        confusions=confusions(runs, lines),
        domains=domain_section(runs, lines),
        signals=signal_panels(
            [run.log + run.validation for run in runs], [line.index for line in lines]
        ),
        without_log=[line.name for run, line in zip(runs, lines, strict=True) if not run.log],
        comparisons=comparisons(runs),
        configs=[(line.name, run.config_text) for run, line in zip(runs, lines, strict=True)],
    )


def _summary(runs: Sequence[RunView], lines: Sequence[RunLine]) -> dict[str, Any]:
    rows = headline_rows(runs, [line.name for line in lines])
    precision = np.array([row.cells[-1].value for row in rows])
    best = 0 if np.all(np.isnan(precision)) else int(np.nanargmax(precision))
    first = runs[0].evaluation
    counts = (
        (first.n_evaluated, "queries"),
        (first.n_gallery, "shapes"),
        (first.n_missing, "queries left out because their class has no shape"),
    )
    return {
        "measures": MEASURES,
        "rows": rows,
        "best": rows[best],
        "has_yardstick": any(row.is_source_only for row in rows) and len(rows) > 1,
        "has_intervals": any(cell.interval for row in rows for cell in row.cells),
        "first": runs[0].info,
        "counts": [(words, count) for count, words in counts if count],
        "options": list(asdict(first.options).items()),
        "behind": first.headline_variants,
        "variants": _variants(runs),
        "cautions": cautions(runs, [line.name for line in lines]),
    }


def _variants(runs: Sequence[RunView]) -> list[tuple[str, list[float]]]:
    found = [run.evaluation.variants for run in runs]
    names = dict.fromkeys(name for variants in found for name in variants)
    return [(name, [variants.get(name, math.nan) for variants in found]) for name in names]


def _curves(runs: Sequence[RunView], lines: Sequence[RunLine]) -> dict[str, Any]:
    """The pooled curves in one figure, and their precision at a few recalls, NaN out of reach."""
    series, rows = [], []
    for run, line in zip(runs, lines, strict=True):
        pooled = run.evaluation.curves.pooled()
        known = np.isfinite(pooled["recall"]) & np.isfinite(pooled["precision"])
        recall, precision = pooled["recall"][known], pooled["precision"][known]
        if len(recall):
            series.append(plots.Series(line.index, recall, precision))
            values = np.interp(_RECALLS, recall, precision, left=np.nan, right=np.nan)
            rows.append((line.name, values.tolist()))
    figure = plots.curves(series, name="pr") if series else None
    return {"pr_figure": figure, "pr_recalls": _RECALLS, "pr_rows": rows}

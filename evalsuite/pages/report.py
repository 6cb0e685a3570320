"""One self-contained HTML file about one or more runs: numbers, curves, pictures, origins.

`load_run` reads a run folder, `build_report` writes the page. The page needs no network, follows
the reader's light or dark mode, prints, and works without JavaScript. The same runs give the same
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.atomic import write_atomically
from evalsuite.pages import plots
from evalsuite.pages.class_views import class_bars, confusions
from evalsuite.pages.domains import domain_section
from evalsuite.pages.headline import MEASURES, OPTIONS, cautions, headline_rows, number
from evalsuite.pages.lines import RunLine, run_lines
from evalsuite.pages.page_templates import page_template
from evalsuite.pages.provenance import comparisons
from evalsuite.pages.runs import RunView
from evalsuite.pages.signals import signal_panels
from evalsuite.pages.strips import Pictures, retrieval_strips
from evalsuite.vectors import EvaluationError

_RECALLS = (0.1, 0.25, 0.5, 0.75)


def build_report(
    runs: Sequence[RunView], out: Path, *, title: str, pictures: Pictures | None = None
) -> Path:
    """Write the report of `runs` to the file `out`, replacing it in one step, and return `out`.

    `pictures` maps sample keys to encoded PNG or JPEG bytes for the retrieval strips (a shape's
    views may be stacked vertically); without it the strips show class names. Parts for which a run
    has no files are replaced by a sentence saying so. Raises EvaluationError if there is no run, or
    a run has not been evaluated.
    """
    if not runs:
        raise EvaluationError("a report needs at least one run folder")
    for run in runs:
        if run.metrics is None:
            raise EvaluationError(f"{run.path} has no metrics; run `img2shape eval {run.path}`")
    lines = run_lines(runs)
    page = page_template("report.html.j2").render(
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
    target = Path(out)
    write_atomically(target, lambda temporary: _write(temporary, page))
    return target


def _write(path: Path, page: str) -> None:
    path.write_text(page, encoding="utf-8")


def _summary(runs: Sequence[RunView], lines: Sequence[RunLine]) -> dict[str, Any]:
    rows = headline_rows(runs, [line.name for line in lines])
    precision = np.array([row.cells[-1].value for row in rows])
    best = 0 if np.all(np.isnan(precision)) else int(np.nanargmax(precision))
    metrics = runs[0].metrics or {}
    return {
        "measures": MEASURES,
        "rows": rows,
        "best": rows[best],
        "has_yardstick": any(row.is_source_only for row in rows) and len(rows) > 1,
        "has_intervals": any(cell.interval for row in rows for cell in row.cells),
        "first": runs[0].info,
        "counts": [
            (words, metrics[key])
            for key, words in (
                ("n_evaluated", "queries"),
                ("n_gallery", "shapes"),
                ("n_missing", "queries left out because their class has no shape"),
            )
            if metrics.get(key)
        ],
        "options": [(option, metrics[option]) for option in OPTIONS if option in metrics],
        "behind": metrics.get("headline_variants") or {},
        "variants": _variants(runs),
        "cautions": cautions(runs, [line.name for line in lines]),
    }


def _variants(runs: Sequence[RunView]) -> list[tuple[str, list[float]]]:
    found = [(run.metrics or {}).get("variants") or {} for run in runs]
    names = dict.fromkeys(name for variants in found for name in variants)
    return [(name, [number(variants.get(name)) for variants in found]) for name in names]


def _curves(runs: Sequence[RunView], lines: Sequence[RunLine]) -> dict[str, Any]:
    """The pooled curves in one figure, and their precision at a few recalls, NaN out of reach."""
    series, rows = [], []
    for run, line in zip(runs, lines, strict=True):
        recall, precision = _pooled_curve(run.metrics or {})
        if len(recall):
            series.append(plots.Series(line.index, recall, precision))
            values = np.interp(_RECALLS, recall, precision, left=np.nan, right=np.nan)
            rows.append((line.name, values.tolist()))
    figure = plots.curves(series, name="pr") if series else None
    return {"pr_figure": figure, "pr_recalls": _RECALLS, "pr_rows": rows}


def _pooled_curve(metrics: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision [points]; under protocol shrec pr_recall is another curve."""
    pooled = (metrics.get("curves") or {}).get("pooled")
    if not pooled:
        pooled = {name: metrics.get(f"pr_{name}") or [] for name in ("recall", "precision")}
    points = zip(pooled["recall"], pooled["precision"], strict=False)
    known = np.array([(number(r), number(p)) for r, p in points]).reshape(-1, 2)
    known = known[np.isfinite(known).all(axis=1)]
    return known[:, 0], known[:, 1]

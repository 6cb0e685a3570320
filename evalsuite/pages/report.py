"""One self-contained HTML file about one or more runs: numbers, curves, pictures, origins.

`view_run` reads a run folder, `build_report` writes the page. The page needs no network, follows
the reader's light or dark mode, prints, and works without JavaScript. The same runs give the same
bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from evalsuite.pages import plots
from evalsuite.pages.class_views import class_bars, confusions
from evalsuite.pages.domains import domain_section
from evalsuite.pages.headline import MEASURES, cautions, headline_rows, instance_rows, number
from evalsuite.pages.page_templates import render_page
from evalsuite.pages.runs import RunLine, RunView, run_lines
from evalsuite.pages.strips import PicturesByKey, retrieval_strips
from evalsuite.scoring import INSTANCE_METRICS, CurveName
from evalsuite.vectors import EvaluationError

_RECALLS = (0.1, 0.25, 0.5, 0.75)

GROUPS = ("Loss, rate and time", "Loss terms", "Health signals", "Scores on the way")
"""Headings of the panels, in order."""

_TOTALS = {
    "loss": "loss",
    "learning_rate": "learning rate",
    "seconds": "seconds",
}


def build_report(
    runs: Sequence[RunView],
    out: Path,
    *,
    title: str,
    pictures: PicturesByKey | None = None,
    origins: Mapping[str, str] | None = None,
    curve: CurveName = "pooled",
) -> Path:
    """Write the report of `runs` to the file `out`, replacing it in one step, and return `out`.

    `pictures` maps sample keys to encoded PNG or JPEG bytes for the retrieval strips (a shape's
    views may be stacked vertically); without it the strips show class names. `origins` maps sample
    keys to the files that they were made of. `curve` is the precision-recall curve that is drawn:
    all queries `pooled`, or `shrec`, their mean at 20 recall levels. A sentence takes the place of
    a part for which a run has no files. Raises EvaluationError if there is no run.
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
        strips=retrieval_strips(runs, lines, pictures=pictures, origins=origins),
        **_curves(runs, lines, curve),
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
        "instances": instance_rows(runs, [line.name for line in lines]),
        "instance_metrics": [name.replace("_", " ") for name in INSTANCE_METRICS],
        "cautions": cautions(runs, [line.name for line in lines]),
    }


def _variants(runs: Sequence[RunView]) -> list[tuple[str, list[float]]]:
    found = [run.evaluation.variants for run in runs]
    names = dict.fromkeys(name for variants in found for name in variants)
    return [(name, [variants.get(name, math.nan) for variants in found]) for name in names]


def _curves(runs: Sequence[RunView], lines: Sequence[RunLine], curve: CurveName) -> dict[str, Any]:
    """The curves in one figure, and their precision at a few recalls, NaN out of reach."""
    series, rows = [], []
    for run, line in zip(runs, lines, strict=True):
        recall, precision = run.evaluation.curves.drawn(curve)
        if len(recall):
            series.append(plots.Series(line.index, recall, precision))
            values = np.interp(_RECALLS, recall, precision, left=np.nan, right=np.nan)
            rows.append((line.name, values.tolist()))
    figure = plots.curves(series, name="pr") if series else None
    return {"curve": curve, "pr_figure": figure, "pr_recalls": _RECALLS, "pr_rows": rows}


@dataclass(frozen=True)
class SignalPanel:
    """One panel: its title, its drawing and how many logged values were not finite numbers."""

    title: str
    svg: Markup
    not_finite: int


def signal_panels(
    logs: Sequence[Sequence[Mapping[str, Any]]], runs: Sequence[int]
) -> dict[str, list[SignalPanel]]:
    """Panels by group, empty groups left out; `runs` gives the colour index of each log."""
    lines: dict[tuple[str, str], dict[int, list[tuple[float, float]]]] = {}
    for run, log in zip(runs, logs, strict=True):
        for position, record in enumerate(log):
            step = number(record.get("step", position))
            for place, value in _values(record):
                lines.setdefault(place, {}).setdefault(run, []).append((step, value))
    panels: dict[str, list[SignalPanel]] = {}
    for group in GROUPS:
        titles = [title for of_group, title in lines if of_group == group]
        drawn = [
            _panel(title, lines[group, title], name=f"signal-{GROUPS.index(group)}-{index}")
            for index, title in enumerate(titles)
        ]
        if drawn:
            panels[group] = drawn
    return panels


def _values(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], float]]:
    for key, title in _TOTALS.items():
        if key in record:
            for suffix, value in _parts(record[key]):
                yield (GROUPS[0], title + suffix), value
    for key, group in (("terms", GROUPS[1]), ("health", GROUPS[2]), ("scores", GROUPS[3])):
        entries = record.get(key)
        if isinstance(entries, Mapping):
            for name, value in entries.items():
                yield (group, str(name).replace("_", " ")), number(value)


def _parts(value: object) -> Iterator[tuple[str, float]]:
    """One number, or several by name, such as the learning rates of parameter groups."""
    if isinstance(value, Mapping):
        yield from ((f", {name}", number(part)) for name, part in value.items())
    else:
        yield "", number(value)


def _panel(title: str, lines: Mapping[int, list[tuple[float, float]]], *, name: str) -> SignalPanel:
    series = []
    for run, points in lines.items():
        x, y = np.array(points, dtype=np.float64).T
        known = np.isfinite(x)
        series.append(plots.Series(run, x[known], y[known]))
    not_finite = sum(int((~np.isfinite(line.y)).sum()) for line in series)
    return SignalPanel(title, plots.signal(series, name=name, title=title), not_finite)


@dataclass(frozen=True)
class SideBySide:
    """A table with one column a run. Each row is (its name, one text a run)."""

    title: str
    rows: list[tuple[str, list[str]]]


def comparisons(runs: Sequence[RunView]) -> list[SideBySide]:
    """Identity, data, differing options, timings and versions, without the empty tables."""
    facts = ("method", "dataset", "seed", "world_size", "steps", "parameters", "status")
    identity = _side_by_side([_chosen(run.info, facts) for run in runs])
    data = _side_by_side([_mapping(run.info.get("data")) for run in runs])
    timings = _side_by_side(
        [
            {phase: duration(number(seconds)) for phase, seconds in _mapping(timing).items()}
            for timing in (run.info.get("timings") for run in runs)
        ]
    )
    versions = _side_by_side([_mapping(run.info.get("versions")) for run in runs])
    tables = {
        "Training": identity,
        "Data": data,
        "Options that differ": config_differences([run.config_text for run in runs]),
        "Timings": timings,
        "Versions": versions,
    }
    return [SideBySide(title, rows) for title, rows in tables.items() if rows]


def config_differences(texts: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The options on which the configurations differ, as (dotted name, one value a configuration).

    A text that is not YAML counts as a configuration without options.
    """
    rows = _side_by_side([_flat(_parsed(text)) for text in texts])
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def duration(seconds: float) -> str:
    """A time in the two units that matter: `8.4 s`, `3 min 12 s`, `2 h 05 min`."""
    if not seconds >= 0:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _chosen(info: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key.replace("_", " "): info[key] for key in keys if key in info}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _side_by_side(columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [
        (str(name), [_word(column[name]) if name in column else "–" for column in columns])
        for name in names
    ]


def _word(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}".replace(",", "\u202f")  # narrow no-break space between thousands
    return str(value)


def _parsed(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return {}


def _flat(value: object, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value} if prefix else {}
    parts: dict[str, Any] = {}
    for key, part in value.items():
        parts |= _flat(part, f"{prefix}.{key}" if prefix else str(key))
    return parts

"""The training log as panels of curves: one panel per logged value, one line per run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from evalsuite.pages import plots
from evalsuite.pages.headline import number

GROUPS = ("Loss, rate and time", "Loss terms", "Health signals", "Scores on the way")
"""Headings of the panels, in order."""

_TOTALS = {
    "loss": "loss",
    "learning_rate": "learning rate",
    "seconds": "seconds",
}


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

"""Results class by class: bars of the measures, and the nearest neighbour's confusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from evalsuite.pages import plots
from evalsuite.pages.headline import number
from evalsuite.pages.runs import RunLine, RunView
from evalsuite.search import nearest_rows, selected
from evalsuite.vectors import Embeddings

_MOST_BARS = 40
_MOST_MIX_UPS = 4


@dataclass
class ClassBars:
    """Figures by measure; `shown` of `total` classes have bars."""

    figures: list[tuple[str, Markup]] = field(default_factory=list)
    shown: int = 0
    total: int = 0


@dataclass(frozen=True)
class Confusion:
    """One run's matrix, its share of right nearest shapes, and its most frequent mistakes.

    `mix_ups` holds (class of the query, class found, share of the class's queries).
    """

    name: str
    svg: Markup
    right: float
    mix_ups: list[tuple[str, str, float]]


def class_bars(runs: Sequence[RunView], lines: Sequence[RunLine]) -> ClassBars:
    """Average precision and first tier by class, sorted by the best run's average precision.

    Of more than 40 classes the 20 best and the 20 worst are shown.
    """
    tables = [
        (line, run.evaluation.per_query)
        for run, line in zip(runs, lines, strict=True)
        if len(run.evaluation.per_query)
    ]
    if not tables:
        return ClassBars()
    labels = sorted({name for _, table in tables for name in _evaluated_labels(table)})
    precision = np.stack([_class_means(table, "AP", labels) for _, table in tables])
    best = int(np.argmax(np.nan_to_num(precision).mean(axis=1)))
    order = np.argsort(-np.nan_to_num(precision[best]), kind="stable")
    if len(order) > _MOST_BARS:
        order = np.concatenate([order[: _MOST_BARS // 2], order[-_MOST_BARS // 2 :]])
    bars = ClassBars(shown=len(order), total=len(labels))
    for measure, words in (("AP", "Average precision"), ("FT", "First tier")):
        values = np.stack([_class_means(table, measure, labels) for _, table in tables])
        figure = plots.bars_by_class(
            [labels[row] for row in order],
            values[:, order],
            runs=[line.index for line, _ in tables],
            name=f"classes-{measure}",
            measure=words,
        )
        bars.figures.append((words, figure))
    return bars


def _evaluated_labels(table: pa.Table) -> set[str]:
    labels, precision = (table.column(name).to_pylist() for name in ("label", "AP"))
    return {label for label, value in zip(labels, precision, strict=True) if value is not None}


def _class_means(table: pa.Table, measure: str, labels: Sequence[str]) -> np.ndarray:
    """Means over the evaluated queries of each class, float64 [class], NaN where there are none."""
    means = table.group_by("label").aggregate([(measure, "mean")]).to_pydict()
    by_label = dict(zip(means["label"], means[f"{measure}_mean"], strict=True))
    return np.array([number(by_label.get(label)) for label in labels])


def confusions(runs: Sequence[RunView], lines: Sequence[RunLine]) -> list[Confusion]:
    """One matrix for every run that has embeddings of both domains."""
    drawn = []
    for position, (run, line) in enumerate(zip(runs, lines, strict=True)):
        if run.queries is None or run.gallery is None:
            continue
        pair = _answerable(run.queries, run.gallery)
        if pair is None:
            continue
        first = nearest_rows(pair, run.gallery, k=1, options=run.evaluation.options)[:, 0]
        truth = np.asarray(pair.labels, dtype=str)
        found = np.asarray(run.gallery.labels, dtype=str)[first]
        classes = sorted(set(run.gallery.labels))
        shares = _shares(truth, found, classes)
        svg = plots.confusion(shares, classes, name=f"confusion-{position}", title=line.name)
        right = float(np.mean(found == truth))
        drawn.append(Confusion(line.name, svg, right, _mix_ups(shares, classes)))
    return drawn


def _answerable(queries: Embeddings, gallery: Embeddings) -> Embeddings | None:
    """The queries whose class has a shape; the measures count only these."""
    present = set(gallery.labels)
    rows = [row for row, label in enumerate(queries.labels) if label in present]
    return selected(queries, rows) if rows else None


def _shares(truth: np.ndarray, found: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (np.searchsorted(classes, truth), np.searchsorted(classes, found)), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _mix_ups(shares: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str, float]]:
    wrong = shares * (1 - np.eye(len(classes)))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_MIX_UPS]
    places = [divmod(int(place), len(classes)) for place in largest]
    return [(classes[i], classes[j], float(wrong[i, j])) for i, j in places if wrong[i, j] > 0]

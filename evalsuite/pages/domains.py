"""Queries and shapes in one space: t-SNE panels and A-distances before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from evalsuite.pages import plots
from evalsuite.pages.runs import RunLine, RunView
from evalsuite.pages.svg import CLASS_COLOURS
from evalsuite.search import searched_space
from evalsuite.statistics import even_sample, proxy_a_distance, tsne
from evalsuite.vectors import Embeddings

_OTHERS = len(CLASS_COLOURS) - 1


@dataclass(frozen=True)
class _Pair:
    """Both domains at one moment: labels [Q], [G], vectors [Q, D], [G, D], names of the runs."""

    labels: tuple[list[str], list[str]]
    vectors: tuple[np.ndarray, np.ndarray]
    names: list[str]


@dataclass(frozen=True)
class DomainPanel:
    """One t-SNE picture with its heading."""

    moment: str
    title: str
    svg: Markup


@dataclass(frozen=True)
class Gap:
    """Proxy A-distance of one run; None where there is nothing to compare with."""

    line: RunLine
    before: float | None
    after: float


@dataclass
class DomainSection:
    """What the page shows about the two domains."""

    panels: list[DomainPanel] = field(default_factory=list)
    legend: list[tuple[int, str]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    gap_figure: Markup | None = None
    before_is: str = ""
    """Name of the source-only run that stands in for untrained embeddings, if one does."""


def domain_section(
    runs: Sequence[RunView],
    lines: Sequence[RunLine],
    *,
    items_per_domain: int = 320,
    seed: int = 0,
) -> DomainSection:
    """Panels and distances of all runs that have embeddings, in the space their search compares.

    "Before" are the embeddings of the untrained network. Where a run has none, the first
    source-only run takes their place. Runs that start from the same embeddings share one panel.
    t-SNE sees `items_per_domain` queries and as many shapes, the same ones in every panel.
    """
    after = [
        _pair(run, run.queries, run.gallery, line.name)
        for run, line in zip(runs, lines, strict=True)
    ]
    before = [
        _pair(run, run.initial_queries, run.initial_gallery, line.name)
        for run, line in zip(runs, lines, strict=True)
    ]
    section = DomainSection()
    stages = [("Before training", _merged(before)), ("After training", after)]
    colours = _class_colours([pair for _, pairs in stages for pair in pairs if pair], section)
    for moment, pairs in stages:
        for pair in filter(None, pairs):
            title = "all runs" if len(pair.names) == len(runs) > 1 else ", ".join(pair.names)
            points = _map_points(pair, items_per_domain, seed=seed)
            svg = plots.domain_map(
                points.coordinates,
                np.array([colours.get(label, _OTHERS) for label in points.labels]),
                points.is_shape,
                name=f"map-{len(section.panels)}",
                title=f"{moment}, {title}",
            )
            section.panels.append(DomainPanel(moment, title, svg))
    section.gaps = _gaps(section, runs, before, after, lines=lines, seed=seed)
    if section.gaps:
        section.gap_figure = plots.domain_gaps(
            [gap.line.name for gap in section.gaps],
            [gap.before for gap in section.gaps],
            [gap.after for gap in section.gaps],
            runs=[gap.line.index for gap in section.gaps],
            name="gaps",
        )
    return section


def _pair(
    run: RunView, queries: Embeddings | None, gallery: Embeddings | None, name: str
) -> _Pair | None:
    if queries is None or gallery is None:
        return None
    options = run.evaluation.options
    vectors = (searched_space(queries, options), searched_space(gallery, options))
    return _Pair((queries.labels, gallery.labels), vectors, [name])


def _merged(pairs: Sequence[_Pair | None]) -> list[_Pair]:
    """Equal pairs once, with the names of all their runs."""
    distinct: list[_Pair] = []
    for pair in filter(None, pairs):
        twin = next((other for other in distinct if _equal(other, pair)), None)
        if twin is None:
            distinct.append(_Pair(pair.labels, pair.vectors, list(pair.names)))
        else:
            twin.names.extend(pair.names)
    return distinct


def _equal(first: _Pair, second: _Pair) -> bool:
    return all(map(np.array_equal, first.vectors, second.vectors))


def _class_colours(pairs: Sequence[_Pair], section: DomainSection) -> dict[str, int]:
    """Colour index by class; of many classes, ten at even steps through the sorted names."""
    labels = sorted({label for pair in pairs for side in pair.labels for label in side})
    total = len(labels)
    if total > _OTHERS:
        labels = [labels[row] for row in np.linspace(0, total - 1, _OTHERS).astype(int)]
    section.legend = list(enumerate(labels))
    if total > _OTHERS:
        section.legend.append((_OTHERS, f"{total - _OTHERS} other classes"))
    return {label: index for index, label in enumerate(labels)}


@dataclass(frozen=True)
class _MapPoints:
    coordinates: np.ndarray
    labels: list[str]
    is_shape: np.ndarray


def _map_points(pair: _Pair, items: int, *, seed: int) -> _MapPoints:
    drawn = [even_sample(labels, items, seed=seed) for labels in pair.labels]
    vectors = [side[rows] for side, rows in zip(pair.vectors, drawn, strict=True)]
    labels = [side[row] for side, rows in zip(pair.labels, drawn, strict=True) for row in rows]
    coordinates = tsne(np.concatenate(vectors))
    return _MapPoints(coordinates, labels, np.arange(len(labels)) >= len(drawn[0]))


def _gaps(
    section: DomainSection,
    runs: Sequence[RunView],
    before: Sequence[_Pair | None],
    after: Sequence[_Pair | None],
    *,
    lines: Sequence[RunLine],
    seed: int,
) -> list[Gap]:
    stand_in = next(
        (pair for run, pair in zip(runs, after, strict=True) if pair and run.is_source_only), None
    )
    gaps = []
    for start, end, line in zip(before, after, lines, strict=True):
        final = _distance(end, seed)
        if final is None:
            continue
        if start is None and stand_in is not None and end is not stand_in:
            section.before_is = stand_in.names[0]
            start = stand_in
        gaps.append(Gap(line, _distance(start, seed), final))
    return gaps


def _distance(pair: _Pair | None, seed: int) -> float | None:
    if pair is None or min(map(len, pair.labels)) < 4:
        return None
    return proxy_a_distance(*pair.vectors, seed=seed)

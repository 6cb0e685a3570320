"""What a dashboard is made of: panels in rows, annotations, and the variable that scopes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["timeseries", "stat", "heatmap", "state-timeline", "bargauge"]
GRID_WIDTH = 24  # columns of Grafana's grid


@dataclass(frozen=True)
class Panel:
    """One picture of a dashboard.

    Attributes:
        unit: Grafana's name of the unit: ``s``, ``bytes``, ``Bps``, ``percentunit`` (a ratio in
            [0, 1]), ``short`` (a count), ``none`` (a number as it is) and so on.
        expressions: (legend, PromQL) of each query; the legend may hold ``{{label}}``.
        kind: Grafana's panel type.
        description: shown at the panel's corner and in docs/monitoring.md.
        width: columns of 24.
        stacked: areas on each other, for parts of a whole.
        logarithmic: the value axis.
        states: names of the values 1, 2, .. of a state-timeline.
        name_only: a stat shows its legend, not its value: for series that are always 1.
    """

    title: str
    unit: str
    expressions: tuple[tuple[str, str], ...]
    kind: Kind
    description: str
    width: int = 8
    stacked: bool = False
    logarithmic: bool = False
    states: tuple[str, ...] = ()
    name_only: bool = False


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Annotation:
    """Marks on the time axis wherever ``expression`` is above 0.

    Attributes:
        text: may hold ``{{label}}``.
        color: Grafana's name.
    """

    name: str
    expression: str
    text: str
    color: str


@dataclass(frozen=True)
class Board:
    """A dashboard.

    Attributes:
        name: of its file, without ``.json``.
        uid: Grafana's key; an import with the same one replaces the dashboard.
        variable: the label that the reader chooses values of.
        of_metric: the family that these values are taken from.
    """

    name: str
    uid: str
    title: str
    description: str
    variable: str
    of_metric: str
    rows: tuple[Row, ...]
    annotations: tuple[Annotation, ...] = ()

    def panels(self) -> Iterator[Panel]:
        """All panels, from top to bottom."""
        for row in self.rows:
            yield from row.panels

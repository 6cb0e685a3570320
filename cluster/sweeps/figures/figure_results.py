"""Figures from the ledger: the cells run as one sweep, the runs' folders drawn into files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster.evaluation import SamplePictures
from cluster.sweeps import Outcome, Running, Store
from cluster.sweeps.figures.figure_description import PaperFigure, Parameter, value_label
from cluster.sweeps.tables import (
    DataChoice,
    Filling,
    LedgerRow,
    TableRow,
    published_row,
    run_parts,
    table_skips,
)
from cluster.terminal import task
from evalsuite.figures import (
    Bar,
    BarPanel,
    CurvePanel,
    DomainPanel,
    Drawing,
    Line,
    LinePanel,
    RunCurve,
    StripPanel,
    draw_bars,
    draw_curves,
    draw_domains,
    draw_lines,
    draw_strips,
    save_drawing,
)
from evalsuite.pages import PicturesByKey, RunView, view_run
from evalsuite.published import SOURCES
from evalsuite.search import searched_space
from evalsuite.statistics import proxy_a_distance
from evalsuite.vectors import EvaluationError
from trainer.config import parse_config
from trainer.inputs import OpenData
from trainer.runs import naming

A_DISTANCE = "proxy A-distance"
_FEWEST_ITEMS = 4  # of a domain, for the A-distance


def run_figures(
    figures: Sequence[PaperFigure],
    running: Running,
    *,
    name: str,
    out: Path,
    data: DataChoice = "procedural",
    quick: bool = False,
    seeds: int | None = None,
    keys: Sequence[str] = (),
) -> tuple[dict[str, dict[str, Path]], Outcome]:
    """Train what is missing of ``figures`` and draw them; returns the files of each by ending.

    Args:
        name: of the sweep.
        out: folder of the files, ``astn-3.svg`` and so on; other data and quick runs are in the
            files' names.
        seeds: trainings of each cell; None: each figure's own number.
        keys: ``key=value``, set in all cells above the figures' own.

    Raises:
        ConfigError, DataError: not one cell can be trained, as when the data sets are not there.
        EvaluationError: the folder of a run in the ledger is gone.
    """
    found, outcome = run_parts(
        figures, running, name=name, data=data, quick=quick, seeds=seeds, keys=keys
    )
    files = {}
    for figure, filling in zip(figures, found, strict=True):
        suffix = "" if data == "procedural" else f"-{data}"
        stem = out / f"{figure.name}{suffix}{'-quick' * quick}"
        with naming(stem), task(f"drawing {figure.name}"):
            drawing = draw(figure, filling, running.store, data=data, quick=quick)
            files[figure.name] = save_drawing(drawing, stem)
    return files, outcome


def draw(
    figure: PaperFigure,
    filling: Filling,
    store: Store,
    *,
    data: DataChoice = "procedural",
    quick: bool = False,
) -> Drawing:
    """The figure of what the ledger has; a place without a run says why.

    Raises:
        EvaluationError: the folder of a run in the ledger is gone.
    """
    assert figure.source is not None
    title = f"{SOURCES[figure.source]}, figure {figure.figure}: {figure.title}"
    if quick:
        title += " (--quick: it runs, the numbers mean nothing)"
    return _DRAWN[figure.kind](_Places(figure, filling, store, data), title)


class _Places:
    """What the places of a figure hold, by row and column."""

    def __init__(
        self, figure: PaperFigure, filling: Filling, store: Store, data: DataChoice
    ) -> None:
        self.figure, self._filling, self._store = figure, filling, store
        self._data: DataChoice = data
        self._skips = table_skips(figure, data)
        self.columns = figure.columns_on(data)
        self._views: dict[Path, RunView] = {}

    @property
    def notes(self) -> list[str]:
        """What stands below the figure: what its data are, and what is particular in it."""
        about = [self.figure.site(self._data).columns[name] for name in self.columns]
        notes = [f"{column.title}: {column.note}" for column in about if column.note]
        rows = [(row.label, row.at(self._data).note or row.note) for row in self.figure.rows]
        notes += [f"{label}: {note}" for label, note in rows if note]
        return [*notes, *self.figure.notes]

    def title(self, column: str) -> str:
        """What a column stands for."""
        return self.figure.site(self._data).columns[column].title

    def scored(self, label: str, column: str) -> list[LedgerRow]:
        """The ledger rows of the runs that finished, one for each seed."""
        return [r for r in self._filling.runs.get((label, column), ()) if r.get("metrics")]

    def missing(self, label: str, column: str) -> str:
        """Why a place has no run."""
        place = (label, column)
        runs = self._filling.runs.get(place, ())
        errors = [f"failed: {row['error']}" for row in runs if row.get("error")]
        reason = self._filling.reasons.get(place) or self._skips.get(place)
        return reason or next(iter(errors), "no run")

    def view(self, row: LedgerRow) -> RunView:
        """The folder of a run, read once."""
        folder = self._store.ledger.run_folder(row)
        if folder is None or not folder.is_dir():
            raise EvaluationError(
                f"{folder}: the folder of cell {row['key']} is gone; bring it back, or remove its "
                f"row {self._store.ledger.path / row['key']}.jsonl to train it again"
            )
        if folder not in self._views:
            self._views[folder] = view_run(folder)
        return self._views[folder]

    def first_view(self, label: str, column: str) -> RunView | None:
        """The run of the first seed, None where there is none."""
        rows = self.scored(label, column)
        return self.view(rows[0]) if rows else None


def _lines(places: _Places, title: str) -> Drawing:
    figure = places.figure
    panels = [
        [
            LinePanel(
                _panel_title(places, row, column),
                parameter.name,
                tuple(_line(places, row, column, parameter, m) for m in figure.metrics),
            )
            for parameter in figure.parameters
        ]
        for row in figure.rows
        for column in places.columns
    ]
    return draw_lines(title, panels, places.notes)


def _line(places: _Places, row: TableRow, column: str, parameter: Parameter, metric: str) -> Line:
    values = []
    for value in parameter.values:
        runs = places.scored(value_label(row, parameter, value), column)
        known = [run["metrics"].get(metric) for run in runs]
        values.append(tuple(float(number) for number in known if number is not None))
    printed = published_row(places.figure, row, column) if row.quoted else None
    published = {}
    if printed is not None and parameter.published_at is not None and metric in printed.metrics:
        published[parameter.published_at] = printed.metrics[metric]
    return Line(metric, parameter.values, tuple(values), published)


def _bars(places: _Places, title: str) -> Drawing:
    panels = [
        BarPanel(
            places.title(column),
            tuple(
                Bar(
                    row.label,
                    tuple(_distances(places, row.label, column)),
                    places.missing(row.label, column),
                )
                for row in places.figure.rows
            ),
        )
        for column in places.columns
    ]
    return draw_bars(title, panels, places.notes, measure=A_DISTANCE)


def _distances(places: _Places, label: str, column: str) -> list[float]:
    """Of queries and gallery of each run, in the space that its search compares."""
    found = []
    for run in places.scored(label, column):
        view = places.view(run)
        sides = [side for side in (view.queries, view.gallery) if side is not None]
        if len(sides) == 2 and min(map(len, sides)) >= _FEWEST_ITEMS:
            options = view.evaluation.options
            found.append(proxy_a_distance(*(searched_space(side, options) for side in sides)))
    return found


def _curves(places: _Places, title: str) -> Drawing:
    panels = [
        CurvePanel(
            places.title(column),
            tuple(
                RunCurve(
                    row.label,
                    tuple(places.view(r).evaluation for r in places.scored(row.label, column)),
                    places.missing(row.label, column),
                )
                for row in places.figure.rows
            ),
        )
        for column in places.columns
    ]
    return draw_curves(title, panels, places.notes, curve=places.figure.curve)


def _domains(places: _Places, title: str) -> Drawing:
    panels = [
        [
            DomainPanel(
                _panel_title(places, row, column),
                places.first_view(row.label, column),
                places.missing(row.label, column),
            )
            for row in places.figure.rows
        ]
        for column in places.columns
    ]
    return draw_domains(title, panels, places.notes, colouring=places.figure.colouring)


def _strips(places: _Places, title: str) -> Drawing:
    figure = places.figure
    panels = [
        StripPanel(
            _panel_title(places, row, column),
            places.first_view(row.label, column),
            _pictures(places.scored(row.label, column)),
            places.missing(row.label, column),
        )
        for column in places.columns
        for row in figure.rows
    ]
    return draw_strips(
        title,
        panels,
        places.notes,
        shown=figure.shown,
        queries=figure.queries,
        right=figure.right,
        wrong=figure.wrong,
    )


def _pictures(rows: Sequence[LedgerRow]) -> PicturesByKey | None:
    """Pictures of the data of the first run."""
    if not rows:
        return None
    return SamplePictures([OpenData(parse_config(rows[0]["config"], where=rows[0]["key"]))])


def _panel_title(places: _Places, row: TableRow, column: str) -> str:
    """The row, and the column where the figure has several."""
    several = len(places.columns) > 1
    return f"{row.label} · {places.title(column)}" if several else row.label


_DRAWN: Mapping[str, Callable[[_Places, str], Drawing]] = {
    "lines": _lines,
    "bars": _bars,
    "precision-recall": _curves,
    "t-sne": _domains,
    "strips": _strips,
}

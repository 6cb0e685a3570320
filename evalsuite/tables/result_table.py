"""Methods by measures, ours over seeds beside published figures: means, spreads, ranks, bests.

``build_table`` computes, ``evalsuite.tables.result_table_export`` writes Markdown, LaTeX, CSV and
HTML.

A number is an oracle's if its checkpoint was chosen with the target's labels. It is marked, and it
competes with oracles' numbers only.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from evalsuite.scoring import LOWER_IS_BETTER
from evalsuite.statistics import seed_difference
from evalsuite.vectors import EvaluationError

Numbers = Mapping[str, float | None]
"""Values by metric, None for one that is not known."""

Verdict = Literal["agrees", "disagrees", "not told apart", "equal in print"]
"""Whether ours has the sign of the published difference; the interval has to leave out zero."""


@dataclass(frozen=True)
class Column:
    """A data set or a pair, and the metrics shown for it.

    ``comparable``: published figures are about the same data, so that a difference means something.
    ``decimals``: of its numbers; None: the table's. ``trained``: False for counted numbers.
    """

    name: str
    metrics: tuple[str, ...]
    note: str = ""
    comparable: bool = True
    decimals: int | None = None
    trained: bool = True


@dataclass(frozen=True)
class Entry:
    """What is known of one row; every mapping is by column name.

    ``ours`` holds the metrics of each seed's run at the checkpoint that ``selection`` chose,
    ``oracle`` those of the checkpoint that the target's labels would have chosen. ``intervals``
    are (low, high) by metric, ``skipped`` says why a column has no run. ``seeds`` names the runs of
    ``ours`` in their order, so that those of two rows can be paired; None for a run without a seed.
    """

    label: str
    published: Mapping[str, Numbers] = field(default_factory=dict)
    ours: Mapping[str, Sequence[Numbers]] = field(default_factory=dict)
    seeds: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    oracle: Mapping[str, Sequence[Numbers]] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    note: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)
    selection: str = "last"


@dataclass(frozen=True)
class Place:
    """One column of numbers: a metric of a data set."""

    column: str
    metric: str


@dataclass(frozen=True)
class Value:
    """A mean over ``seeds`` runs; ``mean`` None where there is none. Published ones have 0 seeds.

    ``spread`` is the sample standard deviation, None below two seeds; ``difference`` is the mean
    minus the published figure.
    """

    mean: float | None = None
    spread: float | None = None
    seeds: int = 0
    interval: tuple[float, float] | None = None
    published: float | None = None
    difference: float | None = None
    best: bool = False


@dataclass(frozen=True)
class ToFull:
    """Ours minus the full method's row over ``pairs`` seeds, beside the same published difference.

    ``half_width`` is half of the paired 95 % t interval, None for one pair.
    """

    difference: float
    half_width: float | None
    pairs: int
    published: float
    verdict: Verdict


@dataclass(frozen=True)
class Rank:
    """Mean rank over ``counted`` of the ``places`` at which at least two rows compete."""

    average: float
    counted: int
    places: int


@dataclass(frozen=True)
class Line:
    """One side of a row, a value a place; ``side`` is ours, oracle or published."""

    side: str
    values: tuple[Value, ...]
    rank: Rank | None = None


@dataclass(frozen=True)
class Row:
    """An entry's lines, of those sides that it has; an oracle's ``ours`` is marked."""

    label: str
    lines: tuple[Line, ...]
    note: str
    skipped: Mapping[str, str]
    is_oracle: bool
    to_full: tuple[ToFull | None, ...] = ()
    """A value a place, or empty: the row of the full method, or a table without such a row."""


@dataclass(frozen=True)
class ResultTable:
    """Rows in the order given, their values in the order of ``places``."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    selections: tuple[str, ...]
    decimals: int
    ranked: bool
    full: str | None = None

    @property
    def places(self) -> tuple[Place, ...]:
        """What each value of a line is."""
        return tuple(Place(column.name, m) for column in self.columns for m in column.metrics)

    @property
    def spans(self) -> tuple[slice, ...]:
        """The places of each column."""
        ends = list(itertools.accumulate(len(column.metrics) for column in self.columns))
        return tuple(itertools.starmap(slice, zip([0, *ends], ends, strict=False)))

    @property
    def digits(self) -> tuple[int, ...]:
        """Decimals of each place."""
        return _digits(self.columns, self.decimals)

    @property
    def trained(self) -> tuple[bool, ...]:
        """Whether the numbers of each place are those of trainings."""
        return tuple(column.trained for column in self.columns for _ in column.metrics)

    @property
    def seeds(self) -> tuple[int, int]:
        """The fewest and the most runs behind a mean of ours, (0, 0) without any."""
        lines = [line for row in self.rows for line in row.lines if line.side == "ours"]
        counts = [
            value.seeds
            for line in lines
            for value, trained in zip(line.values, self.trained, strict=True)
            if value.seeds and trained
        ]
        return (min(counts), max(counts)) if counts else (0, 0)


def build_table(
    title: str,
    columns: Sequence[Column],
    entries: Sequence[Entry],
    *,
    lower_is_better: Collection[str] = LOWER_IS_BETTER,
    decimals: int = 3,
    ranked: bool = True,
    full: str | None = None,
) -> ResultTable:
    """The table of ``entries``; without ``ranked`` nothing is best and nothing has a rank.

    ``full`` is the label of the full method's entry: each other one is compared with it, and the
    difference with the published one.

    Values equal to ``decimals`` share the mark for the best and the mean of their ranks. Published
    figures are ranked among themselves, the oracle's numbers beside ours not at all.

    Raises EvaluationError for no column, a column without metrics or given twice, an entry that
    names a column the table has not, and a ``full`` that no entry is.
    """
    _check(columns, entries)
    whole = _full(entries, full)
    places = [Place(column.name, metric) for column in columns for metric in column.metrics]
    sides = {
        "ours": [_ours(entry, columns) for entry in entries],
        "oracle": [_oracle(entry, places) for entry in entries],
        "published": [_published(entry, places) for entry in entries],
    }
    honest = [not _is_oracle(entry.selection) for entry in entries]
    if ranked:
        lower = [place.metric in lower_is_better for place in places]
        groups = {
            "ours": [honest, [not one for one in honest]],
            "oracle": [],
            "published": [[True] * len(entries)],
        }
        for side, lines in sides.items():
            for group in groups[side]:
                members = [i for i, member in enumerate(group) if member]
                _compete(lines, members, lower, _digits(columns, decimals))
    rows = tuple(
        replace(_row(entry, [sides[s][i] for s in sides]), to_full=_to_full(entry, whole, places))
        for i, entry in enumerate(entries)
    )
    chosen = dict.fromkeys(entry.selection for entry in entries if any(entry.ours.values()))
    return ResultTable(title, tuple(columns), rows, tuple(chosen), decimals, ranked, full)


def _check(columns: Sequence[Column], entries: Sequence[Entry]) -> None:
    names = [column.name for column in columns]
    if not names or not all(column.metrics for column in columns):
        raise EvaluationError("a result table needs at least one column with metrics")
    if len(set(names)) < len(names):
        raise EvaluationError(f"a column comes twice among {', '.join(names)}; name each once")
    for entry in entries:
        for part in (entry.published, entry.ours, entry.oracle, entry.intervals, entry.skipped):
            unknown = next((name for name in part if name not in names), None)
            if unknown is not None:
                raise EvaluationError(
                    f"row {entry.label!r} has column {unknown!r}, which the table has not; "
                    f"its columns are {', '.join(names)}"
                )


def _digits(columns: Sequence[Column], decimals: int) -> tuple[int, ...]:
    return tuple(
        decimals if column.decimals is None else column.decimals
        for column in columns
        for _ in column.metrics
    )


def _full(entries: Sequence[Entry], label: str | None) -> Entry | None:
    if label is None:
        return None
    found = next((entry for entry in entries if entry.label == label), None)
    if found is None:
        known = ", ".join(entry.label for entry in entries)
        raise EvaluationError(f"no row {label!r} to compare with; the rows are {known}")
    return found


def _to_full(
    entry: Entry, whole: Entry | None, places: Sequence[Place]
) -> tuple[ToFull | None, ...]:
    if whole is None or entry is whole:
        return ()
    found = tuple(_compared(entry, whole, place) for place in places)
    return found if any(found) else ()


def _compared(entry: Entry, whole: Entry, place: Place) -> ToFull | None:
    """None where a side has no number, or no seed is on both."""
    own, other = (_printed(one, place) for one in (entry, whole))
    mine, theirs = (_by_seed(one, place) for one in (entry, whole))
    shared = [seed for seed in mine if seed in theirs]
    if own is None or other is None or not shared:
        return None
    found = seed_difference([mine[s] for s in shared], [theirs[s] for s in shared])
    # Both are printed with few digits: what is left of their difference is not a rounding error.
    published = round(own - other, 6)
    verdict: Verdict = "not told apart"
    if published == 0.0:
        verdict = "equal in print"
    elif found.sign:
        verdict = "agrees" if (found.sign > 0) == (published > 0.0) else "disagrees"
    around = found.half_width if math.isfinite(found.half_width) else None
    return ToFull(found.mean, around, found.pairs, published, verdict)


def _printed(entry: Entry, place: Place) -> float | None:
    return _known(entry.published.get(place.column, {}).get(place.metric))


def _by_seed(entry: Entry, place: Place) -> dict[int, float]:
    seeds, runs = entry.seeds.get(place.column, ()), entry.ours.get(place.column, ())
    return {
        seed: value
        for seed, run in zip(seeds, runs, strict=False)
        if seed is not None and (value := _known(run.get(place.metric))) is not None
    }


def _is_oracle(selection: str) -> bool:
    return selection.partition(" ")[0] == "oracle"


def _row(entry: Entry, lines: Sequence[Line]) -> Row:
    known = tuple(line for line in lines if any(value.mean is not None for value in line.values))
    return Row(entry.label, known, entry.note, entry.skipped, _is_oracle(entry.selection))


def _ours(entry: Entry, columns: Sequence[Column]) -> Line:
    values = []
    for column in columns:
        for metric in column.metrics:
            value = _over_seeds(entry.ours.get(column.name, ()), metric)
            published = _known(entry.published.get(column.name, {}).get(metric))
            if value.mean is not None:
                interval = _bounds(entry.intervals.get(column.name, {}).get(metric))
                known = published if column.comparable else None
                difference = None if known is None else value.mean - known
                value = replace(value, interval=interval, difference=difference)
            values.append(replace(value, published=published))
    return Line("ours", tuple(values))


def _oracle(entry: Entry, places: Sequence[Place]) -> Line:
    """Empty where the selection is the oracle's already, since the two lines would be the same."""
    if _is_oracle(entry.selection):
        return Line("oracle", tuple(Value() for _ in places))
    runs = entry.oracle
    return Line("oracle", tuple(_over_seeds(runs.get(p.column, ()), p.metric) for p in places))


def _published(entry: Entry, places: Sequence[Place]) -> Line:
    figures = entry.published
    known = [_known(figures.get(place.column, {}).get(place.metric)) for place in places]
    return Line("published", tuple(Value(value) for value in known))


def _over_seeds(runs: Sequence[Numbers], metric: str) -> Value:
    known = [value for run in runs if (value := _known(run.get(metric))) is not None]
    if not known:
        return Value()
    spread = statistics.stdev(known) if len(known) > 1 else None
    return Value(statistics.fmean(known), spread, len(known))


def _known(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _bounds(interval: Sequence[float | None] | None) -> tuple[float, float] | None:
    low, high = map(_known, interval or (None, None))
    return None if low is None or high is None else (low, high)


def _compete(
    lines: list[Line], members: Sequence[int], lower: Sequence[bool], digits: Sequence[int]
) -> None:
    """Mark the bests among the lines at ``members`` and give those lines their ranks."""
    ranks: list[dict[int, float]] = []
    for place, reverse in enumerate(lower):
        means = {i: lines[i].values[place].mean for i in members}
        rounded = {i: round(mean, digits[place]) for i, mean in means.items() if mean is not None}
        found = _ranks(rounded, lower=reverse) if len(rounded) > 1 else {}
        ranks.append(found)
        best = min(found.values(), default=0.0)
        for i in found:
            if found[i] == best:
                lines[i] = _with_best(lines[i], place)
    places = sum(map(bool, ranks))
    for i in members:
        own = [found[i] for found in ranks if i in found]
        if own:
            lines[i] = replace(lines[i], rank=Rank(statistics.fmean(own), len(own), places))


def _ranks(values: Mapping[int, float], *, lower: bool) -> dict[int, float]:
    """1 for the best; equal values share the mean of the ranks they fill."""
    ordered = sorted(values.values(), reverse=not lower)
    first: dict[float, int] = {}
    for position, value in enumerate(ordered, start=1):
        first.setdefault(value, position)
    count = Counter(ordered)
    return {i: first[value] + (count[value] - 1) / 2 for i, value in values.items()}


def _with_best(line: Line, place: int) -> Line:
    marked = replace(line.values[place], best=True)
    return replace(line, values=(*line.values[:place], marked, *line.values[place + 1 :]))

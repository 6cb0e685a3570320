"""The trainings that fill tables and figures, as one sweep: each cell is run once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.data_jobs import make_benchmark
from cluster.sweeps import (
    Cell,
    Choice,
    Choosing,
    Outcome,
    Point,
    Running,
    Skipped,
    cell_of,
    run_planned,
)
from cluster.sweeps.tables.table_description import DataChoice, PaperPart
from cluster.sweeps.tables.table_points import (
    SEED,
    Place,
    place_of,
    require_packed,
    table_benchmarks,
    table_points,
)
from dataio.records import DataError
from dataio.shards import Manifest
from trainer.config import ConfigError, load_config

LedgerRow = Mapping[str, Any]


@dataclass(frozen=True)
class Filling:
    """What the ledger has for a table or a figure.

    Attributes:
        runs: ledger rows by row label and column name, one for each seed.
        reasons: why a place has none.
    """

    runs: dict[Place, list[LedgerRow]] = field(default_factory=dict)
    reasons: dict[Place, str] = field(default_factory=dict)


def run_parts(
    parts: Sequence[PaperPart],
    running: Running,
    *,
    name: str,
    data: DataChoice = "procedural",
    quick: bool = False,
    seeds: int | None = None,
    selection: Choice = "last",
    keys: Sequence[str] = (),
) -> tuple[list[Filling], Outcome]:
    """Train what is missing of ``parts``; returns what each is filled with.

    The built-in benchmark is made where it is missing.

    Args:
        name: of the page's folder.
        seeds: how many; None: each part's own number.
        keys: ``key=value``, set in all cells above the parts' own.

    Raises:
        ConfigError, DataError: not one cell can be trained, as when the data sets are not there.
    """
    chosen = None if seeds is None else range(seeds)
    points = [table_points(part, data, quick=quick, seeds=chosen) for part in parts]
    _require_usable([point for own in points for point in own], keys)
    _require_data([part for part, own in zip(parts, points, strict=True) if own], data, quick=quick)
    whole = f"{name}{'-quick' * quick}{'' if data == 'procedural' else f'-{data}'}"
    running = replace(running, sweep=whole, reports=not quick)
    choosing = Choosing(selection=selection, oracle=not quick)
    found = [_cells(own, running, choosing, keys) for own in points]
    cells = {cell.key: cell for own, _ in found for cell in own}
    skipped = {lost.reason: lost for _, own in found for lost in own}
    if any(points) and not cells:
        raise ConfigError(f"{name}: no cell can be trained: {next(iter(skipped))}")
    outcome = run_planned(list(cells.values()), list(skipped.values()), running)
    rows = {row["key"]: row for row in outcome.rows}
    return [_filling(own, lost, rows) for own, lost in found], outcome


def _filling(
    cells: Iterable[Cell], lost: Iterable[Skipped], rows: Mapping[str, LedgerRow]
) -> Filling:
    filling = Filling(reasons={place_of(one.labels): one.reason for one in lost})
    for cell in cells:
        filling.runs.setdefault(place_of(cell.labels), []).append(rows[cell.key])
    return filling


def _require_data(parts: Sequence[PaperPart], data: DataChoice, *, quick: bool) -> None:
    """Make the built-in benchmark where it is missing; of other data say how they are packed."""
    if data != "procedural":
        for part in parts:
            require_packed(part, data)
        return
    needed = {f: of for part in parts for f, of in table_benchmarks(part, quick=quick).items()}
    for folder, (size, style) in needed.items():
        make_benchmark(Path(folder), size=size, style=style, seed=0)


def _require_usable(points: Sequence[Point], keys: Sequence[str]) -> None:
    """Refuse ``keys`` that fit no cell before data are made."""
    errors = []
    for point in points:
        try:
            load_config(point.config, [*point.keys, *keys])
        except ConfigError as err:
            errors.append(err)
    if errors and len(errors) == len(points):
        raise errors[0]


def _cells(
    points: Sequence[Point], running: Running, choosing: Choosing, keys: Sequence[str]
) -> tuple[list[Cell], list[Skipped]]:
    """The cells of a table in the order of its points, and the points that cannot be trained."""
    cells: dict[tuple[Place, int], Cell] = {}
    skipped: list[Skipped] = []
    opened: dict[str, Manifest] = {}
    for point in sorted(points, key=lambda point: point.start_from is not None):
        after: tuple[Cell, Path] | None = None
        if point.start_from is not None:
            before = cells.get(_at(point.start_from))
            if before is None:
                start = " in ".join(place_of(point.start_from))
                reason = f"starts from {start}, which cannot be trained"
                skipped.append(Skipped(point.labels, reason))
                continue
            after = before, running.store.folder(before).path
        try:
            cells[_at(point.labels)] = cell_of(
                point, choosing, keys=keys, after=after, opened=opened
            )
        except (ConfigError, DataError) as err:
            skipped.append(Skipped(point.labels, str(err)))
    return [cells[at] for at in map(_at, (p.labels for p in points)) if at in cells], skipped


def _at(labels: Mapping[str, Any]) -> tuple[Place, int]:
    return place_of(labels), labels[SEED]

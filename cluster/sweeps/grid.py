"""From points to cells: those to train, and those that a method cannot do, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.sweeps.cells import Cell, Choosing, check_data, code_version, make_cell
from cluster.sweeps.description import Sweep
from cluster.sweeps.points import Labels, Point, all_labels, named_in, point_at
from dataio.names import nearest
from dataio.records import DataError
from dataio.shards import Manifest
from trainer.config import ConfigError, load_config
from trainer.methods import METHODS


@dataclass(frozen=True)
class Skipped:
    """A point that cannot be trained, and why."""

    labels: Mapping[str, Any]
    reason: str


def choosing(sweep: Sweep) -> Choosing:
    """How the cells of ``sweep`` choose checkpoints."""
    compared = sweep.search.kind == "optuna" or sweep.early_stopping is not None
    return Choosing(
        selection=sweep.selection,
        oracle=sweep.oracle,
        compares=sweep.compares if compared else None,
        validate_every=sweep.validate_every,
    )


def sweep_cells(sweep: Sweep) -> tuple[list[Cell], list[Skipped]]:
    """The cells of all points, each once, and the points that are left out.

    Raises:
        ConfigError: a value of an axis fits no method at all, so that it is a mistake, or no cell
            is left.
    """
    _require_methods(sweep)
    cells: dict[str, Cell] = {}
    skipped = []
    opened: dict[str, Manifest] = {}
    for labels in all_labels(sweep):
        try:
            cell = cell_at(sweep, labels, opened=opened)
        except (ConfigError, DataError) as err:
            skipped.append(Skipped(labels, str(err)))
        else:
            cells.setdefault(cell.key, cell)  # two points may stand for one cell
    _require_use(sweep, list(cells.values()), skipped)
    return list(cells.values()), skipped


def cell_at(sweep: Sweep, labels: Labels, *, opened: dict[str, Manifest] | None = None) -> Cell:
    """The cell of one point of a sweep; ``opened`` holds the manifests that cells share.

    Raises:
        ConfigError, DataError: it cannot be trained.
    """
    return cell_of(point_at(sweep, labels), choosing(sweep), sinks=sweep.sinks, opened=opened)


def cell_of(
    point: Point,
    choosing: Choosing,
    *,
    keys: Sequence[str] = (),
    after: tuple[Cell, Path] | None = None,
    sinks: Sequence[str] = (),
    opened: dict[str, Manifest] | None = None,
) -> Cell:
    """The cell of one point.

    Args:
        keys: ``key=value``, set above the point's own.
        after: the cell whose trained network this one starts from, and its run folder.
        opened: manifests that cells share, see :class:`OpenData`.

    Raises:
        ConfigError, DataError: it cannot be trained.
    """
    start = [] if after is None else [f"training.init_from={after[1]}"]
    cell = make_cell(
        point.labels,
        load_config(point.config, [*point.keys, *keys, *start]),
        choosing,
        code=code_version(),
        after=None if after is None else after[0].key,
        sinks=sinks,
        opened=opened,
    )
    check_data(cell.config, choosing, opened=opened)
    return cell


def _require_methods(sweep: Sweep) -> None:
    for name in ("method", "method.name"):
        values = sweep.axes.get(name, [])
        for value in values if isinstance(values, list) else []:
            if value not in METHODS:
                raise ConfigError(f"axes.{name}: no method '{value}'{nearest(str(value), METHODS)}")


def _require_use(sweep: Sweep, cells: Sequence[Cell], skipped: Sequence[Skipped]) -> None:
    """A method may be unable to do a cell. What no method can do is a mistake in the file.

    An axis is blamed where its other values have cells, or where the reason speaks of it.
    """
    used = {(axis, repr(value)) for cell in cells for axis, value in cell.labels.items()}
    for lost in skipped:
        for axis, value in lost.labels.items():
            if axis in ("method", "method.name") or (axis, repr(value)) in used:
                continue
            if cells or named_in(sweep, axis, value=value, reason=lost.reason):
                raise ConfigError(f"axes.{axis}: {value!r} fits no cell: {lost.reason}")
    if not cells:
        reason = f": {skipped[0].reason}" if skipped else ""
        raise ConfigError(f"no cell can be trained{reason}")

"""The cells of a sweep file: those to train, and those that a method cannot do, with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.sweeps.axes import Point, overrides, points, settings
from cluster.sweeps.cells import Cell, Choosing, check_data, make_cell
from cluster.sweeps.code_hash import code_version
from cluster.sweeps.description import Sweep
from dataio.names import nearest
from dataio.records import DataError
from dataio.shards import Manifest
from trainer.config import ConfigError, load_config
from trainer.methods import METHODS


@dataclass(frozen=True)
class Skipped:
    """A point of the axes that cannot be trained, and why."""

    labels: dict[str, Any]
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
    for point in points(sweep):
        try:
            cell = cell_at(sweep, point, opened=opened)
        except (ConfigError, DataError) as err:
            skipped.append(Skipped(point, str(err)))
        else:
            cells.setdefault(cell.key, cell)  # two points may stand for one cell
    _require_use(sweep, list(cells.values()), skipped)
    return list(cells.values()), skipped


def cell_at(sweep: Sweep, point: Point, *, opened: dict[str, Manifest] | None = None) -> Cell:
    """The cell of one point; ``opened`` holds the manifests that cells share.

    Raises:
        ConfigError, DataError: it cannot be trained.
    """
    chosen = settings(sweep, point)
    path, method = _base(sweep, chosen)
    keys = [f"{key}={json.dumps(value)}" for key, value in overrides(chosen, method)]
    cell = make_cell(
        point,
        load_config(path, keys),
        choosing(sweep),
        code=code_version(),
        sinks=sweep.sinks,
        opened=opened,
    )
    check_data(cell.config, opened=opened)
    return cell


def _base(sweep: Sweep, chosen: dict[str, Any]) -> tuple[Path, str]:
    """The file to start from and the method; ``chosen`` keeps what the file does not say."""
    method = chosen.get("method", chosen.get("method.name"))
    if "{method}" in sweep.config:
        if method is None:
            raise ConfigError(
                f"config: '{sweep.config}' stands for a method's own file; name methods on an "
                "axis: method: [dann, astn]"
            )
        chosen.pop("method", None)
        chosen.pop("method.name", None)
        return Path(sweep.config.replace("{method}", str(method))), str(method)
    path = Path(sweep.config)
    return path, str(method) if method is not None else load_config(path).method_name


def _require_methods(sweep: Sweep) -> None:
    for name in ("method", "method.name"):
        values = sweep.axes.get(name, [])
        for value in values if isinstance(values, list) else []:
            if value not in METHODS:
                raise ConfigError(f"axes.{name}: no method '{value}'{nearest(str(value), METHODS)}")


def _require_use(sweep: Sweep, cells: Sequence[Cell], skipped: Sequence[Skipped]) -> None:
    """A method may be unable to do a cell. What no method can do is a mistake in the file."""
    used = {(axis, repr(value)) for cell in cells for axis, value in cell.labels.items()}
    for lost in skipped:
        for axis, value in lost.labels.items():
            if axis not in ("method", "method.name") and (axis, repr(value)) not in used:
                raise ConfigError(f"axes.{axis}: {value!r} fits no cell: {lost.reason}")
    if not cells:
        reason = f": {skipped[0].reason}" if skipped else ""
        raise ConfigError(f"no cell can be trained{reason}")

"""From a table to the trainings that fill it, and the data sets that they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.sweeps import Point, as_keys, as_text
from cluster.sweeps.tables.table_description import DataChoice, PaperPart, Site, TableRow
from dataio.datasets import SIZES, STYLES, benchmark_name
from dataio.shards import MANIFEST_NAME
from trainer.config import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
Place = tuple[str, str]
"""Label of a row and name of a column."""

ROW, COLUMN, SEED = "row", "column", "training.seed"


def place_of(labels: Mapping[str, Any]) -> Place:
    """Where a training of a table stands, by its labels."""
    return labels[ROW], labels[COLUMN]


def table_points(
    table: PaperPart,
    data: DataChoice = "procedural",
    *,
    quick: bool = False,
    seeds: Sequence[int] | None = None,
) -> list[Point]:
    """The trainings of a table or a figure, in the order of its rows and columns.

    There are none where networks are counted, not trained.

    Args:
        data: procedural is the built-in benchmark, catalogue the furniture catalogue, real the
            papers' own data sets.
        quick: one seed, a small benchmark and a few steps.
        seeds: instead of the table's own.

    Raises:
        ConfigError: ``quick`` where the setting has no such form, or a value names a folder that it
            lacks.
    """
    if not table.is_trained:
        return []
    chosen = seeds if seeds is not None else range(1 if quick else table.seeds)
    skips = table_skips(table, data)
    return [
        _point(table, row, column, seed=seed, data=data, quick=quick)
        for row in table.trained_rows
        for column in table.columns_on(data)
        if (row.label, column) not in skips
        for seed in chosen
    ]


def table_skips(table: PaperPart, data: DataChoice = "procedural") -> dict[Place, str]:
    """Why a place has no training of its own, by row and column."""
    skips = {}
    for row in table.trained_rows:
        reason = row.absent or row.at(data).absent
        if reason is not None:
            skips |= {(row.label, column): reason for column in table.columns_on(data)}
    return skips


def table_folders(
    table: PaperPart, data: DataChoice = "procedural", *, quick: bool = False
) -> dict[str, str]:
    """The packed data sets that the table's columns read, by the names that the setting uses."""
    site = _quick_or_not(table, data, quick=quick)
    used = " ".join(as_text(value) for value in _values(table, site, data))
    return {name: folder for name, folder in site.folders.items() if f"{{{name}}}" in used}


def _values(table: PaperPart, site: Site, data: DataChoice) -> Iterator[object]:
    """The values in which a folder may be named."""
    for column in table.columns_on(data):
        yield from site.columns[column].set.values()
    for row in table.trained_rows:
        if row.absent or row.at(data).absent:
            continue
        yield from {**row.set, **row.at(data).set}.values()


def table_benchmarks(table: PaperPart, *, quick: bool = False) -> dict[str, tuple[str, str]]:
    """Folder -> size and style of each built-in benchmark that the table's cells read."""
    known = {benchmark_name(size, style=style): (size, style) for size in SIZES for style in STYLES}
    folders = table_folders(table, quick=quick).values()
    return {folder: known[name] for folder in folders if (name := Path(folder).name) in known}


def require_packed(table: PaperPart, data: DataChoice) -> None:
    """Check that the data sets are there which the setting has a command for.

    Raises:
        ConfigError: one is not; the message has the command.
    """
    commands = table.site(data).pack
    for name, folder in table_folders(table, data).items():
        if name in commands and not Path(folder, MANIFEST_NAME).is_file():
            raise ConfigError(
                f"{table.name}: {folder}: no data set here (no {MANIFEST_NAME}); make it with "
                f"`{commands[name]}`"
            )


def _quick_or_not(table: PaperPart, data: DataChoice, *, quick: bool) -> Site:
    site = table.site(data)
    if not quick:
        return site
    if site.quick is None:
        raise ConfigError(f"{table.name}: {data} data have no quick form; leave --quick out")
    return site.model_copy(update={"folders": site.quick.folders})


def _point(
    table: PaperPart, row: TableRow, column: str, *, seed: int, data: DataChoice, quick: bool
) -> Point:
    start = row.start_from
    labels = {ROW: row.label, COLUMN: column, SEED: seed}
    start_from = {**labels, ROW: start.row, COLUMN: start.columns[column]} if start else None
    config, keys = described(table, row, column, data=data, quick=quick)
    return Point(labels, config, (*keys, f"{SEED}={seed}"), start_from)


def described(
    table: PaperPart, row: TableRow, column: str, *, data: DataChoice, quick: bool = False
) -> tuple[Path, tuple[str, ...]]:
    """The run description that a row starts from, and its ``key=value``: each key once, with the
    value and at the place of the last layer that sets it.

    Raises:
        ConfigError: ``quick`` where the setting has no such form, or a value names a folder that it
            lacks.
    """
    assert row.method is not None, "absent rows have no cells"
    site = _quick_or_not(table, data, quick=quick)
    layers: list[Mapping[str, Any]] = []
    config = CONFIGS / site.config.format(method=row.method)
    if not config.exists() and site.otherwise is not None:
        config = CONFIGS / site.otherwise
        # The whole section: options of the other method are not this one's.
        layers.append({"method": {"name": row.method}})
    layers += [site.set, site.methods.get(row.method, {})]
    if quick and site.quick is not None:
        layers += [site.quick.set, site.quick.methods.get(row.method, {})]
    layers += [site.columns[column].set, row.set, row.at(data).set]
    merged: dict[str, Any] = {}
    for key, value in ((k, v) for layer in layers for k, v in layer.items()):
        merged.pop(key, None)
        where = f"{table.name}: row '{row.label}': {key}"
        merged[key] = _placed(value, site.folders, where=where)
    return config, as_keys(merged)


def _placed(value: Any, folders: Mapping[str, str], *, where: str) -> Any:
    """``value`` with the folders that its ``{name}`` stand for."""
    if isinstance(value, dict):
        return {key: _placed(inner, folders, where=where) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_placed(inner, folders, where=where) for inner in value]
    if not isinstance(value, str) or "{" not in value:
        return value
    try:
        return value.format(**folders)
    except (KeyError, IndexError, ValueError):
        known = ", ".join(folders) or "none"
        raise ConfigError(f"{where}: '{value}' names no folder of the setting ({known})") from None

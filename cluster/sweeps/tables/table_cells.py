"""From a table to the trainings that fill it: run descriptions, overrides, what is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.sweeps.tables.table_description import DataChoice, PaperTable, Site, TableRow
from dataio.datasets import SIZES, STYLES, benchmark_name
from trainer.config import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
Place = tuple[str, str]
"""Label of a row and name of a column."""


@dataclass(frozen=True)
class TableCell:
    """One training: ``load_config(config, overrides)`` describes it.

    ``start_from`` is the row and column whose run with the same seed gives the network that this
    one starts from; ``training.init_from`` is then for the caller to set.
    """

    row: str
    column: str
    seed: int
    method: str
    config: str
    overrides: tuple[str, ...]
    start_from: Place | None = None


def table_cells(
    table: PaperTable,
    data: DataChoice = "procedural",
    *,
    quick: bool = False,
    seeds: Sequence[int] | None = None,
) -> list[TableCell]:
    """The trainings of a table, in the order of its rows and columns; none for complexity.

    Args:
        data: procedural is the built-in benchmark, real the papers' own data sets.
        quick: one seed, a small benchmark and a few steps.
        seeds: instead of the table's own.

    Raises:
        ConfigError: ``quick`` with real data, or a value names a folder that the setting lacks.
    """
    if table.kind == "complexity":
        return []
    chosen = seeds if seeds is not None else range(1 if quick else table.seeds)
    skips = table_skips(table, data)
    return [
        _cell(table, row, column, seed=seed, data=data, quick=quick)
        for row in table.rows
        for column in table.columns
        if (row.label, column) not in skips
        for seed in chosen
    ]


def table_skips(table: PaperTable, data: DataChoice = "procedural") -> dict[Place, str]:
    """Why a place has no training of its own, by row and column."""
    skips = {}
    for row in table.rows:
        reason = row.absent or row.at(data).absent
        if reason is not None:
            skips |= {(row.label, column): reason for column in table.columns}
    return skips


def table_folders(
    table: PaperTable, data: DataChoice = "procedural", *, quick: bool = False
) -> dict[str, str]:
    """The packed data sets that the table's columns read, by the names that the setting uses."""
    site = _quick_or_not(table, data, quick=quick)
    used = " ".join(_text(value) for _, value in _template_values(table, site, data))
    return {name: folder for name, folder in site.folders.items() if f"{{{name}}}" in used}


def table_benchmarks(table: PaperTable, *, quick: bool = False) -> dict[str, tuple[str, str]]:
    """Folder -> size and style of each built-in benchmark that the table's cells read."""
    known = {benchmark_name(size, style=style): (size, style) for size in SIZES for style in STYLES}
    folders = table_folders(table, quick=quick).values()
    return {folder: known[name] for folder in folders if (name := Path(folder).name) in known}


def _template_values(
    table: PaperTable, site: Site, data: DataChoice
) -> Iterator[tuple[str, object]]:
    for column in table.columns:
        yield from site.columns[column].set.items()
    for row in table.rows:
        yield from {**row.set, **row.at(data).set}.items()


def _quick_or_not(table: PaperTable, data: DataChoice, *, quick: bool) -> Site:
    site = table.site(data)
    if not quick:
        return site
    if site.quick is None:
        raise ConfigError(f"{table.name}: {data} data have no quick form; leave --quick out")
    return site.model_copy(update={"folders": site.quick.folders})


def _cell(
    table: PaperTable, row: TableRow, column: str, *, seed: int, data: DataChoice, quick: bool
) -> TableCell:
    assert row.method is not None, "absent rows have no cells"
    site = _quick_or_not(table, data, quick=quick)
    config, first = starting_point(site, row.method)
    layers: list[Mapping[str, Any]] = [first, site.methods.get(row.method, {})]
    if quick and site.quick is not None:
        layers += [site.quick.set, site.quick.methods.get(row.method, {})]
    layers += [site.columns[column].set, row.set, row.at(data).set]
    layers.append({"training.seed": seed})
    start = row.start_from
    return TableCell(
        row=row.label,
        column=column,
        seed=seed,
        method=row.method,
        config=str(config),
        overrides=as_overrides(layers, site.folders, where=f"{table.name}: row '{row.label}'"),
        start_from=None if start is None else (start.row, start.columns[column]),
    )


def starting_point(site: Site, method: str) -> tuple[Path, dict[str, Any]]:
    """The run description that ``method`` starts from, and the keys that make it the method's."""
    own = CONFIGS / site.config.format(method=method)
    if own.exists() or site.otherwise is None:
        return own, {}
    # The whole section: options of the other method are not this one's.
    return CONFIGS / site.otherwise, {"method": {"name": method}}


def as_overrides(
    layers: Sequence[Mapping[str, Any]], folders: Mapping[str, str], *, where: str
) -> tuple[str, ...]:
    """``key=value`` of all layers, each key once, at the place and with the value of its last."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            merged.pop(key, None)
            merged[key] = _placed(value, folders, where=f"{where}: {key}")
    return tuple(f"{key}={_text(value)}" for key, value in merged.items())


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


def _text(value: Any) -> str:
    """As an override is written: YAML on one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1 << 20)
    return dumped.removesuffix("...\n").strip()

"""The papers' tables: their files, and what the papers print in each place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.sweeps.tables.table_description import PaperPart, PaperTable, TableRow
from cluster.sweeps.tables.table_points import CONFIGS
from dataio.names import nearest
from evalsuite.published import PublishedRow, published_complexity, published_figures, table_number
from evalsuite.tables import Numbers
from evalsuite.vectors import EvaluationError
from trainer.config import ConfigError, read_yaml, validated

TABLES = CONFIGS / "tables"
COMPLEXITY_METRICS = ("parameters (M)", "multiply-adds (M)")


def table_names() -> tuple[str, ...]:
    """The ready tables, papers in alphabetical order, tables by number."""
    return part_names(TABLES)


def part_names(folder: Path) -> tuple[str, ...]:
    """The ready files of a folder, papers in alphabetical order, tables or figures by number."""
    names = [path.stem for path in folder.glob("*.yaml")]
    return tuple(sorted(names, key=lambda n: (n.rpartition("-")[0], int(n.rpartition("-")[2]))))


def names_of(name: str, known: Sequence[str]) -> list[str]:
    """Those of ``known`` that ``name`` stands for: a paper's, ``all``, or else ``name`` itself."""
    source = name.casefold().replace("-", "")
    return [n for n in known if source in ("all", n.rpartition("-")[0])] or [name]


def part_path(
    name_or_path: str | Path, folder: Path, kind: str, *, number: Callable[[str], object] = str
) -> Path:
    """The file of a table or figure that is named, or given as a file.

    Args:
        folder: of the ready files.
        kind: ``table`` or ``figure``, for the message.
        number: from what stands behind the last hyphen to the number in the file's name.

    Raises:
        ConfigError: no such name; says the nearest.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    source, _, place = text.casefold().rpartition("-")
    name = f"{source.replace('-', '')}-{number(place)}"
    known = part_names(folder)
    if name not in known:
        raise ConfigError(f"no {kind} '{text}'{nearest(text, known)}")
    return folder / f"{name}.yaml"


def load_table(name_or_path: str | Path) -> PaperTable:
    """A ready table by name (``astn-3``, ``FTSPL-III``, ``dais-net-1``), or a file.

    Raises:
        ConfigError: no such table or file, a key is unknown, a value does not fit, or a row names
            figures that its paper does not print.
    """
    path = part_path(name_or_path, TABLES, "table", number=table_number)
    tree = read_part(path, ready="configs/tables/", expected="title, columns, rows, ...")
    table = validated(PaperTable, tree, where=str(path))
    for row in table.rows:
        _require_published(table, row, where=f"{path}: row '{row.label}'")
    return table


def read_part(path: Path, *, ready: str, expected: str) -> dict[str, Any]:
    """The content of a table's or a figure's file, with its name and its setting.

    Args:
        ready, expected: for the message about a file that is not there or is no mapping.

    Raises:
        ConfigError: no such file or setting, or not YAML.
    """
    tree = read_yaml(path, ready=ready, expected=expected)
    setting = tree.get("setting")
    if isinstance(setting, str):
        tree["setting"] = read_yaml(
            _setting_path(path, setting),
            ready="configs/tables/settings/",
            expected="procedural and real",
        )
    return {"name": path.stem, **tree}


def load_tables(name: str) -> list[PaperTable]:
    """One table, all tables of a paper (``astn``, ``dais-net``), or ``all`` of them.

    Raises ConfigError as :func:`load_table` does.
    """
    return [load_table(n) for n in names_of(name, table_names())]


def published_row(part: PaperPart, row: TableRow, column: str) -> PublishedRow | None:
    """What the paper prints for a row in a column, None where it prints nothing."""
    if part.source is None or row.published is None:
        return None
    variant = row.published
    if isinstance(variant, dict):
        if column not in variant:
            return None
        variant = variant[column]
    wanted = (row.published_method or row.method, variant, column)
    for number in row.quoted or part.own_tables:
        for figures in published_figures(part.source, number):
            same = (figures.method, figures.variant, figures.dataset) == wanted
            if same and row.published_backbone in (None, figures.backbone):
                return figures
    return None


def published_size(table: PaperTable, row: TableRow) -> Numbers:
    """Millions of parameters and multiply-adds that a complexity table prints; empty for none."""
    if table.source is None or table.table is None:
        return {}
    for size in published_complexity(table.source, table.table):
        if size.model == row.model:
            values = (size.parameters_millions, size.multiply_adds_millions)
            return dict(zip(COMPLEXITY_METRICS, values, strict=True))
    return {}


def _require_published(table: PaperTable, row: TableRow, *, where: str) -> None:
    """Check that the paper prints what a row names."""
    if table.source is None:
        return
    known = True
    try:
        if table.kind == "complexity":
            known = row.model is None or bool(published_size(table, row))
        if known and table.is_trained and row.published is not None:
            known = any(published_row(table, row, column) for column in table.columns)
    except EvaluationError as err:
        raise ConfigError(f"{where}: {err}") from None
    if not known:
        raise ConfigError(
            f"{where}: no such figures in table {table.table} of {table.source}; see published, "
            "published_method, quoted and model, or published: null"
        )


def _setting_path(table: Path, name: str) -> Path:
    """Beside the table's own file, else the ready one."""
    own = table.parent / "settings" / f"{name}.yaml"
    ready = TABLES / "settings" / f"{name}.yaml"
    if own.exists() or ready.exists():
        return own if own.exists() else ready
    known = sorted(path.stem for path in ready.parent.glob("*.yaml"))
    raise ConfigError(f"{table}: setting: no setting '{name}'{nearest(name, known)}")

"""The papers' tables: their files, the trainings that fill them, ours beside the published figures.

table = load_table("astn-3")
for cell in table_cells(table, quick=True):
    config = load_config(cell.config, cell.overrides)
shown = result_table(table, found)
"""

from __future__ import annotations

from pathlib import Path

from cluster.sweeps.tables.table_cells import (
    CONFIGS,
)
from cluster.sweeps.tables.table_description import PaperTable
from cluster.sweeps.tables.table_results import require_published
from dataio.names import nearest
from evalsuite.published import table_number
from trainer.config import ConfigError, read_yaml, validated

TABLES = CONFIGS / "tables"


def table_names() -> tuple[str, ...]:
    """The ready tables, papers in alphabetical order, tables by number."""
    names = [path.stem for path in TABLES.glob("*.yaml")]
    return tuple(sorted(names, key=lambda n: (n.rpartition("-")[0], int(n.rpartition("-")[2]))))


def load_table(name_or_path: str | Path) -> PaperTable:
    """A ready table by name (``astn-3``, ``FTSPL-III``, ``dais-net-1``), or a file.

    Raises:
        ConfigError: no such table or file, a key is unknown, a value does not fit, or a row names
            figures that its paper does not print.
    """
    path = _table_path(name_or_path)
    tree = read_yaml(path, ready="configs/tables/", expected="title, columns, rows, ...")
    setting = tree.get("setting")
    if isinstance(setting, str):
        tree["setting"] = read_yaml(
            _setting_path(path, setting),
            ready="configs/tables/settings/",
            expected="procedural and real",
        )
    table = validated(PaperTable, {"name": path.stem, **tree}, where=str(path))
    require_published(table, where=str(path))
    return table


def load_tables(name: str) -> list[PaperTable]:
    """One table, all tables of a paper (``astn``, ``dais-net``), or ``all`` of them.

    Raises ConfigError as :func:`load_table` does.
    """
    source = name.casefold().replace("-", "")
    names = [n for n in table_names() if source in ("all", n.rpartition("-")[0])]
    return [load_table(n) for n in names or [name]]


def _table_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    source, _, number = text.casefold().rpartition("-")
    name = f"{source.replace('-', '')}-{table_number(number)}"
    if name not in table_names():
        raise ConfigError(f"no table '{text}'{nearest(text, table_names())}")
    return TABLES / f"{name}.yaml"


def _setting_path(table: Path, name: str) -> Path:
    """Beside the table's own file, else the ready one."""
    own = table.parent / "settings" / f"{name}.yaml"
    ready = TABLES / "settings" / f"{name}.yaml"
    if own.exists() or ready.exists():
        return own if own.exists() else ready
    known = sorted(path.stem for path in ready.parent.glob("*.yaml"))
    raise ConfigError(f"{table}: setting: no setting '{name}'{nearest(name, known)}")

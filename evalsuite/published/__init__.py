"""The figures that the papers print, as data: one row a line of a table, one file a kind of table.

``retrieval.csv`` has a line for every row and data set of the retrieval tables of ASTN (1-4, 6, 7),
HIFA (1-3), FTSPL (I-V), DCA (I-II) and DAIS-NET (1-3); ``complexity.csv`` has those of ASTN (5) and
DAIS-NET (4). A row that a paper prints again in a later table stands in the first one only. Figures
are the papers' own, digits included; an empty field is a figure that the paper does not give.

May import: evalsuite.scoring, evalsuite.vectors.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from evalsuite.scoring import HEADLINES
from evalsuite.vectors import EvaluationError

__all__ = [
    "SOURCES",
    "PublishedRow",
    "PublishedSize",
    "all_complexity",
    "all_figures",
    "published_complexity",
    "published_figures",
    "table_number",
]

SOURCES: Mapping[str, str] = MappingProxyType(
    {"astn": "ASTN", "hifa": "HIFA", "ftspl": "FTSPL", "dca": "DCA", "daisnet": "DAIS-NET"}
)
"""Name of a source in the files -> name of the paper's method."""

_FOLDER = Path(__file__).resolve().parent
_ROMAN = {"I": 1, "II": 2, "III": 3, "IV": 4, "V": 5}


@dataclass(frozen=True)
class PublishedRow:
    """One method on one data set in one table of one paper.

    ``table`` is numbered as printed (``3`` or ``III``), ``dataset`` may be a pair
    (``shrec14->pix3d``), ``variant`` is empty for a method as it is; ``metrics`` holds the figures
    that are given, by the names of :data:`evalsuite.scoring.options.HEADLINES`.
    """

    source: str
    table: str
    dataset: str
    method: str
    variant: str
    backbone: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class PublishedSize:
    """One model of a complexity table: millions of parameters and of multiply-adds (an image)."""

    source: str
    table: str
    model: str
    parameters_millions: float | None
    multiply_adds_millions: float | None
    note: str


def published_figures(source: str, table: str | int) -> tuple[PublishedRow, ...]:
    """The rows of one retrieval table, in the order of the paper.

    Args:
        source: one of :data:`SOURCES`, in any case; ``dais-net`` is ``daisnet``.
        table: its number, ``3`` or ``III``.

    Raises:
        EvaluationError: no such paper, or none of its retrieval tables has that number.
    """
    return tuple(_of_table(all_figures(), source, table, kind="retrieval"))


def published_complexity(source: str, table: str | int) -> tuple[PublishedSize, ...]:
    """The rows of one complexity table; arguments and errors of :func:`published_figures`."""
    return tuple(_of_table(all_complexity(), source, table, kind="complexity"))


@lru_cache(maxsize=1)
def all_figures() -> tuple[PublishedRow, ...]:
    """Every row of ``retrieval.csv``, in its order."""
    return tuple(
        PublishedRow(
            *(row[name] for name in ("source", "table", "dataset", "method", "variant")),
            backbone=row["backbone"],
            metrics=MappingProxyType(
                {name: float(row[name.lower()]) for name in HEADLINES if row[name.lower()]}
            ),
        )
        for row in _read("retrieval.csv")
    )


@lru_cache(maxsize=1)
def all_complexity() -> tuple[PublishedSize, ...]:
    """Every row of ``complexity.csv``, in its order."""
    return tuple(
        PublishedSize(
            *(row[name] for name in ("source", "table", "model")),
            parameters_millions=_number(row["params_millions"]),
            multiply_adds_millions=_number(row["flops_millions"]),
            note=row["note"],
        )
        for row in _read("complexity.csv")
    )


def table_number(table: str | int) -> int | None:
    """``3`` for ``3``, ``"3"``, ``"III"`` and ``"iii"``; None for anything else."""
    text = str(table).strip().upper()
    return int(text) if text.isdecimal() else _ROMAN.get(text)


def _of_table(rows: Iterable, source: str, table: str | int, *, kind: str) -> list:
    name = source.casefold().replace("-", "")
    if name not in SOURCES:
        raise EvaluationError(f"no published figures of '{source}'; known: {', '.join(SOURCES)}")
    own = [row for row in rows if row.source == name]
    found = [row for row in own if table_number(row.table) == table_number(table)]
    if not found:
        known = ", ".join(dict.fromkeys(row.table for row in own)) or "none"
        raise EvaluationError(
            f"{SOURCES[name]} has no {kind} table '{table}'; its {kind} tables: {known}"
        )
    return found


def _read(name: str) -> list[dict[str, str]]:
    with (_FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _number(text: str) -> float | None:
    return float(text) if text else None

"""Tables and matrices of many runs: printed on a terminal, written into files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.tables import standard_output
from evalsuite.pages import TransferMatrix
from evalsuite.tables import (
    Column,
    ResultTable,
    caption,
    footnotes,
    lines_of,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
)
from trainer.config import ConfigError


def _one_csv(tables: Sequence[ResultTable]) -> str:
    """All tables under one head; each line names its table."""
    head, *_ = to_csv(tables[0]).splitlines(keepends=True)
    return head + "".join(to_csv(table).removeprefix(head) for table in tables)


FORMS: Mapping[str, Callable[[Sequence[ResultTable]], str]] = {
    ".md": lambda tables: "\n".join(map(to_markdown, tables)),
    ".tex": lambda tables: "\n".join(map(to_latex, tables)),
    ".csv": _one_csv,
    ".html": lambda tables: "\n".join(map(to_html, tables)),
}


def exporters(files: Sequence[Path]) -> dict[Path, Callable[[Sequence[ResultTable]], str]]:
    """For each file the function that renders tables in the format of its ending.

    Raises:
        ConfigError: an unknown ending.
    """
    for file in files:
        if file.suffix not in FORMS:
            raise ConfigError(f"--to {file}: the ending is one of {', '.join(FORMS)}")
    return {file: FORMS[file.suffix] for file in files}


def print_result_table(result: ResultTable) -> None:
    """Print ours and the published figures, the best in bold, then caption and footnotes."""
    out = standard_output()
    for column, span in zip(result.columns, result.spans, strict=True):
        out.print(_of_column(result, column, span))
    for words in (caption(result), *footnotes(result)):
        out.print(words, markup=False, highlight=False)


def _of_column(result: ResultTable, column: Column, span: slice) -> Table:
    """The numbers of a column; those of all columns side by side would not fit a terminal."""
    first = span.start == 0
    table = Table(box=box.SIMPLE_HEAD, title=result.title if first else None)
    table.add_column(Text(column.name), overflow="fold")
    table.add_column("")
    for metric in column.metrics:
        table.add_column(Text(metric), justify="right")
    if result.ranked and first:
        table.add_column("rank", justify="right")
    for line in lines_of(result, span):
        cells = [
            Text(words, "bold" if best else "")
            for words, best in zip(line.cells[span], line.best[span], strict=True)
        ]
        rank = [Text(line.rank)] if result.ranked and first else []
        table.add_row(Text(line.label), Text(line.side), *cells, *rank)
    return table


def print_matrices(matrices: Sequence[TransferMatrix]) -> None:
    """Print a table for each method: a row for each source, a column for each target."""
    for matrix in matrices:
        table = Table(
            box=box.SIMPLE_HEAD,
            title=f"{matrix.title}: {matrix.metric}, source down, target across",
            caption=matrix.note,
        )
        table.add_column("", overflow="fold")
        for target in matrix.targets:
            table.add_column(Text(target), justify="right", overflow="fold")
        for source in matrix.sources:
            values = [matrix.values.get((source, target)) for target in matrix.targets]
            shown = ["–" if value is None else f"{value:.3f}" for value in values]
            table.add_row(Text(source), *shown)
        standard_output().print(table)


def print_part_names(kind: str, titles: Mapping[str, str], *, caption: str) -> None:
    """Print the ready tables or figures (``kind`` heads their names) with what each shows."""
    table = Table(box=box.SIMPLE_HEAD, caption=caption)
    table.add_column(kind)
    table.add_column("what it shows", overflow="fold")
    for name, title in titles.items():
        table.add_row(Text(name), Text(title))
    standard_output().print(table)

"""The ready figures by name, and reading a figure file."""

from __future__ import annotations

from pathlib import Path

from cluster.sweeps.figures.figure_description import PaperFigure
from cluster.sweeps.tables import (
    CONFIGS,
    names_of,
    part_names,
    part_path,
    published_row,
    read_part,
)
from evalsuite.vectors import EvaluationError
from trainer.config import ConfigError, validated

FIGURES = CONFIGS / "figures"


def figure_names() -> tuple[str, ...]:
    """The ready figures, papers in alphabetical order, figures by number."""
    return part_names(FIGURES)


def load_figure(name_or_path: str | Path) -> PaperFigure:
    """A ready figure by name (``astn-3``, ``DAIS-NET-4``), or a file.

    Raises:
        ConfigError: no such figure or file, a key is unknown, a value does not fit, or a row quotes
            a table that has no such figures.
    """
    path = part_path(name_or_path, FIGURES, "figure")
    tree = read_part(path, ready="configs/figures/", expected="title, kind, columns, rows, ...")
    figure = validated(PaperFigure, tree, where=str(path))
    for row in figure.rows:
        try:
            known = [published_row(figure, row, column) for column in figure.columns]
        except EvaluationError as err:
            raise ConfigError(f"{path}: row '{row.label}': {err}") from None
        if row.quoted and not any(known):
            tables = ", ".join(map(str, row.quoted))
            raise ConfigError(
                f"{path}: row '{row.label}': no such figures in table {tables} of {figure.source}; "
                "see published, published_method and quoted"
            )
    return figure


def load_figures(name: str) -> list[PaperFigure]:
    """One figure, all figures of a paper (``astn``), or ``all`` of them.

    Raises ConfigError as :func:`load_figure` does.
    """
    return [load_figure(n) for n in names_of(name, figure_names())]

"""A sheet of panels, and the three files that a figure becomes.

Panels stand in a grid under the figure's title; below them stand the notes. The files depend on the
drawing alone: no date, and ids of the SVG from a fixed salt.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evalsuite.atomic import write_atomically, write_text_atomically

INK, MUTED, GRID, PAPER = "#1b1d21", "#6a6e76", "#e3e3dd", "#ffffff"
COLOURS = (
    *("#2a6db0", "#d2562f", "#188c6a", "#8a5cbd", "#b3830c", "#c04578", "#3f8c9b", "#8b8f97"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 2, 1.5, 2)))
NAMED = {
    **{"blue": "#2a6db0", "red": "#c8452f", "orange": "#e07b1a"},
    **{"green": "#1f8a55", "gray": "#8b8f97"},
}
"""Colours by the names that the papers give them."""

Rows = Sequence[Mapping[str, Any]]

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "img2shape",
    "text.parse_math": False,  # a class may be called "$5"
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}
_PNG_DPI = 160
_NOTE_SIGNS_PER_INCH, _TITLE_SIGNS_PER_INCH, _PANEL_SIGNS_PER_INCH = 15, 11, 12


@dataclass(frozen=True)
class Drawing:
    """A figure and its numbers, one row of plain values a point, with the same names in all."""

    figure: Figure
    rows: Rows


@contextmanager
def sheet(
    title: str, notes: Sequence[str], *, columns: int, rows: int, width: float, height: float
) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """A figure and its panels, ``rows`` by ``columns``, each ``width`` by ``height`` inches."""
    whole = max(width * columns, 4.0)
    signs = max(40, int(_NOTE_SIGNS_PER_INCH * whole))
    words = [line for note in notes for line in textwrap.wrap(note, signs)]
    heading = textwrap.wrap(title, max(30, int(_TITLE_SIGNS_PER_INCH * whole)))
    top, bottom = 0.2 + 0.22 * len(heading), 0.12 + 0.16 * len(words)
    total = height * rows + top + bottom
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(whole, total), layout="constrained")
        FigureCanvasAgg(figure)
        engine: Any = figure.get_layout_engine()
        inside = (0.0, bottom / total, 1.0, 1.0 - (top + bottom) / total)
        engine.set(rect=inside, w_pad=0.08, h_pad=0.08)
        left = 0.08 / whole
        figure.text(left, 1 - 0.1 / total, "\n".join(heading), va="top", size=12, color=INK)
        figure.text(left, 0.06 / total, "\n".join(words), size=8, color=MUTED)
        yield figure, figure.subplots(rows, columns, squeeze=False).tolist()


def wrapped(words: str, width: float) -> str:
    """A panel's title in lines that ``width`` inches hold."""
    return "\n".join(textwrap.wrap(words, max(12, int(_PANEL_SIGNS_PER_INCH * width))))


def hide(axes: Axes, words: str = "") -> None:
    """A panel without axes; ``words`` say why there is nothing in it."""
    axes.set_axis_off()
    if words:
        axes.text(
            *(0.5, 0.5),
            "\n".join(textwrap.wrap(words, 34)),
            transform=axes.transAxes,
            ha="center",
            va="center",
            size=9,
            color=MUTED,
        )


def save_drawing(drawing: Drawing, stem: Path) -> dict[str, Path]:
    """Write ``stem`` + .svg, .png and .csv, each in one step; returns them by ending.

    Raises OSError if the folder cannot be written.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = {ending: stem.with_name(f"{stem.name}.{ending}") for ending in ("svg", "png", "csv")}
    with mpl.rc_context(_SETTINGS):
        text = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.figure.savefig(text, format="svg", metadata=metadata)
        picture = io.BytesIO()
        drawing.figure.savefig(picture, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    write_text_atomically(files["svg"], text.getvalue())
    write_atomically(files["png"], lambda path: path.write_bytes(picture.getvalue()))
    write_text_atomically(files["csv"], _csv(drawing.rows))
    return files


def _csv(rows: Rows) -> str:
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

"""Matplotlib figures as inline SVG that takes its colours and its typeface from the page around it.

A figure is drawn with placeholder colours, and each placeholder becomes a CSS custom property in
the SVG. So one drawing serves light mode, dark mode and paper. Its words take the font of the page
and stay selectable text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER, ACCENT = "#010101", "#010102", "#010103", "#010104", "#010105"
RUN_COLOURS = tuple(f"#0200{index:02x}" for index in range(8))
CLASS_COLOURS = tuple(f"#0300{index:02x}" for index in range(11))  # the last one: all other classes

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    ACCENT: "var(--accent)",
    **{colour: f"var(--run-{index})" for index, colour in enumerate(RUN_COLOURS)},
    **{colour: f"var(--class-{index})" for index, colour in enumerate(CLASS_COLOURS)},
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "img2shape",
    "text.parse_math": False,  # a class may be called "$5"
    "font.size": 11.0,
    "font.family": ["DejaVu Sans"],
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
}
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_POINTS_PER_INCH = 72  # at this resolution one unit of the drawing is one CSS pixel


def draw(
    width_px: float,
    height_px: float,
    paint: Callable[[Figure], None],
    *,
    name: str,
    description: str,
) -> Markup:
    """One figure as an `<svg>` element ready to stand in a page.

    `paint` receives an empty figure; sizes inside it count in CSS pixels. `name` is a word unique
    on the page (it prefixes the element ids), `description` is read out by screen readers. The text
    depends on the arguments alone.
    """
    text = io.StringIO()
    with mpl.rc_context(_SETTINGS):
        size_inches = (width_px / _POINTS_PER_INCH, height_px / _POINTS_PER_INCH)
        figure = Figure(figsize=size_inches, dpi=_POINTS_PER_INCH)
        FigureCanvasSVG(figure)
        paint(figure)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    return _inline(text.getvalue(), name=name, description=description, width_px=width_px)


def placed_axes(
    figure: Figure, *, left: float, right: float, top: float, bottom: float, grid: str = "y"
) -> Axes:
    """Axes with the four margins given in pixels, so that panels of one grid line up."""
    width, height = figure.get_size_inches() * _POINTS_PER_INCH
    box = (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - top - bottom) / height,
    )
    axes = figure.add_axes(box)
    if grid:
        axes.grid(visible=True, axis=grid)  # pyright: ignore[reportArgumentType]
    return axes


def _inline(svg: str, *, name: str, description: str, width_px: float) -> Markup:
    source = ElementTree.fromstring(svg)
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w.-]+)", svg))
    root = _rewritten(source, name, used)
    root.attrib = {
        "viewBox": source.attrib["viewBox"],
        "role": "img",
        "aria-label": description,
        "style": f"max-width:{width_px * 1.25:.0f}px",
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _rewritten(element: ElementTree.Element, name: str, used: set[str]) -> ElementTree.Element:
    """The element without namespaces, unused ids, own fonts and needless digits."""
    copy = ElementTree.Element(_local(element.tag))
    copy.text = element.text if copy.tag == "text" else None
    for key, value in element.attrib.items():
        key = _local(key)
        if key == "id":
            if value in used:
                copy.set("id", f"{name}-{value}")
        else:
            copy.set(key, _value(key, value, name))
    for child in element:
        # The style sheet inside the figure would apply to the whole page.
        if _local(child.tag) not in ("metadata", "style"):
            copy.append(_rewritten(child, name, used))
    return _hoisted(copy)


def _hoisted(group: ElementTree.Element) -> ElementTree.Element:
    """Move a style common to all markers of a group to the group: a third of the size remains."""
    styles = {child.get("style") for child in group}
    if group.tag == "g" and len(styles) == 1 and all(child.tag == "use" for child in group):
        style = styles.pop()
        if style:
            group.set("style", style)
            for child in group:
                del child.attrib["style"]
    return group


def _value(key: str, value: str, name: str) -> str:
    if key == "href":
        return f"#{name}-{value[1:]}" if value.startswith("#") else value
    if key == "style":
        value = re.sub(r"font-family:[^;]*;?\s*", "", value)
        value = _COLOUR.sub(lambda match: _VARIABLES.get(match[0], match[0]), value)
    value = value.replace("url(#", f"url(#{name}-")
    return " ".join(_NUMBER.sub(lambda match: f"{float(match[0]):.2f}", value).split())


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]

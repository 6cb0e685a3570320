"""The papers' figures as files of their own: SVG, PNG and their numbers as CSV.

May import: evalsuite, evalsuite.pages, evalsuite.scoring, evalsuite.search, evalsuite.statistics.
"""

from evalsuite.figures.canvas import Drawing, save_drawing
from evalsuite.figures.curves import CurvePanel, RunCurve, draw_curves
from evalsuite.figures.domains import DomainPanel, draw_domains
from evalsuite.figures.measures import Bar, BarPanel, Line, LinePanel, draw_bars, draw_lines
from evalsuite.figures.strips import StripPanel, draw_strips

__all__ = [
    "Bar",
    "BarPanel",
    "CurvePanel",
    "DomainPanel",
    "Drawing",
    "Line",
    "LinePanel",
    "RunCurve",
    "StripPanel",
    "draw_bars",
    "draw_curves",
    "draw_domains",
    "draw_lines",
    "draw_strips",
    "save_drawing",
]

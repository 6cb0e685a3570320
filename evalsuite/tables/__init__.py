"""Result tables: ours over seeds beside published figures, as Markdown, LaTeX, CSV and HTML.

May import: evalsuite.scoring, evalsuite.statistics, evalsuite.vectors.
"""

from evalsuite.tables.result_table import Column, Entry, Numbers, ResultTable, build_table
from evalsuite.tables.result_table_export import (
    caption,
    footnotes,
    lines_of,
    text_lines,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
)

__all__ = [
    "Column",
    "Entry",
    "Numbers",
    "ResultTable",
    "build_table",
    "caption",
    "footnotes",
    "lines_of",
    "text_lines",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
]

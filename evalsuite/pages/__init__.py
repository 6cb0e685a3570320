"""Self-contained HTML pages: the report, the page of a sweep, the page of a search.

May import: evalsuite, evalsuite.scoring, evalsuite.search, evalsuite.statistics, evalsuite.tables,
evalsuite.vectors.
"""

from evalsuite.pages.report import build_report
from evalsuite.pages.runs import view_run
from evalsuite.pages.search_page import Answer, Hit, write_search_page
from evalsuite.pages.strips import Thumb, data_uri
from evalsuite.pages.sweep_page import write_sweep_page
from evalsuite.pages.sweep_plots import TransferMatrix

__all__ = [
    "Answer",
    "Hit",
    "Thumb",
    "TransferMatrix",
    "build_report",
    "data_uri",
    "view_run",
    "write_search_page",
    "write_sweep_page",
]
